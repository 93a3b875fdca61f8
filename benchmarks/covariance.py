"""Ancestral sampling with the best variance of each step: `python benchmarks/covariance.py`.

The tables and the picture of docs/research/posterior_covariance.md. The first table is exact
(`evaluation/sampler_law.py`): the standard deviation of samples of normal data with independent
dimensions, over the truth; the dimension of variance 1/4, and the worst of twelve from 1/400 to 4.
The second is of digits: the Frechet distance (pixels) of samples to the test digits. It needs a
workdir where `--mode evaluate` has measured the loss, for the variance by noise level:

    python main.py --mode train,evaluate --config configs/digits.py --workdir runs/digits
    python benchmarks/covariance.py --workdir runs/digits

A minute of processor time, and with a workdir ten more.
"""

from pathlib import Path
from typing import Any

import command
import jax
import jax.numpy as jnp
import numpy as np

import score_sde
from score_sde import solvers
from score_sde.config import build
from score_sde.data.source import gather
from score_sde.evaluation import plots
from score_sde.evaluation.metrics.frechet import frechet_distance
from score_sde.evaluation.sampler_law import Normal, law_after
from score_sde.models import covariance
from score_sde.processes import EDM
from score_sde.sampling import grids

SDE = EDM(t_min=0.002, t_max=80.0)
VARIANCES = np.append(0.25, np.geomspace(1 / 400, 4, 12))
LEVELS = np.linspace(-12, 14, 400)


def by_level():
    """The one variance at each noise level: the mean of those of all dimensions."""
    snr = np.exp(LEVELS)[:, None] * VARIANCES[None, 1:]
    error = (snr / (1 + snr)).mean(axis=1)
    return covariance.by_level(SDE, tuple(LEVELS), tuple(error))


def gaussian(steps: list[int]) -> dict[str, list[float]]:
    """The standard deviation of samples over the truth; the worst dimension is the table's."""
    data = Normal(jnp.zeros(len(VARIANCES)), jnp.asarray(VARIANCES))
    plain = data.denoiser(SDE)
    ways = {
        "small": (solvers.ancestral(SDE), plain),
        "large": (solvers.ancestral(SDE, "large"), plain),
        "by level": (solvers.ancestral(SDE, "learned"), by_level()(plain)),
        "diagonal": (solvers.ancestral(SDE, "learned"), covariance.diagonal(SDE)(plain)),
    }
    print("| variance |", " | ".join(f"{n} steps" for n in steps), "|")
    print("|---" * (len(steps) + 1) + "|")
    found = {}
    for name, (solver, denoiser) in ways.items():
        ratios = []
        for n in steps:
            times = jnp.asarray(grids.karras(SDE, n), float)
            start = data.noised(SDE, times[0])
            truth = data.noised(SDE, times[-1]).variance
            ratio = law_after(solver, denoiser, times, start).variance / truth
            ratios.append(np.sqrt(np.asarray(ratio)))
        cells = [f"{r[0]:.3f} / {r[1:][np.argmax(np.abs(np.log(r[1:])))]:.3f}" for r in ratios]
        print("|", name, "|", " | ".join(cells), "|")
        if name == "diagonal":
            worst = max(float(np.abs(r - 1).max()) for r in ratios)
            print(f"\ndiagonal: at most {worst:.0e} from 1\n")
        found[name] = [float(r[0]) for r in ratios]
    return found


def digits(workdir: Path, steps: list[int], number: int, probes: int) -> dict[str, list[float]]:
    """The Frechet distance of samples to the test digits."""
    model = score_sde.load(workdir)
    ways: dict[str, dict[str, Any]]
    learned = "ancestral(variance='learned')"
    ways = {
        "small": {"solver": "ancestral"},
        "large": {"solver": "ancestral(variance='large')"},
        "by level": {"solver": learned, "variance": f"measured(file='{workdir}/evaluate.json')"},
        "each number": {"solver": learned, "variance": f"hutchinson(probes={probes})"},
        "none (ddim)": {"solver": "ddim"},
    }
    source = model.data.test
    test = gather(source, np.arange(len(source)))["image"]
    truth = _moments(build("codecs", {"name": "pixels"}, model.data.features).show_raw(test))
    print("\n| variance |", " | ".join(f"{n} steps" for n in steps), "|")
    print("|---" * (len(steps) + 1) + "|")
    found = {}
    for name, way in ways.items():
        found[name] = []
        for n in steps:
            drawn = model.sample(jax.random.key(0), number, steps=n, grid="log_snr", **way)
            found[name].append(frechet_distance(*_moments(drawn), *truth))
        print("|", name, "|", " | ".join(f"{x:.3f}" for x in found[name]), "|", flush=True)
    return found


def _moments(images) -> tuple[np.ndarray, np.ndarray]:
    flat = np.asarray(images, np.float64).reshape(len(images), -1) / 255
    return flat.mean(axis=0), np.cov(flat.T)


def draw(path: Path, steps, of_gaussian, of_steps, of_digits) -> None:
    """The standard deviation on normal data, and the distance of digits."""
    with plots.figure(path, 2.7, (1, 2)) as axes:
        for name, values in of_gaussian.items():
            axes[0, 0].plot(steps, values, "o-", label=name)
        axes[0, 0].set(xscale="log", xlabel="steps", ylabel="std of samples / truth (variance 1/4)")
        axes[0, 0].legend()
        for name, values in of_digits.items():
            axes[0, 1].plot(of_steps, values, "o-", label=name)
        axes[0, 1].set(
            xscale="log", yscale="log", xlabel="steps", ylabel="Frechet distance, digits"
        )
        if of_digits:
            axes[0, 1].legend()
        for each, ticks in zip(axes[0], (steps, of_steps), strict=True):
            each.set_xticks(ticks, [str(n) for n in ticks])
            each.minorticks_off()
        ticks = [0.2, 0.3, 0.5, 1.0]
        axes[0, 1].set_yticks(ticks, [str(tick) for tick in ticks])


def main() -> None:
    """Prints the tables."""
    parser = command.parser(__doc__)
    parser.add_argument("--steps", nargs="*", type=int, default=[5, 10, 20, 50])
    parser.add_argument("--workdir", type=Path, help="of a trained model of digits")
    parser.add_argument("--digits_steps", nargs="*", type=int, default=[5, 10, 25])
    parser.add_argument("--number", type=int, default=1500, help="of samples of digits")
    parser.add_argument("--probes", type=int, default=8, help="of hutchinson")
    parser.add_argument("--picture", type=Path, help="a PNG file to draw")
    options = command.parse(parser, steps=[5], digits_steps=[5], number=100)
    jax.config.update("jax_enable_x64", True)
    of_gaussian = gaussian(options.steps)
    jax.config.update("jax_enable_x64", False)
    of_digits = {}
    if options.workdir:
        of_digits = digits(options.workdir, options.digits_steps, options.number, options.probes)
    if options.picture:
        draw(options.picture, options.steps, of_gaussian, options.digits_steps, of_digits)


if __name__ == "__main__":
    main()
