"""How far guidance leads from the class that is asked for: `python benchmarks/saturation.py`.

The denoisers are exact, so that no error of a network is in the figures of docs/guides/guidance.md.
There are two laws. The ring: eight equal Gaussians on a circle of radius 1, each a class, of 2
numbers. The digits: a Gaussian for each class of the real digits, with their mean and their
covariance plus 0.01, of 64 numbers in [-1, 1]. Of samples with all classes in equal parts:

distance: of the mean of a class's samples from the mean of the class;
spread: the root of the variance of a class's samples;
outside: the share of numbers that are not in [-1.5, 1.5].

Distance and spread are in units of the root of the class's variance. The last tables are of few
steps: the median distance of a sample from that of the same noise in four times `--steps`, in the
same units. Six minutes of a processor's time.
"""

import warnings
from functools import partial

import command
import jax
import jax.numpy as jnp
import numpy as np

from score_sde import sampling, solvers
from score_sde.conditioning.conditioner import null
from score_sde.conditioning.labels import Labels
from score_sde.config import build
from score_sde.data import gather
from score_sde.processes import Flow, exact
from score_sde.sampling import grids

SDE = Flow()
UNGUIDED = "classifier_free(weight=1.0)"
GUIDANCE = (
    "classifier_free(weight={})",
    "classifier_free(weight={}, rescale=0.7)",
    "classifier_free(weight={}, interval=(-4.0, 4.0))",
    "apg(weight={})",
    "apg(weight={}, norm=1.0)",
    "cfg_zero_star(weight={}, zero=0.0)",
    "cfg_zero_star(weight={})",
)
IN_FEW_STEPS = (GUIDANCE[0], *GUIDANCE[3:5], GUIDANCE[6])


def ring() -> exact.Labelled:
    """Eight classes on a circle."""
    covs = jnp.broadcast_to(0.01 * jnp.eye(2), (8, 2, 2))
    mixture = exact.Mixture(jnp.full(8, 1 / 8), exact.ring(8).points, covs)
    return exact.Labelled(mixture, jnp.arange(8))


def digits() -> exact.Labelled:
    """Ten classes of digits."""
    data = build("data", "sklearn_digits.digits").train
    batch = gather(data, np.arange(len(data)))
    x, label = batch["image"].reshape(-1, 64) / 8.0 - 1, batch["label"]
    means = np.stack([x[label == k].mean(axis=0) for k in range(10)])
    covs = np.stack([np.cov(x[label == k].T) for k in range(10)]) + 0.01 * np.eye(64)
    arrays = map(partial(jnp.asarray, dtype=float), (np.bincount(label) / len(x), means, covs))
    return exact.Labelled(exact.Mixture(*arrays), jnp.arange(10))


def drawn(law, spec, count, steps) -> np.ndarray:
    """Samples [count, classes, d]."""
    classes, d = law.mixture.means.shape
    cond = {"label": jnp.tile(jnp.arange(classes, dtype=jnp.int32), count)}
    times = grids.log_snr(SDE, steps)
    guidance = build("models.guidance", spec, SDE, times)

    @jax.jit
    def draw(arrays):  # which XLA would work out beforehand, slowly, if they were constants
        of_cond = partial(exact.Labelled(exact.Mixture(*arrays), law.classes).denoiser, SDE)
        denoiser = guidance.guided(of_cond, None)(cond, null(Labels(classes), cond))
        x = SDE.prior_sample(jax.random.key(0), (count * classes, d))
        at = jax.random.key(1), solvers.dpmpp(SDE), denoiser, x, times
        return sampling.sample(*at, denoise=True).x

    arrays = law.mixture.weights, law.mixture.means, law.mixture.covs
    return np.asarray(draw(arrays)).reshape(count, classes, d)


def variance(law) -> np.ndarray:
    """Of each class."""
    return np.trace(law.mixture.covs, axis1=1, axis2=2)


def figures(law, x) -> tuple[float, float, float]:
    """Distance, spread and share outside."""
    away = np.sum((x.mean(axis=0) - law.mixture.means) ** 2, axis=1) / variance(law)
    spread = x.var(axis=0).sum(axis=1) / variance(law)
    return np.sqrt(away).mean(), np.sqrt(spread).mean(), np.mean(np.abs(x) > 1.5)


def error(law, x, truth) -> float:
    """The median distance from the truth."""
    return np.median(np.sqrt(np.sum((x - truth) ** 2, axis=2) / variance(law)))


def main() -> None:
    """Prints Markdown tables."""
    parser = command.parser(__doc__)
    parser.add_argument("--samples", type=int, default=1000, help="of all classes together")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--weights", type=float, nargs="+", default=[2.0, 5.0, 10.0])
    options = command.parse(parser, samples=20, steps=2, weights=[2.0])
    warnings.filterwarnings("ignore", message=".* is large: expect")

    few = [max(options.steps // n, 1) for n in (10, 5, 2)]
    for law in ring(), digits():
        classes, d = law.mixture.means.shape
        print(f"\n| {classes} classes of {d} numbers | distance | spread | outside |")
        print("| --- | --- | --- | --- |")
        specs = [spec.format(w) for w in options.weights for spec in GUIDANCE]
        for spec in (UNGUIDED, *specs):
            x = drawn(law, spec, options.samples // classes, options.steps)
            distance, spread, outside = figures(law, x)
            print(f"| `{spec}` | {distance:.2f} | {spread:.2f} | {outside:.1%} |", flush=True)

        print(f"\n| steps | {' | '.join(map(str, few))} |")
        print(f"| --- | {' | '.join('---' for _ in few)} |")
        for spec in IN_FEW_STEPS:
            for w in 1.0, *options.weights, 2 * options.weights[-1]:
                told, count = spec.format(w), options.samples // (2 * classes)
                truth = drawn(law, told, count, 4 * options.steps)
                errors = [error(law, drawn(law, told, count, steps), truth) for steps in few]
                print(f"| `{told}` | {' | '.join(f'{e:.2f}' for e in errors)} |", flush=True)


if __name__ == "__main__":
    main()
