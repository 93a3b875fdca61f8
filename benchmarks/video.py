"""What clips of moving shapes show, sampled in several ways: `python benchmarks/video.py`.

The rows of docs/guides/video.md: the share of samples whose velocity, colour and form are as asked,
and the share of pairs of neighbouring frames that differ in colour or form; of clips of 8 frames,
and of clips of 32 frames that go on with their last frames. The network is to be trained first:

    python main.py --mode train --config configs/moving_shapes.py --workdir runs/moving_shapes

With `--picture FILE` it writes six of the long clips as one animated PNG.
"""

from pathlib import Path

import command
import jax
import numpy as np

import score_sde
from score_sde.config import build
from score_sde.media.animation import Animation
from score_sde.sampling import grids
from score_sde.sampling.rollout import rollout

SAMPLERS = (  # solver, steps
    ("ddim", 20),
    ("pyramid(delay=0.25)", 40),
    ("pyramid(delay=1.0)", 80),
    ("pyramid(delay=0.25, form='trapezoid')", 40),
)
GIVEN, FRAMES, STEPS = 2, 32, 20  # of the long clips


def longer(model, clips, texts):
    """The clips [n, 8, h, w, 3], gone on with to FRAMES frames."""
    frames = clips.shape[1]
    windows = (FRAMES - GIVEN) // (frames - GIVEN)
    first = model.codec.middle(model.codec.raw_of(clips[:, :GIVEN]))
    times = grids.log_snr(model.process, STEPS)
    denoiser = model.denoiser(prompts=texts)

    @jax.jit
    def run(key, first):
        options = {"frames": frames, "windows": windows, "delay": 0.0}
        return rollout(key, model.process, denoiser, first, times, **options)

    x = run(jax.random.key(1), first)
    return np.asarray(model.codec.show(model.codec.decode(x)))


def row(world, name, clips, wanted):
    """A row of the table."""
    found = [world.read(clip, one) for clip, one in zip(clips, wanted, strict=True)]
    names = ("velocity", "colour", "form", "all", "flicker")
    cells = [f"{100 * np.mean([float(f[key]) for f in found]):.1f} %" for key in names]
    print("|", " | ".join([name, *cells]), "|", flush=True)


def main() -> None:
    """Prints a Markdown table."""
    parser = command.parser(__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/moving_shapes"))
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--picture", type=Path, help="file of six of the long clips")
    options = command.parse(parser, workdir=Path("runs/small/moving_shapes"), samples=8)
    model = score_sde.load(options.workdir)
    world = build("evaluation.worlds", model.config.evaluate.world)
    texts, wanted, _ = world.prompts("clips", options.samples)
    print("| sampler | velocity | colour | form | all | flicker |\n|---|---|---|---|---|---|")
    for solver, steps in SAMPLERS:
        clips = model.sample(
            jax.random.key(0), len(texts), prompts=texts, solver=solver, steps=steps
        )
        row(world, f"`{solver}`, {steps} steps", clips, wanted)
    clips = model.sample(jax.random.key(0), len(texts), prompts=texts)
    long = longer(model, clips, texts)
    row(world, f"{long.shape[1]} frames, each window given {GIVEN}", long, wanted)
    if options.picture is not None:
        shown = long[:6].repeat(12, axis=2).repeat(12, axis=3)
        Animation(width=330).sheet(options.picture, shown)


if __name__ == "__main__":
    main()
