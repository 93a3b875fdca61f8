"""Measured laws of t, and the loss above its floor: `python benchmarks/time_law.py`.

The tables and the picture of docs/research/time_law.md. The first table is of the likelihood loss
of the exact denoiser of 64 independent dimensions, variances e^2 to e^-6, log-SNR from 12 to -12:
the standard deviation of the loss of one example over its mean, in closed form, and that of a law
which is measured in training steps of 128 examples. The second table is of training digits, by
noise level: the least noise error that a denoiser of them can have, dequantised, and how far above
it others are. Trained models are named by their workdirs, after

    python main.py --mode train --config configs/digits.py --workdir runs/digits
    python benchmarks/time_law.py --workdirs runs/digits

A minute of processor time.
"""

import functools
import math
from pathlib import Path
from typing import Any

import command
import jax
import jax.numpy as jnp
import numpy as np

import score_sde
from score_sde.config import build
from score_sde.evaluation import plots
from score_sde.evaluation.loss_floor import loss_floor
from score_sde.evaluation.sampler_law import Normal
from score_sde.processes import EDM, exact
from score_sde.training import time_law

SDE = EDM(t_min=math.exp(-6), t_max=math.exp(6))
VARIANCES = np.exp(np.linspace(2, -6, 64))
LEVELS = (-8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0)
BASE = time_law.log_snr_uniform()


def moments(points: int = 24_000) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """log-SNR, and there the loss, its mean square and its variance, of uniform log-SNR."""
    log_snr = 12 - 24 * (np.arange(points) + 0.5) / points
    snr = np.exp(log_snr)[:, None] * VARIANCES[None]
    v = snr / (1 + snr)
    mean, variance = v.sum(axis=1), 2 * (v**2).sum(axis=1)
    return log_snr, mean, mean**2 + variance, variance


def relative_std(density: np.ndarray) -> tuple[float, float]:
    """Of independent draws and, for many in a batch, of stratified ones."""
    _, mean, second, variance = moments(len(density))
    density = density / np.mean(density)
    independent = np.mean(second / density) - np.mean(mean) ** 2
    found = np.sqrt([independent, np.mean(variance / density)]) / np.mean(mean)
    return float(found[0]), float(found[1])


def measured(floor: float, steps: int) -> np.ndarray:
    """The density of a law, relative to uniform log-SNR, after steps of training."""
    law = time_law.measured(memory=1000.0, floor=floor)
    learning: Any = law.learning
    variances = jnp.asarray(VARIANCES, jnp.float32)

    def step(state, key):
        now = law.at(state)
        key_t, key_z = jax.random.split(key)
        t = now.sample(key_t, SDE, 128)
        snr = variances[None] / t[:, None] ** 2
        error = snr / (1 + snr) * jax.random.normal(key_z, (128, 64)) ** 2
        loss = jnp.sum(error, axis=1) * BASE.density(SDE, t) / now.density(SDE, t)
        return learning.update(state, learning.measure(SDE, state, loss, t)), None

    keys = jax.random.split(jax.random.key(0), steps)
    state, _ = jax.jit(lambda keys: jax.lax.scan(step, learning.init(), keys))(keys)
    t = SDE.t_of_log_snr(jnp.asarray(moments()[0], jnp.float32))
    return np.asarray(law.at(state).density(SDE, t) / BASE.density(SDE, t))


def laws(steps: int) -> dict[str, np.ndarray]:
    """Densities relative to uniform log-SNR, by name."""
    log_snr, mean, second, variance = moments()
    found = {
        "uniform log-SNR": np.ones_like(log_snr),
        "mean loss": mean,
        "root of the second moment (optimal)": np.sqrt(second),
        "std of the loss (optimal, stratified)": np.sqrt(variance),
        "measured": measured(0.001, steps),
        "measured(floor=0.01)": measured(0.01, steps),
    }
    print("| law | relative std | stratified |\n|---|---|---|")
    for name, density in found.items():
        print("|", name, "|", " | ".join(f"{x:.4f}" for x in relative_std(density)), "|")
    return {name: density / density.mean() for name, density in found.items()}


def levels(images: int, workdirs: list[Path]) -> dict[str, np.ndarray]:
    """By noise level, the floor of the loss of some training digits, and what of the affine
    denoiser of their mean and variances, and of trained models, is above it."""
    data = build("data", "digits")
    codec = build("codecs", {"name": "pixels", "dequantize": True}, data.features)
    raw = data.train.parts["image"]
    encoded = jax.jit(codec.encode)(jax.random.key(1), jnp.asarray(raw))
    flat = np.asarray(encoded, np.float32).reshape(len(raw), -1)
    affine = Normal(jnp.asarray(flat.mean(axis=0)), jnp.asarray(flat.var(axis=0)))
    sde = build("processes", "VP")
    ideal = exact.dequantized(raw, data.features["image"].values).denoiser(sde)
    times = sde.t_of_log_snr(jnp.asarray(LEVELS, jnp.float32))
    run = jax.jit(functools.partial(loss_floor, jax.random.key(0), sde), static_argnums=(0, 1))
    chosen = jnp.asarray(flat[:: len(flat) // images][:images])
    found = run(affine.denoiser(sde), ideal, chosen, times)
    rows = {"floor": np.asarray(found.floor), "affine, above it": np.asarray(found.above)}
    for workdir in workdirs:
        model = score_sde.load(workdir)

        def trained(x, t, model=model):
            image = x.reshape(len(x), *model.codec.shape)
            return model.denoiser()(image, t).reshape(x.shape)

        found = run(trained, ideal, chosen, times)
        rows[f"{workdir.name}, above it"] = np.asarray(found.above)
    print("\n| log-SNR |", " | ".join(f"{level:g}" for level in LEVELS), "|")
    print("|---" * (len(LEVELS) + 1) + "|")
    for name, values in rows.items():
        print("|", name, "|", " | ".join(f"{value:.4f}" for value in values), "|")
    return rows


def draw(path: Path, densities: dict[str, np.ndarray], rows: dict[str, np.ndarray]) -> None:
    """The densities of the laws, and the loss by noise level."""
    log_snr = moments()[0]
    with plots.figure(path, 2.9, (1, 2)) as axes:
        left, right = axes[0]
        for name in ("uniform log-SNR", "root of the second moment (optimal)", "measured"):
            left.plot(log_snr, densities[name], label=name, linewidth=1.1)
        left.set(xlabel="log-SNR", ylabel="density of the law of t", ylim=(0, None))
        left.legend(loc="upper left", fontsize=7, bbox_to_anchor=(0, 1.25))
        for name, values in rows.items():
            right.plot(LEVELS, values, "o-", markersize=3, label=name)
        right.set(xlabel="log-SNR", ylabel="noise error of training digits", ylim=(0, 1.02))
        right.legend(loc="upper left", fontsize=7, bbox_to_anchor=(0, 1.25))


def main() -> None:
    """Prints the tables."""
    parser = command.parser(__doc__)
    parser.add_argument("--steps", type=int, default=3000, help="of training, to measure a law")
    parser.add_argument("--images", type=int, default=128, help="digits that the floor is of")
    parser.add_argument("--workdirs", nargs="*", type=Path, default=[], help="of trained digits")
    parser.add_argument("--picture", type=Path, help="a PNG file to draw")
    options = command.parse(parser, steps=20, images=8)
    densities = laws(options.steps)
    rows = levels(options.images, options.workdirs)
    if options.picture:
        draw(options.picture, densities, rows)


if __name__ == "__main__":
    main()
