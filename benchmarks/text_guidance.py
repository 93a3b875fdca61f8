"""Does guidance draw what prompts say? `python benchmarks/text_guidance.py --workdir runs/shapes`.

After `make demo-text`. Each row is a way to sample. The columns are the share of samples in which
all attributes are as asked, for pairs of a colour and a form that training had and for others; and
the spread, the standard deviation of pixels over samples of one prompt, which guidance makes
smaller.
"""

from __future__ import annotations

import time
from pathlib import Path

import command
import jax
import numpy as np

import score_sde
from score_sde.config import build

ROWS = (  # guidance, solver, steps
    ("classifier_free(weight=1.0)", "dpmpp", 20),
    ("classifier_free(weight=2.0)", "dpmpp", 20),
    ("classifier_free(weight=3.0)", "dpmpp", 20),
    ("classifier_free(weight=3.0, interval=(-3.0, 3.0))", "dpmpp", 20),
    ("classifier_free(weight=3.0, rescale=0.7)", "dpmpp", 20),
    ("apg(weight=3.0)", "dpmpp", 20),
    ("cfg_zero_star(weight=3.0)", "dpmpp", 20),
    ("classifier_free(weight=2.0)", "ancestral", 40),
    ("classifier_free(weight=2.0)", "ancestral", 80),
    ("classifier_free(weight=2.0)", "feynman_kac(particles=4)", 20),
)
SAME = 8  # samples of one prompt, for the spread


def main() -> None:
    """Prints the table."""
    parser = command.parser(__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/shapes"))
    parser.add_argument("--prompts", type=int, default=256, help="of each kind")
    parser.add_argument("--rows", type=int, nargs="+", default=list(range(len(ROWS))))
    options = command.parse(parser, workdir=None, prompts=8)
    world = build("evaluation.worlds", "shapes")
    asked = {kind: world.prompts(kind, options.prompts) for kind in world.kinds}
    if options.workdir is None:  # the world alone: a wrong prompt is seen to be one
        wanted = [what for a in asked.values() for what in a.wanted]
        images = build("data", "shapes").test
        found = [world.read(images[i]["image"], what)["all"] for i, what in enumerate(wanted)]
        print(f"pictures of other prompts are as asked in {np.mean(found):.0%}")
        return
    model = score_sde.load(options.workdir)
    print(f"| guidance | solver | steps | {' | '.join(world.kinds)} | spread | seconds |")
    print("|" + "---|" * (5 + len(world.kinds)))
    for number in options.rows:
        guidance, solver, steps = ROWS[number]
        how = {"guidance": guidance, "solver": solver, "steps": steps, "grid": "log_snr"}
        start, shares = time.time(), []
        for kind in world.kinds:
            texts, wanted, _ = asked[kind]
            images = model.sample(jax.random.key(1), len(texts), prompts=texts, **how)
            pairs = zip(images, wanted, strict=True)
            shares.append(np.mean([world.read(image, what)["all"] for image, what in pairs]))
        few = asked[world.kinds[0]].texts[: max(1, options.prompts // SAME)]
        texts = [text for text in few for _ in range(SAME)]
        images = model.sample(jax.random.key(2), len(texts), prompts=texts, **how)
        each = images.reshape(len(few), SAME, -1).astype(float) / 255
        spread = np.sqrt(np.mean(np.var(each, axis=1)))
        cells = [f"`{guidance}`", f"`{solver}`", str(steps), *(f"{s:.3f}" for s in shares)]
        print(
            "|",
            " | ".join([*cells, f"{spread:.4f}", f"{time.time() - start:.0f}"]),
            "|",
            flush=True,
        )


if __name__ == "__main__":
    main()
