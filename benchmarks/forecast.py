"""Forecasts of an AR(2) process against their law: `python benchmarks/forecast.py`.

The table of docs/guides/series.md: the continuous ranked probability score (CRPS) of the last
quarter of series, in units of their standard deviation, and how often the truth is in the middle
80 % of the samples. The first row is the law in closed form. The next have the exact denoiser, so
that only the method errs. A trained model is named by its workdir, after

    python main.py --mode train,edit --config configs/series.py --workdir runs/series
    python benchmarks/forecast.py --workdir runs/series

The exact rows take ten seconds of processor time.
"""

from pathlib import Path

import command
import jax
import jax.numpy as jnp
import numpy as np

from score_sde import solvers
from score_sde.config import build
from score_sde.data.files import read_arrays
from score_sde.data.series import AR2
from score_sde.editing import tasks
from score_sde.evaluation.metrics.forecast import coverage, crps, crps_normal
from score_sde.processes import Flow
from score_sde.processes.exact import Gaussian
from score_sde.sampling import grids

COEFFICIENTS = ((1.6, -0.8), (0.3, 0.5))  # of data/series.py
KNOWN = 0.75
METHODS = ("mmps(iterations=2)", "mmps(iterations=8)", "pigdm")


def row(name: str, source: np.ndarray, results: np.ndarray) -> None:
    """Prints the scores of results [n, k, t, c] of series [n, t, c]."""
    first = round(KNOWN * source.shape[1])
    samples = np.swapaxes(results, 0, 1)[:, :, first:].astype(float)
    truth = source[:, first:].astype(float)
    found, (inside, ideal) = crps(samples, truth), coverage(samples, truth, 0.8)
    numbers = [found.mean(), *found.mean(axis=(0, 1)), found[:, 0].mean(), found[:, -1].mean()]
    print(
        "|", name, "|", " | ".join(f"{n:.3f}" for n in numbers), f"| {inside:.3f} | {ideal:.3f} |"
    )


def of_law(source: np.ndarray) -> None:
    """Prints the row of the closed form."""
    first = round(KNOWN * source.shape[1])
    found = []
    for i, process in enumerate(COEFFICIENTS):
        mean, cov = AR2(*process).forecast(
            source[:, :first, i].astype(float), source.shape[1] - first
        )
        found.append(crps_normal(mean, np.sqrt(np.diag(cov)), source[:, first:, i]))
    numbers = np.stack(found, axis=-1)
    each = [numbers.mean(), *numbers.mean(axis=(0, 1)), numbers[:, 0].mean(), numbers[:, -1].mean()]
    print("| law |", " | ".join(f"{n:.3f}" for n in each), "| 0.800 | 0.800 |")


def main() -> None:
    """Prints the table."""
    parser = command.parser(__doc__)
    parser.add_argument("--series", type=int, default=100, help="how many, in the exact rows")
    parser.add_argument("--samples", type=int, default=39, help="of each")
    parser.add_argument("--workdir", type=Path, help="of a model, after mode edit")
    options = command.parse(parser, series=4, samples=9)
    data = build("data", f"series(train=1, test={options.series}, coefficients={COEFFICIENTS})")
    source = data.test.parts["series"]
    length, channels = source.shape[1:]
    print("| | CRPS | first channel | second | next step | last step | covered | ideal |")
    print("|---|---|---|---|---|---|---|---|")
    of_law(source)
    cov = np.zeros((length, channels, length, channels))
    for i, process in enumerate(COEFFICIENTS):
        cov[:, i, :, i] = AR2(*process).covariance(length)
    law = Gaussian(
        jnp.zeros(length * channels), jnp.asarray(cov.reshape(length * channels, -1), float)
    )
    sde = Flow()
    denoiser = law.denoiser(sde)
    for method in METHODS:
        tools = tasks.Tools(
            shape=(length, channels),
            sde=sde,
            solver=solvers.dpmpp(sde),
            grid=lambda sde: grids.log_snr(sde, 20),
            method=lambda observation, method=method: build("inverse", method, sde, observation),
            completions=options.samples,
        )
        edit = build("editing.tasks", f"forecast(known={KNOWN})", tools)
        run = jax.jit(lambda key, x, edit=edit: edit.run(key, lambda k: denoiser, x).x)
        row(f"exact, `{method}`", source, np.asarray(run(jax.random.key(0), jnp.asarray(source))))
    if options.workdir:
        arrays = read_arrays(options.workdir / "edit.npz")
        of_law(arrays["source"])
        row(str(options.workdir), arrays["source"], arrays["results"])


if __name__ == "__main__":
    main()
