"""The orders at which other libraries' samplers converge, as shipped, beside ours of the same name.

    pip install torch==2.13.0 diffusers==0.42.0 scipy tqdm torchdiffeq torchsde
    pip install --no-deps k-diffusion==0.1.1
    python benchmarks/peer_orders.py

Prints a Markdown table; about a minute. An order is the slope of the endpoint's RMS error in
x/alpha, two of them to a cell: between 120 and 240 steps and between 240 and 480. That they agree
says that the steps are small enough. Everything is float64, the score that of a mixture of
three Gaussians, the grid equally spaced in ln(sigma/alpha) from 20 to .02, put into the schedulers
in the place of their tables. The truth is the probability-flow ODE by an eighth-order method of
SciPy. All methods, ours too, have its states at the first nine noise levels: a start at order 1
would hide the order of the rest.

"zero noise" is a sampler of the reverse SDE that draws zeros for its noise; the truth is then the
ODE of that SDE's drift, the steps being the same integrals at twice the rate. An order claimed for
UniPC-p is p + 1, with the order of the last steps not lowered.

Where a 3M falls short, its second difference lacks a factor of 2 and, in the SDE form of diffusers,
its coefficient (phi_3) has the wrong sign besides: with both put right, errors there are ours.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple
from unittest import mock

import command
import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from score_sde import sampling, solvers
from score_sde.evaluation.solver_error import markdown
from score_sde.processes import EDM
from score_sde.processes.exact import three_gaussians
from score_sde.sampling import grids
from score_sde.types import Solver

try:
    import diffusers
    import torch
    from peers import DIFFUSERS, K_DIFFUSION, float64, k_diffusion_sampling
except ModuleNotFoundError as error:
    raise command.without_peers(__doc__, error) from error

HIGH, LOW = 20.0, 0.02  # sigma/alpha
SAMPLES = 32
STEPS = (120, 240, 480)  # divisible by 3, the evaluations in a step of singlestep methods
START = 9  # noise levels with exact states; also divisible by 3

Denoise = Callable[[np.ndarray, float], np.ndarray]


class Path(NamedTuple):
    """Levels sigma/alpha [n + 1], the true x/alpha at the first ones [START, b, d], at the last."""

    levels: np.ndarray
    start: np.ndarray
    end: np.ndarray

    def error(self, x: np.ndarray) -> float:
        """RMS over samples and coordinates."""
        return float(np.sqrt(np.mean((x - self.end) ** 2)))


class Method(NamedTuple):
    """A sampler of a peer, and ours.

    there: `(denoise, path) -> x/alpha` at the last noise level.
    here: `sde -> solver`. stride: the noise levels that one step of it goes down.
    rate: of dx/d(ln s) = rate (x - D): 1, and 2 for the drift of the reverse SDE.
    """

    name: str
    package: str
    claimed: int
    there: Callable[[Denoise, Path], np.ndarray]
    here: Callable[[EDM], Solver]
    stride: int = 1
    rate: int = 1


def process() -> EDM:
    """The noise levels of the comparison; its x is everybody's x/alpha."""
    return EDM(t_min=LOW, t_max=HIGH)


def true_path(denoise: Denoise, n: int, rate: int) -> Path:
    """The exact trajectories on the grid of n steps."""
    levels = np.asarray(grids.log_snr(process(), n), np.float64)
    x = HIGH * np.random.default_rng(0).standard_normal((SAMPLES, 2))

    def slope(log_s, flat):
        x = flat.reshape(SAMPLES, 2)
        return rate * (x - denoise(x, np.exp(log_s))).ravel()

    # Interval by interval: the interpolant within a step is less accurate than its end.
    states, stops = [x], [*levels[:START], levels[-1]]
    for a, b in pairwise(stops):
        options = {"method": "DOP853", "rtol": 1e-13, "atol": 1e-13}
        path = solve_ivp(slope, (np.log(a), np.log(b)), states[-1].ravel(), **options)
        states.append(path.y[:, -1].reshape(SAMPLES, 2))
    return Path(levels, np.stack(states[:-1]), states[-1])


# There


def by_diffusers(
    scheduler: type, given: dict[str, Any], denoise: Denoise, path: Path, **options
) -> np.ndarray:
    """Steps of a scheduler, which get exact states while there are any; `given` goes to each."""
    levels, alphas = path.levels, 1 / np.hypot(1, path.levels)
    scheduler = scheduler(prediction_type="sample", lower_order_final=False, **options)
    scheduler.set_timesteps(len(levels) - 1)
    scheduler.sigmas = torch.from_numpy(levels)
    scheduler.set_begin_index(0)  # steps are counted and timesteps not looked up
    for i, t in enumerate(scheduler.timesteps):
        if i < START:
            x = torch.from_numpy(alphas[i] * path.start[i])
        if 0 < i <= START and hasattr(scheduler, "last_sample"):  # a corrector goes on from there
            scheduler.last_sample = torch.from_numpy(alphas[i - 1] * path.start[i - 1])
        clean = torch.from_numpy(denoise(x.numpy() / alphas[i], levels[i]))
        x = scheduler.step(clean, t, x, **given).prev_sample
    assert i == len(levels) - 2
    return x.numpy() / alphas[-1]


def by_k_diffusion(
    sampler: Callable[..., torch.Tensor], denoise: Denoise, path: Path, **options
) -> np.ndarray:
    """A sampler whose model first corrects the state when asked at one of the first noise levels.

    All of the samplers hand it the state itself; what Heun's method hands it besides, within a step
    that starts with an exact state and ends where another one is known, is of no consequence.
    """

    def model(x, sigma):
        i = int(np.argmin(np.abs(path.levels - float(sigma[0]))))
        if i < START:
            x.copy_(torch.from_numpy(path.start[i]))
        return torch.from_numpy(denoise(x.numpy(), path.levels[i]))

    x, sigmas = torch.from_numpy(path.start[0].copy()), torch.from_numpy(path.levels)
    return sampler(model, x, sigmas, disable=True, **options).numpy()


# Here


def ours(method: Method, denoiser, path: Path) -> np.ndarray:
    """Our solver on the same noise levels."""
    sde, known = process(), jnp.asarray(path.start[:: method.stride])
    solver = solvers.exact_start(method.here(sde), known)
    times = jnp.asarray(path.levels[:: method.stride])
    still = mock.patch.object(
        jax.random, "normal", lambda key, shape, dtype: jnp.zeros(shape, dtype)
    )
    with still if method.rate > 1 else contextlib.nullcontext():
        run = jax.jit(lambda x: sampling.sample(jax.random.key(0), solver, denoiser, x, times).x)
        return np.asarray(run(known[0]))


def methods() -> list[Method]:
    """All methods, in the order of the table."""
    d, k, partial = diffusers, k_diffusion_sampling(), functools.partial

    def scheduler(kind, given=None, **options):
        return partial(by_diffusers, kind, given or {}, **options)

    zeros = {"variance_noise": torch.zeros(SAMPLES, 2, dtype=torch.float64)}
    to_min = {"final_sigmas_type": "sigma_min"}  # DEIS knows no other end
    multistep = partial(scheduler, d.DPMSolverMultistepScheduler, **to_min)
    sde_3m = multistep(zeros, solver_order=3, algorithm_type="sde-dpmsolver++")
    unipc = partial(scheduler, d.UniPCMultistepScheduler, **to_min)
    deis = scheduler(d.DEISMultistepScheduler, solver_order=3)
    singlestep = scheduler(d.DPMSolverSinglestepScheduler, solver_order=3, **to_min)
    our_3m, our_deis = partial(solvers.dpmpp, order=3), partial(solvers.deis, variable="log_rho")
    our_unipc, our_sde = partial(solvers.unipc, end_order=None), partial(solvers.dpmpp_sde, order=3)
    our_3s = partial(solvers.dpmpp_singlestep, order=3)
    there = partial(partial, by_k_diffusion)
    sde_still = there(k.sample_dpmpp_3m_sde, eta=0.0, noise_sampler=lambda *levels: 0.0)
    return [
        Method("DPM-Solver++(2M)", DIFFUSERS, 2, multistep(solver_order=2), solvers.dpmpp),
        Method("DPM-Solver++(2M)", K_DIFFUSION, 2, there(k.sample_dpmpp_2m), solvers.dpmpp),
        Method("DPM-Solver++(3M)", DIFFUSERS, 3, multistep(solver_order=3), our_3m),
        Method("DPM-Solver++(3M) SDE, eta 0", K_DIFFUSION, 3, sde_still, our_3m),
        Method("SDE-DPM-Solver++(3M), zero noise", DIFFUSERS, 3, sde_3m, our_sde, rate=2),
        Method("DPM-Solver++(3S)", DIFFUSERS, 3, singlestep, our_3s, stride=3),
        Method("DEIS-3", DIFFUSERS, 3, deis, our_deis),
        Method("UniPC-2", DIFFUSERS, 3, unipc(solver_order=2), partial(our_unipc, order=2)),
        Method("UniPC-3", DIFFUSERS, 4, unipc(solver_order=3), partial(our_unipc, order=3)),
        Method("LMS-4", K_DIFFUSION, 4, there(k.sample_lms), solvers.lms),
        Method("Heun", K_DIFFUSION, 2, there(k.sample_heun), solvers.heun),
    ]


def slopes(errors: list[float]) -> str:
    """The orders between neighbours in STEPS."""
    return ", ".join(f"{order:.2f}" for order in -np.diff(np.log(errors)) / np.diff(np.log(STEPS)))


def main() -> None:
    """Prints the table."""
    command.parser(__doc__).parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.filterwarnings("ignore")  # of deprecated options
    diffusers.utils.logging.set_verbosity_error()
    denoiser = three_gaussians().denoiser(process())
    compiled = jax.jit(denoiser)

    def denoise(x, s):
        return np.array(compiled(x, s))

    paths = {rate: [true_path(denoise, n, rate) for n in STEPS] for rate in (1, 2)}
    lines = []
    for method in methods():
        true = paths[method.rate]
        with float64():
            there = [path.error(method.there(denoise, path)) for path in true]
        here = [path.error(ours(method, denoiser, path)) for path in true]
        lines.append(
            [method.name, method.package, str(method.claimed), slopes(there), slopes(here)]
        )
    print(markdown(["method", "library", "claimed", "measured there", "measured here"], lines))


if __name__ == "__main__":
    main()
