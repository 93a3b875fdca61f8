"""Before and after an instruction: `python benchmarks/edits.py --workdir runs/shapes_edits`.

After `configs/shapes_edits.py` is trained. It prints the share of instructions of each kind that
are followed, with nothing else changed, for one way to guide. `--picture FILE` draws two of each.
"""

from __future__ import annotations

import tempfile
import textwrap
from pathlib import Path

import command
import jax
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import score_sde
from score_sde.config import build


def edited(workdir: Path, texts: list[str], images: np.ndarray, guidance: str) -> np.ndarray:
    """What the model makes of each image."""
    model = score_sde.load(workdir)
    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(images):
            Image.fromarray(image).save(Path(folder, f"{i:04d}.png"))
        return model.sample(
            jax.random.key(0), len(texts), prompts=texts, images=folder, guidance=guidance
        )


def draw(path: Path, texts: list[str], before: np.ndarray, after: np.ndarray) -> None:
    """A column for each instruction."""
    figure, axes = plt.subplots(2, len(texts), figsize=(1.35 * len(texts), 3.4))
    for column, text, *pair in zip(axes.T, texts, before, after, strict=True):
        column[0].set_title(textwrap.fill(text, 17), fontsize=8)
        for axis, image in zip(column, pair, strict=True):
            axis.imshow(image, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
    axes[0, 0].set_ylabel("before")
    axes[1, 0].set_ylabel("after")
    figure.tight_layout()
    figure.savefig(path, dpi=72)
    command.few_colours(path, 64)


def main() -> None:
    """Prints the shares."""
    parser = command.parser(__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/shapes_edits"))
    parser.add_argument("--prompts", type=int, default=200, help="of each kind")
    parser.add_argument("--guidance", default="classifier_free(weight=2.0)")
    parser.add_argument("--picture", type=Path, help="where to draw it")
    options = command.parse(parser, workdir=None, prompts=4)
    world = build("evaluation.worlds", "shape_edits(max_shapes=1)")
    asked = {kind: world.prompts(kind, options.prompts) for kind in world.kinds}
    texts = [text for a in asked.values() for text in a.texts]
    wanted = [what for a in asked.values() for what in a.wanted]
    before = np.stack([e["source"] for a in asked.values() for e in a.examples])
    # without a model nothing changes, and no instruction is followed
    after = before
    if options.workdir is not None:
        after = edited(options.workdir, texts, before, options.guidance)
    found = [world.read(image, what)["all"] for image, what in zip(after, wanted, strict=True)]
    for kind, share in zip(
        world.kinds, np.mean(np.reshape(found, (len(asked), -1)), 1), strict=True
    ):
        print(f"{kind}: {share:.1%}")
    if options.picture:
        shown = [k * options.prompts + i for k in range(len(asked)) for i in (0, 2)]
        draw(options.picture, [texts[i] for i in shown], before[shown], after[shown])


if __name__ == "__main__":
    main()
