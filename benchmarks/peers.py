"""Other libraries' samplers with an exact denoiser: k-diffusion 0.1.1 and diffusers 0.42.

    pip install torch==2.13.0 diffusers==0.42.0 scipy tqdm torchdiffeq torchsde
    pip install --no-deps k-diffusion==0.1.1
    python benchmarks/peers.py

Prints, by number of denoiser evaluations, the smallest error of any deterministic method on any of
its grids, with the library's defaults and with any option; twenty minutes on two cores, nearly all
of them for "fashion". `entries` gives the methods one by one.

The error is the RMS, over samples and coordinates, of x/alpha against the probability-flow ODE from
the same start, followed to the noise level sigma/alpha at which the method ends: 0 where its last
step goes there, as most do by default; .01, the least of diffusers' table, for DEIS, PNDM,
SA-Solver and DPM-Solver without "++"; .002 for DPM fast. Everything is float64, and every call of
the denoiser counts. The denoiser is asked at the noise level that the scheduler holds and not at
the timestep rounded from it, so that only the method's own error remains.

k-diffusion starts from 80 z at noise level 80; diffusers from x_T = z at the end of its linear
table, noise level 157, also where a grid ("leading") begins below it.

On "fashion" the flow splits between images: an error there tells mostly how many samples ended in
another image than the truth, and differs between seeds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import importlib
import importlib.util
import math
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import command
import numpy as np
from scipy.integrate import solve_ivp

try:
    import diffusers
    import torch
except ModuleNotFoundError as error:
    raise command.without_peers(__doc__, error) from error

Tensor = torch.Tensor

K_DIFFUSION, DIFFUSERS = "k-diffusion", "diffusers"
ALPHAS2 = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))  # diffusers' default table
LEVELS = np.sqrt(1 / ALPHAS2 - 1)  # sigma/alpha by timestep
START = {K_DIFFUSION: 80.0, DIFFUSERS: float(LEVELS[-1])}
ENDS = (float(LEVELS[0]), 0.002, 0.0)  # the noise levels at which methods end
NFES = (5, 6, 8, 10, 15, 20, 30, 40)


def k_diffusion_sampling() -> types.ModuleType:
    """`k_diffusion.sampling` alone.

    The package's `__init__` imports its training code and with it torchvision, wandb, CLIP, ...;
    the samplers need torchdiffeq, torchsde, scipy, tqdm and one broadcast helper.
    """
    if "k_diffusion" not in sys.modules:
        spec = importlib.util.find_spec("k_diffusion")
        if spec is None:
            raise ModuleNotFoundError("k_diffusion: pip install --no-deps k-diffusion==0.1.1")
        package = types.ModuleType("k_diffusion")
        package.__path__ = list(spec.submodule_search_locations)
        utils = types.ModuleType("k_diffusion.utils")
        utils.append_dims = lambda x, ndim: x.reshape(x.shape + (1,) * (ndim - x.ndim))
        package.utils = utils
        sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
    return importlib.import_module("k_diffusion.sampling")


@contextlib.contextmanager
def float64():
    """Makes the peers compute in float64 throughout.

    diffusers names float32 in its tables and casts samples to it; a grid of k-diffusion has the
    default dtype. Inside this context those names mean float64.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with (
            mock.patch.object(torch, "float32", torch.float64),
            mock.patch.object(np, "float32", np.float64),
        ):
            yield
    finally:
        torch.set_default_dtype(default)


# The problems and their truth


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Points [n, d], each blurred by N(0, std^2): the data, with its exact denoiser."""

    name: str
    points: Tensor
    std: float

    def denoise(self, x: Tensor, s: float) -> Tensor:
        """E[x_0 | x_0 + s z = x], x [b, d]."""
        variance = self.std**2 + s**2
        squares = (self.points**2).sum(1) - 2 * x @ self.points.T  # |x|^2 is the same for all
        mean = torch.softmax(-squares / (2 * variance), dim=1) @ self.points
        return mean + self.std**2 / variance * (x - mean)

    def noise(self, n: int, seed: int = 0) -> np.ndarray:
        """The standard normal z [n, d] from which all methods start."""
        return np.random.default_rng(seed).standard_normal((n, self.points.shape[1]))


def ring() -> Problem:
    """Eight Gaussians on the unit circle, in two dimensions."""
    angles = 2 * math.pi * torch.arange(8, dtype=torch.float64) / 8
    return Problem("ring", torch.stack([angles.cos(), angles.sin()], dim=1), 0.1)


def fashion(directory: str | None = None) -> Problem | None:
    """The first 1,000 images of Fashion-MNIST in [-1, 1], or None (and a line) without its files.

    They are the IDX files of Debian's dataset-fashion-mnist, looked for in `directory`, else in
    $FASHION_MNIST, else where that package puts them.
    """
    default = Path("/usr", "share", "datasets", "fashion-mnist")
    path = Path(directory or os.environ.get("FASHION_MNIST") or default)
    try:
        raw = gzip.decompress((path / "train-images-idx3-ubyte.gz").read_bytes())
    except OSError as error:
        print(f"fashion is left out: {error}")
        return None
    images = np.frombuffer(raw, np.uint8, count=1000 * 784, offset=16).reshape(1000, 784)
    return Problem("fashion", torch.from_numpy(images / 127.5 - 1), 0.1)


def follow(problem: Problem, x: Tensor, s: float, end: float, tolerance: float) -> Tensor:
    """The probability-flow ODE dx/d(ln s) = x - D(x, s) from noise level s to `end`."""

    def slope(log_s, flat):
        x = torch.from_numpy(flat).reshape(-1, problem.points.shape[1])
        return (x - problem.denoise(x, math.exp(log_s))).numpy().ravel()

    # Far below std nothing moves: x(s) - x(0) is about x (s / std)^2 / 2.
    span = math.log(s), math.log(max(end, 1e-6))
    tolerances = {"rtol": tolerance, "atol": tolerance}
    path = solve_ivp(slope, span, x.numpy().ravel(), method="DOP853", **tolerances)
    return torch.from_numpy(path.y[:, -1]).reshape(x.shape)


Truth = dict[tuple[str, float], Tensor]


def truth(problem: Problem, noise: np.ndarray, tolerance: float = 1e-9) -> Truth:
    """The true x/alpha by library and noise level of the end."""
    ends = {}
    for library, s in START.items():
        x = torch.from_numpy(noise) * (s if library == K_DIFFUSION else math.hypot(1, s))
        for end in ENDS:
            x = ends[library, end] = follow(problem, x, s, end, tolerance)
            s = end
    return ends


# The methods


class Run(NamedTuple):
    """What a method gave: x/alpha [b, d], the evaluations it used, sigma/alpha at its end."""

    x: Tensor
    nfe: int
    level: float

    def error(self, library: str, truth: Truth) -> float:
        """RMS against the truth at the noise level of the end; NaN where the method broke down."""
        nearest = min(ENDS, key=lambda end: abs(end - self.level))
        return float((self.x - truth[library, nearest]).square().mean().sqrt())


@dataclasses.dataclass(frozen=True)
class Peer:
    """A deterministic method on a grid.

    run: `(problem, noise [b, d], nfe) -> Run` with at most nfe evaluations, or None where so few
        are not enough for one.
    default: whether all but the method's order and grid is as the library has it.
    """

    package: str
    name: str
    grid: str
    default: bool
    run: Callable[[Problem, np.ndarray, int], Run | None]


def entries() -> list[Peer]:
    """All methods on all of their grids."""
    return [*_k_diffusion_peers(), *_diffusers_peers()]


def _k_diffusion_peers() -> Iterator[Peer]:
    """Levels from 80 to .002 and then 0; the step to 0 takes one evaluation."""
    k, partial = k_diffusion_sampling(), functools.partial
    still = {"eta": 0.0, "noise_sampler": lambda *levels: 0.0}
    samplers = {  # name -> sampler, evaluations a step
        "Euler": (k.sample_euler, 1),
        "Heun": (k.sample_heun, 2),
        "DPM-2": (k.sample_dpm_2, 2),
        "LMS": (k.sample_lms, 1),
        "DPM++2S": (partial(k.sample_dpmpp_2s_ancestral, **still), 2),
        "DPM++2M": (k.sample_dpmpp_2m, 1),
        "DPM++SDE eta 0": (partial(k.sample_dpmpp_sde, **still), 2),
        "DPM++2M SDE eta 0": (partial(k.sample_dpmpp_2m_sde, **still), 1),
        "DPM++2M SDE heun eta 0": (
            partial(k.sample_dpmpp_2m_sde, solver_type="heun", **still),
            1,
        ),
        "DPM++3M SDE eta 0": (partial(k.sample_dpmpp_3m_sde, **still), 1),
    }
    grids = {
        "karras": k.get_sigmas_karras,
        "exponential": k.get_sigmas_exponential,
        "polyexponential 1/2": partial(k.get_sigmas_polyexponential, rho=0.5),
        "polyexponential 2": partial(k.get_sigmas_polyexponential, rho=2.0),
    }
    for name, (sampler, cost) in samplers.items():
        for grid, sigmas in grids.items():
            run = partial(_run_k_diffusion, sampler, cost, sigmas)
            yield Peer(K_DIFFUSION, name, grid, not grid.startswith("poly"), run)
    run = partial(_run_dpm_fast, k.sample_dpm_fast)
    yield Peer(K_DIFFUSION, "DPM fast", "exponential", True, run)


def _counted(problem: Problem) -> tuple[Callable[[Tensor, Tensor], Tensor], list[float]]:
    """The denoiser as k-diffusion wants it, and the noise levels at which it has been asked."""
    asked = []

    def model(x, sigma):
        asked.append(float(sigma[0]))
        return problem.denoise(x, asked[-1])

    return model, asked


def _run_k_diffusion(sampler, cost, grid, problem, noise, nfe) -> Run:
    model, asked = _counted(problem)
    with float64():
        sigmas = grid((nfe + cost - 1) // cost, 0.002, START[K_DIFFUSION])
        x = sampler(model, START[K_DIFFUSION] * torch.from_numpy(noise), sigmas, disable=True)
    return Run(x, len(asked), 0.0)


def _run_dpm_fast(sampler, problem, noise, nfe) -> Run:
    model, asked = _counted(problem)
    with float64():
        x = START[K_DIFFUSION] * torch.from_numpy(noise)
        x = sampler(model, x, 0.002, START[K_DIFFUSION], nfe, disable=True)
    return Run(x, len(asked), 0.002)


_SPACED = {name: {"timestep_spacing": name} for name in ("linspace", "leading", "trailing")}
_LEVELS = {
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
}
_ALL = _SPACED | _LEVELS


def _diffusers_peers() -> Iterator[Peer]:
    d = diffusers
    yield from _on(_SPACED, "DDIM", d.DDIMScheduler, clip_sample=False)
    yield from _on(_ALL, "Euler", d.EulerDiscreteScheduler)
    yield from _on(_ALL, "LMS", d.LMSDiscreteScheduler)
    yield from _on(_ALL, "Heun", d.HeunDiscreteScheduler, steps=lambda nfe: (nfe + 1) // 2)
    yield from _on(_SPACED, "PNDM", d.PNDMScheduler, steps=lambda nfe: nfe - 9)
    plms = {"steps": lambda nfe: nfe - 1, "skip_prk_steps": True}
    yield from _on(_SPACED, "PLMS", d.PNDMScheduler, **plms)
    yield from _multistep_peers()
    for order in (2, 3):
        yield from _peers_of_order(order)


def _multistep_peers() -> Iterator[Peer]:
    """DPM-Solver(++); "full" does not lower the order at the end."""
    grids = _SPACED | {"karras": _LEVELS["karras"], "beta": _LEVELS["beta"]}
    grids |= {"lu": {"use_lu_lambdas": True}}  # these are the noise levels of "exponential"
    second, third = {"solver_order": 2}, {"solver_order": 3}
    eps = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
    full = {"lower_order_final": False}
    on = functools.partial(_on, grids, scheduler=diffusers.DPMSolverMultistepScheduler)
    yield from on("DPM++2M", **second)
    yield from on("DPM++3M", **third)
    yield from on("DPM++2M heun", changed=True, solver_type="heun", **second)
    yield from on("DPM++3M full", changed=True, **third, **full)
    yield from on("DPM2M", changed=True, **second, **eps)
    yield from on("DPM3M", changed=True, **third, **eps)
    yield from on("DPM3M full", changed=True, **third, **eps, **full)


def _peers_of_order(order: int) -> Iterator[Peer]:
    """Singlestep DPM-Solver(++), DEIS, SA-Solver without noise, UniPC."""
    d, of = diffusers, {"solver_order": order}
    to_min, full = {"final_sigmas_type": "sigma_min"}, {"lower_order_final": False}
    grids, scheduler = {"linspace": {}} | _LEVELS, d.DPMSolverSinglestepScheduler
    eps = of | to_min | {"algorithm_type": "dpmsolver"}
    yield from _on(grids, f"DPM++{order}S", scheduler, **of)
    yield from _on(grids, f"DPM{order}S", scheduler, changed=True, **eps)

    yield from _on(_ALL, f"DEIS{order}", d.DEISMultistepScheduler, **of)
    yield from _on(_ALL, f"DEIS{order} full", d.DEISMultistepScheduler, changed=True, **of, **full)

    sa = {"predictor_order": order, "corrector_order": order, "tau_func": lambda t: 0.0}
    yield from _on(_ALL, f"SA{order} tau 0", d.SASolverScheduler, changed=True, **sa)

    on = functools.partial(_on, _ALL, scheduler=d.UniPCMultistepScheduler)
    yield from on(f"UniPC{order}", **of)
    for kind in ("bh1", "bh2"):  # to 0, bh1 and the full orders divide infinity by infinity
        options, name = of | to_min | {"solver_type": kind}, f"UniPC{order} {kind} to .01"
        yield from on(name, changed=True, **options)
        yield from on(f"{name} full", changed=True, **options, **full)


def _on(
    grids: dict[str, dict[str, Any]],
    name: str,
    scheduler: Callable[..., Any],
    steps: Callable[[int], int] = lambda nfe: nfe,
    changed: bool = False,
    **options,
) -> Iterator[Peer]:
    """A scheduler on its grids.

    steps: how many are within a number of evaluations. changed: some option is not the default.
    """
    for grid, chosen in grids.items():
        make = functools.partial(scheduler, beta_start=1e-4, beta_end=0.02, **options, **chosen)
        run = functools.partial(_run_diffusers, make, steps)
        yield Peer(DIFFUSERS, name, grid, not changed, run)


def _run_diffusers(make, steps, problem, noise, nfe) -> Run | None:
    if steps(nfe) < 4 and make.func is diffusers.PNDMScheduler:
        return None  # it begins with Runge-Kutta steps over the four noisiest times
    with float64():
        scheduler = make()
        scheduler.set_timesteps(steps(nfe))
        return _loop(scheduler, problem, torch.from_numpy(noise))


def _loop(scheduler, problem, noise) -> Run:
    levels, end = _levels(scheduler)
    # Schedulers that scale the network's input carry x/alpha, the others x. (They also want to be
    # asked for that scale once.)
    one = scheduler.scale_model_input(torch.ones(1), scheduler.timesteps[0])
    scaled = float(one) != 1.0
    x = noise * (math.hypot(1, levels[0]) if scaled else 1.0)
    for s, t in zip(levels, scheduler.timesteps, strict=True):
        clean = x if scaled else x * math.hypot(1, s)
        eps = (clean - problem.denoise(clean, s)) / s
        x = scheduler.step(eps, t, x).prev_sample
    return Run(x if scaled else x * math.hypot(1, end), len(levels), end)


def _levels(scheduler) -> tuple[list[float], float]:
    """sigma/alpha at each evaluation and at the end."""
    if hasattr(scheduler, "sigmas"):
        return scheduler.sigmas[:-1].tolist(), float(scheduler.sigmas[-1])
    end = math.sqrt(1 / float(scheduler.final_alpha_cumprod) - 1)
    return LEVELS[scheduler.timesteps.numpy()].tolist(), end


# The table


class Best(NamedTuple):
    """An error and whose it is."""

    error: float
    peer: Peer
    nfe: int


def errors(problem: Problem, noise: np.ndarray, nfe: int, truth: Truth, peers=None) -> list[Best]:
    """The errors of methods (all of them if None) at up to nfe evaluations, the smallest first.

    Those that break down (infinite or NaN) are left out.
    """
    results = []
    for peer in entries() if peers is None else peers:
        run = peer.run(problem, noise, nfe)
        if run is not None:
            results.append(Best(run.error(peer.package, truth), peer, run.nfe))
    return sorted((r for r in results if math.isfinite(r.error)), key=lambda r: r.error)


def main() -> None:
    """Prints the best method at its defaults and at any option, by number of evaluations."""
    parser = command.parser(__doc__)
    parser.add_argument("--nfe", nargs="+", type=int, default=NFES)
    options = command.parse(parser, nfe=[5])
    warnings.filterwarnings("ignore")  # of deprecated options
    diffusers.utils.logging.set_verbosity_error()
    for problem, samples in ((ring(), 2048), (fashion(), 128)):
        if problem is None:
            continue
        noise = problem.noise(samples)
        true = truth(problem, noise)
        print(f"| {problem.name}: NFE | error | at defaults | error | at any option |")
        print("| --- | --- | --- | --- | --- |")
        for nfe in options.nfe:
            ranking = errors(problem, noise, nfe, true)
            cells = []
            for best in (next(r for r in ranking if r.peer.default), ranking[0]):
                peer = best.peer
                cells += [f"{best.error:.1e}", f"{peer.package} {peer.name}, {peer.grid}"]
            print("|", " | ".join([str(nfe), *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
