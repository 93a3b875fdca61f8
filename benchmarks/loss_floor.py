"""Losses that end at zero: `python benchmarks/loss_floor.py`.

The table and the picture of docs/research/time_law.md that are of the whole loss. A perceptron is
trained by `denoising` on a mixture of three Gaussians whose E[x_0 | x_t] is known, once on few
examples and once on fresh ones at every step. The table has two losses above their floors: that of
the training examples, whose floor is their own, and that of others, whose floor is the law's.

Four minutes of processor time.
"""

import functools
from pathlib import Path

import command
import jax
import jax.numpy as jnp
import numpy as np
import optax

from score_sde.conditioning.labels import Labels
from score_sde.evaluation import plots
from score_sde.evaluation.loss_floor import WholeFloor, whole_floor
from score_sde.models import parametrization
from score_sde.models.model import Model
from score_sde.nets.mlp import MLP
from score_sde.processes import VP, exact
from score_sde.training import time_law, weighting
from score_sde.training.objective import Training
from score_sde.training.objectives.denoising import denoising

SDE, LAW = VP(t_min=1e-3), exact.three_gaussians()
MODEL = Model(
    MLP(features=(128, 128, 128), embedding_dim=32),
    SDE,
    parametrization.edm(parametrization.log_snr(0.25), sigma_data=1.0),
)
OBJECTIVE = denoising(
    MODEL, Labels(1), time_law=time_law.uniform(stratified=True), weighting=weighting.simple()
)
BATCH = 256


def train(points: jax.Array | None, steps: list[int], held_out: jax.Array) -> list[list]:
    """After each number of steps, the two `WholeFloor`s: of the training examples, or of the first
    of those that are drawn, and of others."""
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps[-1]))
    weighted = OBJECTIVE.weighted
    assert weighted is not None
    few = LAW.sample(jax.random.key(1), 1000) if points is None else points
    truths = [
        LAW.denoiser(SDE) if points is None else exact.Dataset(points).denoiser(SDE),
        LAW.denoiser(SDE),
    ]

    def step(carry, i):
        params, state = carry
        key, key_x = jax.random.split(jax.random.fold_in(jax.random.key(2), i))
        chosen = jax.random.choice(key_x, few, (BATCH,))
        x = LAW.sample(key_x, BATCH) if points is None else chosen
        batch = {"x": x, "cond": {"label": jnp.zeros(BATCH, jnp.int32)}}

        def loss(params):
            return jnp.mean(OBJECTIVE.losses(params, key, batch, Training()).value)

        update, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, update), state), None

    run = jax.jit(lambda carry, steps: jax.lax.scan(step, carry, steps)[0])

    @jax.jit
    def compare(params):
        denoiser, found = MODEL.denoiser(params), []
        for x, truth in zip((few, held_out), truths, strict=True):
            draws = -(-20_000 // len(x))
            key = jax.random.key(3)
            found.append(whole_floor(key, SDE, denoiser, truth, x, weighted, draws=draws))
        return found

    params = MODEL.init(jax.random.key(0), few)
    carry, found = (params, optimizer.init(params)), []
    for begin, end in zip([0, *steps[:-1]], steps, strict=True):
        carry = run(carry, jnp.arange(begin, end, dtype=jnp.int32))
        found.append(compare(carry[0]))
    return found


def row(name: str, step: int, found: list[WholeFloor]) -> None:
    """Prints one row."""
    cells = []
    for each in found:
        floor, floor_error, above, above_error = map(float, each)
        cells.append(f"{floor + above:.4f}")
        cells.append(f"{floor:.4f} ± {floor_error:.4f}")
        cells.append(f"{above:.4f} ± {above_error:.4f}")
    print(f"| {name} | {step:,} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Prints a Markdown table."""
    parser = command.parser(__doc__)
    parser.add_argument("--examples", type=int, default=32, help="of the training that has few")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--picture", type=Path, help="a PNG file to draw")
    options = command.parse(parser, steps=20, examples=4)
    steps = [int(n) for n in np.unique(np.geomspace(10, options.steps, 12).astype(int))]
    held_out = LAW.sample(jax.random.key(4), 4000)
    points = LAW.sample(jax.random.key(5), options.examples)
    runs = {f"{options.examples}": points, "fresh ones": None}
    head = ("examples", "steps", "training loss", "floor", "above", "others", "floor", "above")
    print("|", " | ".join(head), "|\n" + "|---" * len(head) + "|")
    losses = {}
    for name, few in runs.items():
        found = losses[name] = train(few, steps, held_out)
        for step, each in zip(steps, found, strict=True):
            row(name, step, each)
    if options.picture:
        draw(options.picture, steps, losses)


def draw(path: Path, steps: list[int], losses: dict[str, list]) -> None:
    """The losses, and what of them is above the floor."""
    with plots.figure(path, 2.7, (1, 2)) as axes:
        for (name, found), line in zip(losses.items(), ("-", "--"), strict=True):
            for i, of in enumerate(("training", "others")):
                colour = plots.COLOURS[i]
                label = f"{of}, {name} examples" if name.isdigit() else f"{of}, {name}"
                plot = functools.partial(
                    axes[0, 0].plot, steps, linestyle=line, color=colour, label=label
                )
                plot([float(each[i].floor + each[i].above) for each in found])
                axes[0, 1].plot(
                    steps, [float(each[i].above) for each in found], linestyle=line, color=colour
                )
        for each, name in zip(axes[0], ("loss", "loss above its floor"), strict=True):
            each.set(xscale="log", yscale="log", xlabel="training step", ylabel=name)
        axes[0, 0].legend(fontsize=7)


if __name__ == "__main__":
    main()
