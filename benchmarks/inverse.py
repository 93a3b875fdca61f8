"""How far samplers given y are from exact posteriors: `python benchmarks/inverse.py`.

Two priors whose denoiser is known, on the VP process: "gaussian", correlated in four dimensions, y
of two, and "mixture", `exact.three_gaussians` in two dimensions, y of one. For each several y, with
noise, and as many samples given each of them. The errors of a Gaussian's samples are the RMS, over
observations, of the mean's (and over coordinates, in units of the prior's deviation) and of the
covariance's (in Frobenius' norm, relative to the posterior's); of a mixture's the RMS of the sliced
Wasserstein distance to exact samples, in units of the data. The row "exact" has the errors of
samples of the posterior itself, which is what chance leaves, and "prior" those of samples that know
nothing of y. The ancestral solver, and with it `twisted`, has an error of its own, that falls as
1/steps; particles are those of each of the filters whose samples are taken together. Float64.
Prints a Markdown table, and writes all results as JSON; some ten minutes on two cores.
"""

from __future__ import annotations

import dataclasses
import time

import command
import jax
import jax.numpy as jnp
import numpy as np

from score_sde import sampling
from score_sde.config import build
from score_sde.evaluation import solver_error
from score_sde.evaluation.metrics.wasserstein import sliced_wasserstein
from score_sde.inverse import Observation, observe
from score_sde.inverse.operators import dense
from score_sde.processes import SDE, VP, exact
from score_sde.processes.exact import Gaussian, Mixture
from score_sde.runtime.progress import progress
from score_sde.sampling import grids
from score_sde.types import Key

METHODS = (  # method, solver
    ("replacement", "ancestral"),
    ("repaint(resamplings=5)", "ancestral"),
    ("dps", "ancestral"),
    ("pigdm", "ancestral"),
    ("pigdm", "dpmpp(order=3)"),
    ("ddnm", "its own"),
    ("ddrm", "its own"),
    ("mmps", "ancestral"),
    ("mmps", "dpmpp(order=3)"),
)
NOISE = 0.3


@dataclasses.dataclass(frozen=True)
class Result:
    """The errors of a method on a problem; particles is None where samples know nothing of each
    other. errors: by name."""

    problem: str
    method: str
    solver: str
    particles: int | None
    steps: int
    nfe: int
    seconds: float
    errors: dict[str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A prior, a matrix, and what was measured of points that were drawn from it."""

    name: str
    prior: Mixture
    matrix: jax.Array
    seen: Observation
    samples: int

    def posteriors(self) -> list[Mixture]:
        """The exact one of each observation."""
        return [self.prior.posterior(self.matrix, y, NOISE) for y in self.seen.y]

    def errors(self, x: jax.Array) -> dict[str, float]:
        """Of samples [observations, samples, d]."""
        if self.name == "gaussian":
            scale = np.sqrt(np.diag(self.prior.covs[0]))
            mean, cov = [], []
            for own, truth in zip(np.asarray(x), self.posteriors(), strict=True):
                mean.append((own.mean(axis=0) - truth.means[0]) / scale)
                away = np.cov(own.T) - truth.covs[0]
                cov.append(np.linalg.norm(away) / np.linalg.norm(truth.covs[0]))
            return {"mean": _rms(mean), "covariance": _rms(cov)}
        keys = jax.random.split(jax.random.key(100), 2 * len(x))
        found = [
            sliced_wasserstein(key, own, truth.sample(key_truth, self.samples))
            for key, key_truth, own, truth in zip(
                keys[::2], keys[1::2], x, self.posteriors(), strict=True
            )
        ]
        return {"distance": _rms(found)}


def _rms(values) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(values)))))


def problems(observations: int, samples: int) -> list[Problem]:
    """Both, with so many observations and samples of each posterior."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 4)) / 2
    gaussian = Gaussian(
        jnp.asarray([1.0, -0.5, 0.3, 0.0]), jnp.asarray(root @ root.T + 0.1 * np.eye(4))
    )
    out = []
    for name, prior, matrix in (
        ("gaussian", gaussian, rng.normal(size=(2, 4)) / 2),
        ("mixture", exact.three_gaussians(), np.array([[0.6, 0.8]])),
    ):
        x = prior.sample(jax.random.key(1), observations)
        seen = observe(jax.random.key(2), dense(matrix), x, NOISE)
        out.append(Problem(name, prior, jnp.asarray(matrix), seen, samples))
    return out


def reference(problem: Problem) -> list[Result]:
    """Samples of the posteriors themselves, of which eight sets are drawn, and of the prior."""
    rows = {"exact": (8, problem.posteriors()), "prior": (1, [problem.prior] * len(problem.seen.y))}
    results = []
    for name, (sets, sources) in rows.items():
        found = []
        for key in jax.random.split(jax.random.key(3), sets):
            keys = jax.random.split(key, len(sources))
            drawn = [s.sample(k, problem.samples) for s, k in zip(sources, keys, strict=True)]
            found.append(problem.errors(jnp.stack(drawn)))
        errors = {what: _rms([one[what] for one in found]) for what in found[0]}
        results.append(Result(problem.name, name, "", None, 0, 0, 0.0, errors))
    return results


def measure(
    problem: Problem, sde: SDE, method: str, solver: str, steps: int, particles: int | None = None
) -> Result:
    """A method's errors; with particles, of filters of that size side by side."""
    each = problem.samples // (particles or 1)
    y = jnp.repeat(problem.seen.y, each, axis=0)
    chosen = build("inverse", method, sde, problem.seen._replace(y=y))
    inner = build("solvers", "ancestral" if solver == "its own" else solver, sde)
    times = grids.log_snr(sde, steps)

    @jax.jit
    def draw(key: Key):
        key_x, key_run = jax.random.split(key)
        shape = (len(problem.seen.y) * problem.samples, problem.prior.means.shape[1])
        x = sde.prior_sample(key_x, shape)
        denoiser = chosen.denoiser(problem.prior.denoiser(sde))
        out = sampling.sample(key_run, chosen.solver(inner), denoiser, x, times)
        return out.x.reshape(-1, problem.samples, shape[1]), out.nfe

    run = draw.lower(jax.random.key(4)).compile()
    start = time.perf_counter()
    x, nfe = jax.block_until_ready(run(jax.random.key(4)))
    seconds = time.perf_counter() - start
    errors = problem.errors(x)
    return Result(problem.name, method, solver, particles, steps, int(nfe), seconds, errors)


def main() -> None:
    """Prints the table and writes all results."""
    parser = command.parser(__doc__, out="benchmark_inverse.json")
    parser.add_argument("--steps", nargs="+", type=int, default=[50, 200])
    parser.add_argument("--observations", type=int, default=4)
    parser.add_argument("--samples", type=int, default=8192, help="of each posterior")
    parser.add_argument("--particles", nargs="+", type=int, default=[4, 16, 64, 8192])
    options = command.parse(parser, steps=[2], observations=1, samples=64, particles=[4])
    jax.config.update("jax_enable_x64", True)

    sde, results = VP(t_min=1e-3), []
    runs = [(method, solver, None) for method, solver in METHODS]
    runs += [("twisted", "its own", particles) for particles in options.particles]
    both = problems(options.observations, options.samples)
    with progress(len(both) * len(runs) * len(options.steps), "run", "inverse") as bar:
        for problem in both:
            results += reference(problem)
            for method, solver, particles in runs:
                for steps in options.steps:
                    results.append(measure(problem, sde, method, solver, steps, particles))
                    bar.update()
    print(f"\n{table(results)}", flush=True)
    command.write(options.out, [dataclasses.asdict(result) for result in results])


def table(results: list[Result]) -> str:
    """A line for each method, solver and number of steps, with the errors of both problems."""
    lines: dict[tuple, dict[str, Result]] = {}
    for result in results:
        name = result.method + (f", {result.particles} particles" if result.particles else "")
        lines.setdefault((name, result.solver, result.steps), {})[result.problem] = result
    rows = []
    for (name, solver, steps), found in lines.items():
        gaussian, mixture = found["gaussian"].errors, found["mixture"].errors
        numbers = [gaussian["mean"], gaussian["covariance"], mixture["distance"]]
        nfe = found["gaussian"].nfe
        cells = [name, solver, str(steps or ""), str(nfe or "")]
        rows.append([*cells, *(f"{number:.3f}" for number in numbers)])
    header = ["method", "solver", "steps", "NFE", "Gaussian: mean", "covariance", "mixture: SW2"]
    return solver_error.markdown(header, rows)


if __name__ == "__main__":
    main()
