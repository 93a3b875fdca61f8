"""Learning from images with missing pixels alone: `python benchmarks/corrupted.py`.

The figures and the picture of docs/research/corrupted_data.md.

1. Expectation maximisation of a Gaussian in two dimensions. Two of three examples lack one of
   their two numbers. Its covariance after each round in closed form, and where a round draws x_0 by
   `mmps` in the place of the exact posterior.
2. Digits with pixels missing: rounds of --mode restore and --mode train, in RUNS/MISSING, beside
   training on whole images as long. Frechet distances of pixels to the whole training images, of
   the restored images and of as many samples; the RMS error of restored pixels, in values 0..16.
   With --missing without numbers it is left out.

What is in RUNS already is kept. Four minutes of processor time for each share of missing pixels,
two for whole images. Writes all results as JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import command
import jax
import jax.numpy as jnp
import numpy as np

import score_sde
from configs import digits_corrupted
from score_sde import sampling, solvers
from score_sde.config import build
from score_sde.data import gather
from score_sde.evaluation import plots, solver_error
from score_sde.evaluation.metrics.frechet import frechet_distance
from score_sde.experiment.build import load_data
from score_sde.inverse import Observation
from score_sde.inverse.expectation import Moments, em_round
from score_sde.inverse.operators import masks
from score_sde.modes.restore import restore
from score_sde.modes.train import train
from score_sde.processes import VP
from score_sde.processes.exact import Gaussian
from score_sde.sampling import grids

CORRELATION = 0.6
ROUNDS = (1, 2, 4, 8, 16, 32)


def plane(n: int) -> tuple[np.ndarray, np.ndarray]:
    """n points of variance 1 and covariance CORRELATION, exactly, and what is known: all, the
    first or the second number, each of a third with these moments."""
    z = np.random.default_rng(0).normal(size=(n, 2))
    z -= z.mean(axis=0)
    z = np.linalg.solve(np.linalg.cholesky(z.T @ z / n), z.T).T
    x = z @ np.linalg.cholesky(np.array([[1, CORRELATION], [CORRELATION, 1]])).T
    kept = np.array([[True, True], [True, False], [False, True]])
    return np.tile(x, (3, 1)), np.repeat(kept, n, axis=0)


def sampling_round(y: np.ndarray, known: np.ndarray) -> Callable[[jax.Array, Moments], Moments]:
    """`(key, law) -> law`, a round whose moments are those of draws of x_0 given y."""
    sde, seen = VP(t_min=1e-4), jnp.asarray(known)
    observation = Observation(masks(seen), jnp.where(seen, y, 0), 0.0)
    method = build("inverse", "mmps(iterations=2)", sde, observation)
    solver, times = solvers.dpmpp(sde, order=3), grids.log_snr(sde, 40)

    @jax.jit
    def draw(key, law):
        denoiser = method.denoiser(Gaussian(*law).denoiser(sde))
        key_x, key_run = jax.random.split(key)
        x = sde.prior_sample(key_x, y.shape)
        drawn = sampling.sample(key_run, solver, denoiser, x, times, denoise=True)
        return jnp.where(seen, y, drawn.x)

    def once(key, law):
        x = np.asarray(draw(key, tuple(map(jnp.asarray, law))))
        return Moments(x.mean(axis=0), np.cov(x.T, bias=True))

    return once


def gaussian(n: int, rounds: int) -> dict[str, list[float]]:
    """The covariance by round: "exact", "formula" and "sampled"."""
    x, known = plane(n)
    exact = drawn = Moments(np.zeros(2), np.eye(2))
    sampled = sampling_round(x, known)
    found: dict[str, list[float]] = {"exact": [], "formula": [], "sampled": []}
    for i in range(rounds):
        exact = em_round(exact, x, known)
        drawn = sampled(jax.random.key(i), drawn)
        found["exact"].append(float(exact.cov[0, 1]))
        found["formula"].append(CORRELATION * (1 - (2 / 3) ** (i + 1)))
        found["sampled"].append(float(drawn.cov[0, 1]))
    return found


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Between images scaled to [0, 1]."""
    a, b = (x.reshape(len(x), -1).astype(float) for x in (a, b))
    return frechet_distance(a.mean(axis=0), np.cov(a.T), b.mean(axis=0), np.cov(b.T))


def images(data) -> np.ndarray:
    """All training images."""
    return gather(data.train, np.arange(len(data.train)))["image"]


class Digits:
    """Rounds on digits with a share of pixels missing, in a folder."""

    def __init__(self, missing: float, workdir: Path, options):
        self.missing, self.workdir, self.options = missing, workdir, options
        self.whole = images(build("data", "digits"))
        self.rows: list[dict] = []

    def config(self):
        """Of all modes."""
        config = digits_corrupted.get_config()
        config.data.missing = self.missing
        config.train.sample_every = 0
        config.sampling.steps = self.options.steps
        return config

    def trained(self, steps: int, data: str) -> None:
        """Trains on, and adds a row of samples."""
        config = self.config()
        config.data = data
        config.train.steps = steps
        train(config, self.workdir)
        key, number = jax.random.key(0), self.options.samples
        samples = score_sde.load(self.workdir).sample(key, number)
        self.rows.append({"samples": frechet(samples / 255, self.whole / 16), "steps": steps})

    def restored(self, rounds: int, known: np.ndarray) -> np.ndarray:
        """Restores, and tells of it in the last row."""
        config = self.config()
        config.restore.gaussian = rounds
        restore(config, self.workdir)
        found = images(build("data", f"encoded(path={str(self.workdir / 'restored')!r})"))
        away = (found.astype(float) - self.whole)[np.broadcast_to(known == 0, found.shape)]
        self.rows[-1]["restored"] = frechet(found / 16, self.whole / 16)
        self.rows[-1]["rms"] = float(np.sqrt(np.mean(away**2)))
        return found

    def run(self) -> list[np.ndarray]:
        """All rounds; some images at each stage."""
        first, more, rounds = self.options.first, self.options.more, self.options.rounds
        if not self.missing:
            for i in range(rounds):
                self.trained(first + i * more, "digits()")
            return []
        data = load_data(self.config())
        parts = gather(data.train, np.arange(len(data.train)))
        self.rows.append({"steps": 0})
        shown = [parts["image"], self.restored(self.options.gaussian, parts["known"])]
        for i in range(rounds):
            path = str(self.workdir / "restored")
            self.trained(first + i * more, f"encoded(path={path!r})")
            shown.append(self.restored(0, parts["known"]))
        return [a[:8] for a in (*shown, self.whole)]


def picture(path: Path, law: dict[str, list[float]], shown: list[np.ndarray]) -> None:
    """The covariance by round, and images: as they are known, restored by each model, and whole."""
    with plots.figure(path, 2.6, (1, 2)) as ((left, right),):
        rounds = np.arange(1, len(law["exact"]) + 1)
        left.plot(rounds, law["exact"], label="Gaussian EM")
        left.plot(rounds, law["sampled"], ".", label="draws by mmps")
        left.axhline(CORRELATION, color=plots.GREY, linewidth=0.8)
        left.set(xlabel="round", title="covariance")
        left.legend()
        few = [shown[i] for i in (0, 1, len(shown) - 2, len(shown) - 1)] if shown else []
        rows = [np.concatenate([*np.pad(a[..., 0], ((0, 0), (1, 1), (1, 1)))], axis=1) for a in few]
        right.grid(False)
        if rows:
            right.imshow(np.concatenate(rows), cmap="gray")
            names = ["known", "Gaussian", "network", "whole"]
            right.set_yticks(4.5 + 10 * np.arange(4), names)
        right.set_xticks([])


def main() -> None:
    """Prints the tables, and writes the results."""
    parser = command.parser(__doc__ or "", out="benchmark_corrupted.json")
    parser.add_argument("--points", type=int, default=5_000, help="in each third of the plane")
    parser.add_argument("--plane-rounds", type=int, default=32)
    parser.add_argument("--missing", type=float, nargs="*", default=[0.0, 0.2, 0.4, 0.6])
    parser.add_argument("--runs", type=Path, default=Path("runs/digits_corrupted"))
    parser.add_argument("--gaussian", type=int, default=20, help="rounds of the Gaussian")
    parser.add_argument("--rounds", type=int, default=3, help="of the network")
    parser.add_argument("--first", type=int, default=800, help="steps of the first round")
    parser.add_argument("--more", type=int, default=400, help="steps of each further one")
    parser.add_argument("--steps", type=int, default=20, help="of sampling")
    parser.add_argument("--samples", type=int, default=1500)
    parser.add_argument("--picture", type=Path, help="file of the picture")
    options = command.parse(parser, points=100, plane_rounds=2, missing=[])

    with jax.enable_x64(True):
        law = gaussian(options.points, options.plane_rounds)
    rounds = [n for n in ROUNDS if n <= options.plane_rounds]
    header = ["covariance after", *map(str, rounds)]
    rows = [[name, *(f"{values[n - 1]:.4f}" for n in rounds)] for name, values in law.items()]
    print("\n" + solver_error.markdown(header, rows), flush=True)

    results: dict = {"gaussian": law, "digits": {}}
    shown: list[np.ndarray] = []
    for missing in options.missing:
        digits = Digits(missing, options.runs / f"{100 * missing:g}", options)
        shown = digits.run() or shown
        results["digits"][f"{missing:g}"] = digits.rows
        columns = ("steps", "samples", "restored", "rms")
        lines = [
            [f"{row[name]:.4g}" if name in row else "" for name in columns] for row in digits.rows
        ]
        print(
            f"\n{100 * missing:g} % missing\n" + solver_error.markdown(columns, lines), flush=True
        )
    command.write(options.out, results)
    if options.picture:
        picture(options.picture, law, shown)


if __name__ == "__main__":
    main()
