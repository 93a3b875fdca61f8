"""The least error of our solvers by number of network evaluations: `python benchmarks/solvers.py`.

Two problems whose denoiser is known: "ring", eight Gaussians of deviation .1 on the unit circle,
and "fashion", 1,000 images of Fashion-MNIST in [-1, 1], each blurred by N(0, .1^2). Two processes:
EDM's from noise level 80 to .002, and DDPM's linear table of 1,000 steps, from 157 to .01. Every
solver ends with E[x_0 | x], which counts, or stops at the least noise level. The error is the RMS,
over samples and coordinates, of the end against the probability-flow ODE from the same start,
followed to 1e-6 or to that least noise level. Float64.

The samplers in benchmarks/learned come from other starts, and end without E[x_0 | x].
`--peers` puts other libraries' samplers from the same starts beside them (`benchmarks/peers.py`
says what it needs). Prints a Markdown table for each problem, and writes all results as JSON.

On "fashion" the flow splits between images: an error there is mostly how many samples ended in
another image, and differs between seeds.
"""

from __future__ import annotations

import os

os.environ["XLA_FLAGS"] = (  # many small programs: compiling is most of the work
    os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
)

import dataclasses
import gzip
import itertools
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import command
import jax
import jax.numpy as jnp
import numpy as np

from score_sde import sampling
from score_sde.config import build
from score_sde.errors import ConfigError
from score_sde.evaluation import solver_error
from score_sde.processes import DDPM, EDM, SDE, exact
from score_sde.runtime.progress import progress
from score_sde.sampling import grids
from score_sde.solvers import probability_flow
from score_sde.types import Denoiser, expand

NFES = (5, 6, 8, 10, 15, 20, 30, 40)
PROCESSES = {"EDM": EDM(), "DDPM": DDPM()}
SOLVERS = (
    "ddim",
    "dpmpp",
    "dpmpp(end_order=1)",
    "dpmpp(slope='exact')",
    "dpmpp(order=3)",
    "dpmpp(order=3, end_order=1)",
    "dpmpp(order=3, start_order=2)",
    "deis",
    "deis(order=2, variable='log_rho')",
    "deis(order=3, variable='log_rho')",
    "deis(order=4, variable='log_rho')",
    "lms",
    "ipndm(order=3, variable_step=False)",
    "ipndm(variable_step=False)",
    "unipc(order=1)",
    "unipc",
    "unipc(order=3)",
    "unipc(prediction='eps')",
    "unipc(order=3, prediction='eps')",
    "sa_solver(tau=0.0)",
    "heun",
    "dpm2",
    "dpm_solver",
    "dpmpp_singlestep",
    "dpmpp_singlestep(order=3)",
)
GRIDS = (
    "log_snr",
    "polyexponential(rho=0.5)",
    "polyexponential(rho=0.7)",
    "polyexponential(rho=1.5)",
    "karras(rho=3.0)",
    "karras",
    "karras(rho=14.0)",
    "searched(name='ays')",
    "searched(name='gits')",
    "uniform",
    "linspace",
    "leading",
    "trailing",
)


@dataclasses.dataclass(frozen=True)
class Result:
    """The error of a method within a number of evaluations. group: the column of the table."""

    group: str
    method: str
    grid: str
    process: str
    budget: int
    nfe: int
    error: float


Source = Callable[[int], Iterable[Result]]
"""All results of a group of methods within a number of evaluations."""


def fashion(path: Path) -> exact.Dataset | None:
    """The first 1,000 images of an IDX file (Debian's package dataset-fashion-mnist has it)."""
    try:
        raw = gzip.decompress(path.read_bytes())
    except OSError as error:
        print(f"fashion is left out: {error}")
        return None
    images = np.frombuffer(raw, np.uint8, count=1000 * 784, offset=16).reshape(1000, 784)
    return exact.Dataset(jnp.asarray(images / 127.5 - 1), std=0.1)


def denoiser(data: exact.Dataset, sde: SDE) -> Denoiser:
    """That of `exact.Dataset` by one product of matrices.

    Float64 affords the expanded square, since std^2 stays in the variance at every noise level.
    """
    points = data.points
    squares = jnp.sum(points**2, axis=1)[None]

    def denoise(x, t):
        alpha, sigma = expand(sde.alpha(t), x), expand(sde.sigma(t), x)
        variance = (alpha * data.std) ** 2 + sigma**2
        away = alpha**2 * squares - 2 * alpha * x @ points.T  # |x|^2 is the same for all points
        mean = jax.nn.softmax(-away / (2 * variance), axis=1) @ points
        return mean + alpha * data.std**2 / variance * (x - alpha * mean)

    return denoise


def end_of_flow(data: exact.Dataset, sde: SDE, x: jax.Array, level: float = 0.0) -> jax.Array:
    """Where the flow from x at t_max is, over alpha, at a noise level sigma/alpha; or at its end.
    x/alpha of every process follows that of EDM, whose t is sigma/alpha."""
    start = sde.alpha(jnp.asarray(sde.t_max))
    whole = EDM(t_min=level or 1e-6, t_max=float(sde.sigma(jnp.asarray(sde.t_max)) / start))
    flow = probability_flow(whole, rtol=1e-9, atol=1e-9, method="Dopri8")

    def follow(x):
        times = grids.uniform(whole, 1)
        key = jax.random.key(0)  # nothing is drawn
        return sampling.sample(key, flow, denoiser(data, whole), x, times, denoise=not level).x

    truth = jax.jit(follow)(x / start)
    if not jnp.all(jnp.isfinite(truth)):
        raise RuntimeError("the ODE that is the truth did not converge")
    return truth


def ours(
    data: exact.Dataset, noise: np.ndarray, name: str, chosen: Iterable[str], denoise: bool
) -> Source:
    """Our solvers on our grids, by one process from `prior_std * noise`; without `denoise` they
    stop at t_min, and the error is against the flow there."""
    sde = PROCESSES[name]
    x = sde.prior_std * jnp.asarray(noise)
    alpha, sigma = (f(jnp.asarray(sde.t_min)) for f in (sde.alpha, sde.sigma))
    truth = end_of_flow(data, sde, x, 0.0 if denoise else float(sigma / alpha))
    solvers = {text: build("solvers", text, sde) for text in chosen}

    def within(budget):
        for text, solver in solvers.items():
            # `steps_within` counts the denoising
            allowed = budget if denoise else budget + 1
            steps = solver_error.steps_within(solver, lambda n: grids.log_snr(sde, n), allowed)
            if steps is None:
                continue
            times = {}
            for grid in GRIDS:
                try:
                    times[grid] = build("sampling.grids", grid, sde, steps)
                except ConfigError:  # two of so many times are equal, or there are no whole steps
                    continue

            def draw(times, solver=solver):
                key = jax.random.key(0)  # nothing is drawn
                return sampling.sample(key, solver, denoiser(data, sde), x, times, denoise=denoise)

            out = sampling.sweep(draw, times=jnp.stack(list(times.values())))
            for i, grid in enumerate(times):
                end = out.x[i] if denoise else out.x[i] / alpha
                error = solver_error.rms_error(end, truth).value
                method = text if denoise else f"{text} to t_min"
                yield Result("score_sde", method, grid, name, budget, int(out.nfe[i]), error)

    return within


def learned(name: str, data: exact.Dataset, noise: np.ndarray) -> Source:
    """The samplers that `benchmarks/learned.py` learned, from starts that no training has seen."""
    sde = PROCESSES["EDM"]
    x = sde.prior_std * jnp.asarray(noise)
    truth = end_of_flow(data, sde, x)

    def within(budget):
        path = Path(__file__).parent / "learned" / f"{name}_{budget}.json"
        if not path.exists():
            return
        times = build("sampling.grids", {"name": "learned", "path": str(path)}, sde, budget)
        solver = build("solvers", {"name": "learned", "path": str(path)}, sde)
        out = sampling.sample(jax.random.key(0), solver, denoiser(data, sde), x, times)
        error = solver_error.rms_error(out.x, truth).value
        yield Result("learned", "learned", path.name, "EDM", budget, int(out.nfe), error)

    return within


def peers(name: str, noise: np.ndarray) -> Source:
    """Other libraries' methods from the same starts."""
    import peers

    problem = {"ring": peers.ring, "fashion": peers.fashion}[name]()
    truth = peers.truth(problem, noise)

    def within(budget):
        for error, peer, nfe in peers.errors(problem, noise, budget, truth):
            process = {peers.K_DIFFUSION: "EDM", peers.DIFFUSERS: "DDPM"}[peer.package]
            method = f"{peer.package} {peer.name}"
            yield Result("peers", method, peer.grid, process, budget, nfe, error)

    return within


def main() -> None:
    """Prints a table for each problem and writes all results."""
    default = os.environ.get("FASHION_MNIST", Path("/usr", "share", "datasets", "fashion-mnist"))
    parser = command.parser(__doc__, out="benchmark_solvers.json")
    parser.add_argument("--problems", nargs="+", default=["ring", "fashion"])
    parser.add_argument("--processes", nargs="+", default=[*PROCESSES], choices=[*PROCESSES])
    parser.add_argument("--solvers", nargs="+", default=SOLVERS)
    parser.add_argument("--nfe", nargs="+", type=int, default=NFES)
    parser.add_argument("--samples", type=int, default=0, help="2048 of ring, 64 of fashion")
    parser.add_argument("--fashion", type=Path, default=default, help="folder of the IDX files")
    parser.add_argument("--peers", action="store_true")
    options = command.parse(
        parser, problems=["ring"], processes=["EDM"], solvers=["ddim", "dpmpp"], nfe=[5], samples=64
    )
    jax.config.update("jax_enable_x64", True)

    results: dict[str, list[Result]] = {}
    for name in options.problems:
        if name == "ring":
            data, samples = exact.ring(), 2048
        else:
            data, samples = fashion(Path(options.fashion) / "train-images-idx3-ubyte.gz"), 64
        if data is None:
            continue
        shape = options.samples or samples, data.points.shape[1]
        noise = np.random.default_rng(0).standard_normal(shape)
        sources = [
            ours(data, noise, process, options.solvers, denoise)
            for process, denoise in itertools.product(options.processes, (True, False))
        ]
        sources.append(learned(name, data, noise))
        if options.peers:
            sources.append(peers(name, noise))
        with progress(len(sources) * len(options.nfe), "budget", name) as bar:
            results[name] = []
            for source in sources:
                for budget in options.nfe:
                    results[name] += source(budget)
                    bar.update()
        print(f"\n{name}, {shape[0]} samples\n\n{best_table(results[name])}", flush=True)
    rows = {name: [dataclasses.asdict(row) for row in found] for name, found in results.items()}
    command.write(options.out, rows)


def best_table(results: list[Result]) -> str:
    """For each group the least error by number of evaluations, and whose it is."""
    finite = [result for result in results if math.isfinite(result.error)]
    groups = list(dict.fromkeys(result.group for result in finite))
    lines = []
    for budget in sorted({result.budget for result in finite}):
        line = [str(budget)]
        for group in groups:
            of_group = [r for r in finite if (r.group, r.budget) == (group, budget)]
            best = min(of_group, key=lambda r: r.error, default=None)
            line += (
                ["", ""]
                if best is None
                else [solver_error.short(best.error), f"{best.method}, {best.grid}, {best.process}"]
            )
        lines.append(line)
    header = ["NFE", *(cell for group in groups for cell in (f"{group}: error", "by"))]
    return solver_error.markdown(header, lines)


if __name__ == "__main__":
    main()
