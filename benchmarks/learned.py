"""Learned samplers of the problems of `benchmarks/solvers.py`, fitted and measured.

    python benchmarks/learned.py                      # measures the files in benchmarks/learned
    python benchmarks/learned.py --fit                # makes them anew first
    python benchmarks/learned.py --fit --problems ring --nfe 5 10

"ring" is eight Gaussians of deviation .1 on the unit circle, "fashion" 1,000 images of
Fashion-MNIST in [-1, 1], each blurred by N(0, .1^2), with their exact denoisers; the process is
EDM's from noise level 80 to .002. benchmarks/learned/PROBLEM_NFE.json holds the sampler of so many
evaluations. They end with E[x_0 | x], so nothing is added at the end.

Three sets of starts, from three keys: the gradient sees the first; the second chooses the iterate;
the errors printed are those of the third, in float64. The error is the RMS, over samples and
coordinates, of the end against that of the probability-flow ODE.

The five of ring took 25 minutes on two cores that did other work too, in float64; fashion is
learned in float32, three to seven minutes each.
"""

from __future__ import annotations

import functools
import gzip
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import command
import jax
import jax.numpy as jnp
import numpy as np

from score_sde import sampling, solvers
from score_sde.evaluation import solver_error
from score_sde.processes import EDM, exact
from score_sde.sampling import grids, learn_solver
from score_sde.types import Denoiser

FILES = Path(__file__).parent / "learned"
NFES = (5, 6, 8, 10, 15)
SDE = EDM()


class Problem(NamedTuple):
    """Points [k, d], each blurred by N(0, .1^2), and how its samplers are learned.

    train, held_out, test: numbers of pairs. flow: steps of their flow. options: those of `fit`.
    """

    points: Callable[[], np.ndarray]
    dtype: type
    train: int
    held_out: int
    test: int
    flow: int
    options: dict[str, float]


def ring() -> np.ndarray:
    """The means of `exact.ring`."""
    return np.asarray(exact.ring().points)


def fashion() -> np.ndarray:
    """The first 1,000 images of Fashion-MNIST (Debian's package dataset-fashion-mnist), or of the
    folder FASHION_MNIST."""
    default = Path("/usr", "share", "datasets", "fashion-mnist")
    folder = Path(os.environ.get("FASHION_MNIST", default))
    raw = gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())
    images = np.frombuffer(raw, np.uint8, count=1000 * 784, offset=16)
    return images.reshape(1000, 784) / 127.5 - 1


PROBLEMS = {
    "ring": Problem(
        ring,
        np.float64,
        train=2**14,
        held_out=2**15,
        test=2**16,
        flow=128,
        options={"steps": 500, "batch_size": 512, "learning_rate": 0.01, "polish": 800},
    ),
    "fashion": Problem(
        fashion,
        np.float32,
        train=8192,
        held_out=2048,
        test=2048,
        flow=64,
        options={"steps": 800, "batch_size": 128, "learning_rate": 0.05},
    ),
}


def denoiser(points: np.ndarray, dtype: type) -> Denoiser:
    """E[x_0 | x_0 + t z = x] by one product of matrices; std^2 in the variance keeps the expanded
    square precise at every noise level."""
    points = jnp.asarray(points, dtype)
    squares = jnp.sum(points**2, axis=1)[None]

    def denoise(x, t):
        variance = 0.01 + t**2
        responsibility = jax.nn.softmax((x @ points.T - squares / 2) / variance, axis=1)
        mean = responsibility @ points
        return mean + 0.01 / variance * (x - mean)

    return denoise


def fit(name: str, nfes: list[int]) -> None:
    """Learns the samplers of a problem and writes their files."""
    problem = PROBLEMS[name]
    points = problem.points()
    denoise = denoiser(points, problem.dtype)
    draw = functools.partial(_pairs, problem, denoise)
    train, held_out = draw(0, problem.train), draw(1, problem.held_out)
    for n in nfes:
        began = time.perf_counter()
        fitted = learn_solver.fit(
            jax.random.key(n), SDE, denoise, train, held_out, n, **problem.options
        )
        learn_solver.save(
            FILES / f"{name}_{n}.json",
            fitted.coefficients,
            problem=name,
            train_error=fitted.train_error,
            held_out_error=fitted.held_out_error,
            seconds=round(time.perf_counter() - began),
        )


def _pairs(problem, denoise, seed, count) -> learn_solver.Pairs:
    """The starts of seed 0 are for the gradient, of 1 for the choice, of 2 for the figures."""
    shape = (problem.points().shape[1],)
    key = jax.random.key(seed)
    batch = 4096 if shape[0] < 16 else 512
    return learn_solver.pairs(
        key,
        SDE,
        denoise,
        shape,
        count,
        batch_size=batch,
        steps=problem.flow,
        dtype=problem.dtype,
    )


def measure(
    name: str, nfes: list[int], starts: int | None = None
) -> dict[int, tuple[solver_error.Estimate, int]]:
    """The error on fresh starts, and the number of evaluations, of each sampler in the files."""
    problem = PROBLEMS[name]._replace(dtype=np.float64)
    denoise = denoiser(problem.points(), np.float64)
    test = _pairs(problem, denoise, 2, starts or problem.test)
    results = {}
    for n in nfes:
        path = str(FILES / f"{name}_{n}.json")
        solver, times = solvers.learned(SDE, path), grids.learned(SDE, n, path)

        @jax.jit
        def draw(x, solver=solver, times=times):
            return sampling.sample(jax.random.key(0), solver, denoise, x, times)

        parts = [draw(x) for x in np.array_split(test.start, max(1, len(test.start) // 1024))]
        end = np.concatenate([part.x for part in parts])
        results[n] = solver_error.rms_error(end, test.end), int(parts[0].nfe)
    return results


def main() -> None:
    """Fits if asked to, and prints a table of errors."""
    parser = command.parser(__doc__)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--problems", nargs="+", default=[*PROBLEMS], choices=[*PROBLEMS])
    parser.add_argument("--nfe", nargs="+", type=int, default=NFES)
    parser.add_argument(
        "--starts", type=int, help="of the figures (default: 65,536; fashion 2,048)"
    )
    options = command.parse(parser, problems=["ring"], nfe=[5], starts=64)
    jax.config.update("jax_enable_x64", True)
    FILES.mkdir(exist_ok=True)
    print("| problem | NFE | error on fresh starts | standard error |\n|---|---|---|---|")
    for name in options.problems:
        if options.fit:
            fit(name, options.nfe)
        for error, nfe in measure(name, options.nfe, options.starts).values():
            line = f"| {name} | {nfe} | {error.value:.2e} | {error.standard_error:.0e} |"
            print(line, flush=True)


if __name__ == "__main__":
    main()
