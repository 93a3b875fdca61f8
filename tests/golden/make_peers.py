"""Writes `solvers_peers.npz`: the states of other libraries' samplers, step by step, in float64.

    pip install torch==2.13.0 diffusers==0.42.0 scipy tqdm torchdiffeq torchsde
    pip install --no-deps k-diffusion==0.1.1
    PYTHONPATH=benchmarks python tests/golden/make_peers.py

Run by hand. The distribution is a mixture of three Gaussians in two dimensions, four samples, and
the denoiser its exact posterior mean; arrays `weights` [3], `means` [3, 2], `covs` [3, 2, 2].

Each record R below is

    R_times   [n + 1]        decreasing times, none of them of noise level zero
    R_states  [n + 1, 4, 2]  the state at every time; R_states[0] is the start
    R_noise   [n, 4, 2]      the standard normal noise of each step (stochastic methods only)
    R_end     [4, 2]         E[x_0 | x] at the last state and time: the step to noise level 0

Records whose names begin with `vp_` are diffusers' on its linear table of 1000 betas from 1e-4 to
.02, which is `DDPM(num_steps=1000, beta_min=0.1, beta_max=20.0)`; a time is index/999. No order is
lowered in the last steps (`lower_order_final=False`); multistep methods start with order 1.

    vp_ddim            DDIM, eta 0, indices 999, 899, ..., 99 (spacing "trailing")
    vp_ddim_eta        the same with eta 0.7 and noise
    vp_dpmpp_2m        DPMSolverMultistep, dpmsolver++, order 2, solver_type midpoint,
                       indices 999, 899, ..., 100, 0 ("linspace", final_sigmas_type sigma_min)
    vp_dpmpp_2m_heun   the same with solver_type heun: the linear interpolant integrated exactly
    vp_dpmpp_2m_sde, vp_dpmpp_2m_sde_heun   sde-dpmsolver++ of both types, with noise
    vp_unipc_2_bh2, vp_unipc_3_bh1, vp_unipc_3_bh2   UniPC of order 2 and 3 with its corrector.
                       R_states are the predicted states, at which the denoiser is evaluated;
                       R_corrected [n, 4, 2] the corrected ones at times[0] (the start), ...,
                       times[n - 1], from which the steps go on. Polynomials are integrated
                       exactly, except that through two evaluations (predictor, corrector) the
                       integral int_0^h e^{-(h-u)} u du of the slope is replaced by
                       h^2/2 (bh1) or (1 - e^-h) h/2 (bh2)
    vp_deis_2, vp_deis_3   DEIS with polynomials in ln(sigma/alpha)
    vp_sa_3            SA-Solver, data prediction, tau = 0.5 at all times, with noise: predictor
                       through the evaluations at times i, i-1, i-2, corrector through i+1, i, i-1,
                       of the same noise; R_corrected as above. Through two evaluations (predictor
                       of step 1, corrector of step 0) int_0^h e^{-(1+tau^2)(h-u)} u du is
                       replaced by h^2/2

Records whose names begin with `ve_` are k-diffusion's on nine Karras levels from 20 to .02; a time
is a noise level sigma (alpha = 1, process `EDM`).

    ve_heun, ve_dpm_2, ve_lms_4, ve_dpmpp_2m    deterministic, as named there
    ve_dpmpp_2s        sample_dpmpp_2s_ancestral at eta 0: DPM-Solver++(2S), midpoint in ln sigma
    ve_dpm_solver_3    dpm_solver_3_step: DPM-Solver-3, noise prediction, r1 = 1/3, r2 = 2/3
    ve_euler_ancestral                          eta 1, with noise
    ve_dpmpp_2m_sde, ve_dpmpp_2m_sde_heun       eta 1, solver_type midpoint and heun, with noise
    ve_edm             sample_heun with churn: `ve_edm_churn` = [s_churn, s_tmin, s_tmax, s_noise];
                       the noise of a step without churn is not used. `ve_edm_churned` [n, 4, 2] are
                       the states after the churn

Every record is checked against the papers' formulas, written out here.
"""

from __future__ import annotations

import contextlib
from functools import partial
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from diffusers.schedulers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    SASolverScheduler,
    UniPCMultistepScheduler,
    scheduling_sasolver,
)
from peers import float64, k_diffusion_sampling

WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[1.5, 0.0], [-1.0, 1.0], [0.0, -1.5]])
COVS = np.array([[[0.3, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.4]], [[0.2, -0.1], [-0.1, 0.2]]])
SIGMAS = (20 ** (1 / 7) + np.linspace(0, 1, 9) * (0.02 ** (1 / 7) - 20 ** (1 / 7))) ** 7
CHURN = {"s_churn": 2.0, "s_tmin": 0.05, "s_tmax": 10.0, "s_noise": 1.003}
STEPS = 10
SHAPE = (4, 2)
TABLE = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))  # alpha^2 by index

Record = dict[str, np.ndarray]


def denoise(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    """E[x_0 | alpha x_0 + sigma z = x] of the mixture, [b, 2]."""
    total = alpha**2 * COVS + sigma**2 * np.eye(2)
    residual = x[:, None] - alpha * MEANS  # [b, 3, 2]
    solved = np.linalg.solve(total[None], residual[..., None])[..., 0]
    log_joint = np.log(WEIGHTS) - np.linalg.slogdet(total)[1] / 2
    log_joint = log_joint - np.sum(residual * solved, axis=2) / 2
    weights = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    means = MEANS + alpha * np.einsum("kij,bkj->bki", COVS, solved)
    return np.einsum("bk,bki->bi", weights, means)


def normal(seed: int, *shape: int) -> np.ndarray:
    """Standard normal draws."""
    return np.random.default_rng(seed).standard_normal(shape)


# diffusers


def level(index) -> tuple[np.ndarray, np.ndarray]:
    """alpha and sigma at an index of the table, or several."""
    return np.sqrt(TABLE[index]), np.sqrt(1 - TABLE[index])


def vp_record(indices, states, **arrays) -> Record:
    """A record with the times of `DDPM(num_steps=1000)`."""
    indices = np.asarray(indices)
    end = denoise(states[-1], *level(indices[-1]))
    return {"times": indices / 999, "states": np.stack(states), "end": end, **arrays}


def ddim_record(eta: float) -> Record:
    """DDIM by diffusers; its last step, to alpha = 1, is left out."""
    scheduler = DDIMScheduler(
        timestep_spacing="trailing", prediction_type="sample", clip_sample=False
    )
    scheduler.set_timesteps(STEPS)
    indices, noise = scheduler.timesteps.numpy(), normal(2, STEPS - 1, *SHAPE)
    states = [normal(1, *SHAPE)]
    for index, z in zip(indices[:-1], noise, strict=True):
        output = torch.from_numpy(denoise(states[-1], *level(index)))
        given = {"variance_noise": torch.from_numpy(z)} if eta else {}
        x = torch.from_numpy(states[-1])
        states.append(scheduler.step(output, index, x, eta=eta, **given).prev_sample.numpy())
    return vp_record(indices, states, **({"noise": noise} if eta else {}))


def multistep_record(scheduler, noisy: bool = False) -> Record:
    """A multistep scheduler of diffusers, from index 999 to index 0."""
    scheduler.set_timesteps(STEPS)
    indices, noise = [*scheduler.timesteps.numpy(), 0], normal(3, STEPS, *SHAPE)
    ratios = scheduler.sigmas.numpy()
    np.testing.assert_allclose(ratios**2, 1 / TABLE[indices] - 1, rtol=1e-11)
    states, corrected = [normal(1, *SHAPE)], []
    for index, z in zip(scheduler.timesteps, noise, strict=True):
        output = torch.from_numpy(denoise(states[-1], *level(index)))
        x, z = torch.from_numpy(states[-1]), torch.from_numpy(z)
        with mock.patch.object(scheduling_sasolver, "randn_tensor", lambda *a, z=z, **k: z):
            given = {"variance_noise": z} if noisy else {}
            states.append(scheduler.step(output, index, x, **given).prev_sample.numpy())
        if hasattr(scheduler, "last_sample"):
            corrected.append(scheduler.last_sample.numpy())
    arrays = {"corrected": np.stack(corrected)} if corrected else {}
    if noisy or isinstance(scheduler, SASolverScheduler):
        arrays["noise"] = noise
    return vp_record(indices, states, **arrays)


def diffusers_records() -> dict[str, Record]:
    """All records of diffusers."""
    common = {"prediction_type": "sample", "lower_order_final": False}
    to_index_0 = {"final_sigmas_type": "sigma_min"} | common
    records = {"vp_ddim": ddim_record(0.0), "vp_ddim_eta": ddim_record(0.7)}
    for suffix, algorithm in (("", "dpmsolver++"), ("_sde", "sde-dpmsolver++")):
        for kind, ending in (("midpoint", ""), ("heun", "_heun")):
            scheduler = DPMSolverMultistepScheduler(
                solver_order=2, algorithm_type=algorithm, solver_type=kind, **to_index_0
            )
            name = f"vp_dpmpp_2m{suffix}{ending}"
            records[name] = multistep_record(scheduler, noisy=bool(suffix))
    for order, kind in ((2, "bh2"), (3, "bh1"), (3, "bh2")):
        scheduler = UniPCMultistepScheduler(solver_order=order, solver_type=kind, **to_index_0)
        records[f"vp_unipc_{order}_{kind}"] = multistep_record(scheduler)
    for order in (2, 3):
        scheduler = DEISMultistepScheduler(solver_order=order, **common)
        records[f"vp_deis_{order}"] = multistep_record(scheduler)
    scheduler = SASolverScheduler(
        predictor_order=3, corrector_order=3, tau_func=lambda t: 0.5, **common
    )
    records["vp_sa_3"] = multistep_record(scheduler)
    return records


# k-diffusion


def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The denoiser as k-diffusion wants it."""
    return torch.from_numpy(denoise(x.numpy(), 1.0, float(sigma[0])))


@contextlib.contextmanager
def given_normals(noise: np.ndarray):
    """Hands out `noise` in the place of `torch.randn_like`; yields what it was called with."""
    draws, seen = iter(torch.from_numpy(noise)), []

    def draw(x):
        seen.append(x.numpy())
        return next(draws)

    with mock.patch.object(torch, "randn_like", draw):
        yield seen


def ve_record(states, **arrays) -> Record:
    """A record whose times are noise levels."""
    end = denoise(states[-1], 1.0, SIGMAS[-1])
    return {"times": SIGMAS, "states": np.stack(states), "end": end, **arrays}


def k_record(sampler, noise: np.ndarray | None = None, **options) -> Record:
    """A sampler of k-diffusion without churn."""
    states = []
    if noise is not None:
        draws = iter(torch.from_numpy(noise))
        options["noise_sampler"] = lambda *levels: next(draws)
    x, sigmas = torch.from_numpy(20 * normal(1, *SHAPE)), torch.from_numpy(SIGMAS)

    def keep(info):
        states.append(info["x"].numpy())

    last = sampler(model, x, sigmas, callback=keep, disable=True, **options)
    return ve_record([*states, last.numpy()], **({} if noise is None else {"noise": noise}))


def edm_record(sampler) -> Record:
    """Heun's method with churn. It draws before each step, so that its draws tell the states."""
    noise, churned = normal(4, len(SIGMAS) - 1, *SHAPE), []
    x, sigmas = torch.from_numpy(20 * normal(1, *SHAPE)), torch.from_numpy(SIGMAS)
    with given_normals(noise) as states:
        last = sampler(
            *(model, x, sigmas),
            callback=lambda i: churned.append(i["x"].numpy()),
            disable=True,
            **CHURN,
        )
    extra = {"churn": np.array(list(CHURN.values())), "churned": np.stack(churned)}
    return ve_record([*states, last.numpy()], noise=noise, **extra)


def dpm_solver_3_record(k) -> Record:
    """Steps of the singlestep DPM-Solver-3."""
    solver, sigmas = k.DPMSolver(model), torch.from_numpy(SIGMAS)
    states = [torch.from_numpy(20 * normal(1, *SHAPE))]
    for sigma, lower in pairwise(sigmas):
        states.append(solver.dpm_solver_3_step(states[-1], solver.t(sigma), solver.t(lower))[0])
    return ve_record([x.numpy() for x in states])


def k_diffusion_records() -> dict[str, Record]:
    """All records of k-diffusion."""
    k = k_diffusion_sampling()
    noise = normal(4, len(SIGMAS) - 1, *SHAPE)
    return {
        "ve_heun": k_record(k.sample_heun),
        "ve_dpm_2": k_record(k.sample_dpm_2),
        "ve_lms_4": k_record(k.sample_lms, order=4),
        "ve_dpmpp_2m": k_record(k.sample_dpmpp_2m),
        "ve_dpmpp_2s": k_record(k.sample_dpmpp_2s_ancestral, eta=0.0),
        "ve_dpm_solver_3": dpm_solver_3_record(k),
        "ve_euler_ancestral": k_record(k.sample_euler_ancestral, noise),
        "ve_dpmpp_2m_sde": k_record(k.sample_dpmpp_2m_sde, noise),
        "ve_dpmpp_2m_sde_heun": k_record(k.sample_dpmpp_2m_sde, noise, solver_type="heun"),
        "ve_edm": edm_record(k.sample_heun),
    }


# The same by formulas: each yields the states after the first.


def ddim_formula(x, alpha, sigma, noise, eta=0.0):
    """Song et al. 2020 (arXiv:2010.02502), eq. 12 and 16."""
    for i in range(len(alpha) - 1):
        x_0 = denoise(x, alpha[i], sigma[i])
        eps = (x - alpha[i] * x_0) / sigma[i]
        ratio = alpha[i] / alpha[i + 1]
        std = eta * sigma[i + 1] / sigma[i] * np.sqrt(1 - ratio**2)
        x = alpha[i + 1] * x_0 + np.sqrt(sigma[i + 1] ** 2 - std**2) * eps + std * noise[i]
        yield x


def ancestral_formula(x, alpha, sigma, noise):
    """The posterior of x_s given x_t and x_0 where alpha = 1, by Bayes' rule."""
    for s, e, z in zip(sigma[:-1], sigma[1:], noise, strict=True):
        kept = (e / s) ** 2
        x = kept * x + (1 - kept) * denoise(x, 1, s) + e * np.sqrt(1 - kept) * z
        yield x


def edm_formula(x, alpha, sigma, noise, s_churn=0.0, s_tmin=0.0, s_tmax=np.inf, s_noise=1.0):
    """Karras et al. 2022 (arXiv:2206.00364), algorithm 2."""
    n = len(sigma) - 1
    for i in range(n):
        gamma = min(s_churn / n, np.sqrt(2) - 1) if s_tmin <= sigma[i] <= s_tmax else 0
        hat = sigma[i] * (1 + gamma)
        x_hat = x + np.sqrt(hat**2 - sigma[i] ** 2) * s_noise * noise[i]
        slope = (x_hat - denoise(x_hat, 1, hat)) / hat
        euler = x_hat + (sigma[i + 1] - hat) * slope
        slope_2 = (euler - denoise(euler, 1, sigma[i + 1])) / sigma[i + 1]
        x = x_hat + (sigma[i + 1] - hat) * (slope + slope_2) / 2
        yield x


def midpoint_formula(x, alpha, sigma, noise, data_prediction):
    """DPM-2 (of dx/dsigma) or DPM-Solver++(2S), the middle taken in ln sigma; alpha = 1."""
    for s, e in pairwise(sigma):
        m = np.sqrt(s * e)
        between = m / s * x + (1 - m / s) * denoise(x, 1, s)
        middle = denoise(between, 1, m)
        if data_prediction:
            x = e / s * x + (1 - e / s) * middle
        else:
            x = x + (e - s) * (between - middle) / m
        yield x


def dpmpp_2m_formula(x, alpha, sigma, noise, tau=0.0):
    """DPM-Solver++(2M) (arXiv:2211.01095), ODE (tau 0) and SDE (tau 1), with its midpoint rule."""
    lam, rate, old = np.log(alpha / sigma), 1 + tau**2, None
    for i in range(len(alpha) - 1):
        h, x_0 = lam[i + 1] - lam[i], denoise(x, alpha[i], sigma[i])
        middle = x_0 if old is None else x_0 + h / (lam[i] - lam[i - 1]) / 2 * (x_0 - old)
        x = sigma[i + 1] / sigma[i] * np.exp(-(tau**2) * h) * x
        x = x - alpha[i + 1] * np.expm1(-rate * h) * middle
        x = x + sigma[i + 1] * np.sqrt(-np.expm1(-2 * tau**2 * h)) * noise[i]
        old = x_0
        yield x


def exact_step(x, i, alpha, sigma, evaluations, z, tau):
    """From time i to i + 1 with the polynomial in lambda = ln(alpha/sigma) through `evaluations`
    {index: x_0} integrated exactly (Xue et al. 2023, arXiv:2309.05019, eq. 14)."""
    lam, rate = np.log(alpha / sigma), 1 + tau**2
    h = lam[i + 1] - lam[i]
    x = sigma[i + 1] / sigma[i] * np.exp(-(tau**2) * h) * x
    u, weights = gauss_legendre(h)
    for j, x_0 in evaluations.items():
        others = [k for k in evaluations if k != j]
        basis = np.prod([(lam[i] + u - lam[k]) / (lam[j] - lam[k]) for k in others], axis=0)
        x = x + alpha[i + 1] * rate * np.sum(weights * np.exp(-rate * (h - u)) * basis) * x_0
    return x + sigma[i + 1] * np.sqrt(-np.expm1(-2 * tau**2 * h)) * z


def line_step(x, i, alpha, sigma, evaluations, z, tau, moment):
    """The same through two evaluations, with `moment`(h) in the place of the slope's integral."""
    (j, x_0), (k, other) = sorted(evaluations.items(), key=lambda item: item[0] != i)
    lam = np.log(alpha / sigma)
    slope = (x_0 - other) / (lam[j] - lam[k])
    return exact_step(x, i, alpha, sigma, {i: x_0}, z, tau) + (
        alpha[i + 1] * (1 + tau**2) * moment(lam[i + 1] - lam[i]) * slope
    )


def gauss_legendre(h: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, h], exact to rounding for the integrands here."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    return h * (1 + nodes) / 2, h * weights / 2


def exact_2m_formula(x, alpha, sigma, noise, tau=0.0):
    """DPM-Solver++(2M) with the line through two evaluations integrated exactly."""
    evaluations = {}
    for i in range(len(alpha) - 1):
        evaluations = {i: denoise(x, alpha[i], sigma[i])} | evaluations
        evaluations = {j: evaluations[j] for j in evaluations if j > i - 2}
        x = exact_step(x, i, alpha, sigma, evaluations, noise[i], tau)
        yield x


def adams_formula(x, alpha, sigma, noise, order, variable):
    """d(x/alpha)/ds = eps, s = sigma/alpha, with the polynomial in `variable`(s) through the last
    values of eps: LMS where it is s (k-diffusion), DEIS where it is ln s (arXiv:2204.13902)."""
    s, history = sigma / alpha, []
    for i in range(len(s) - 1):
        eps = (x - alpha[i] * denoise(x, alpha[i], sigma[i])) / sigma[i]
        history = [(variable(s[i]), eps), *history][:order]
        u, weights = gauss_legendre(np.log(s[i + 1] / s[i]))
        at = s[i] * np.exp(u)
        increment = 0
        for node, value in history:
            others = [other for other, _ in history if other != node]
            basis = np.prod([(variable(at) - o) / (node - o) for o in others], axis=0)
            increment = increment + np.sum(weights * at * basis) * value
        x = alpha[i + 1] * (x / alpha[i] + increment)
        yield x


def dpm_solver_3_formula(x, alpha, sigma, noise):
    """DPM-Solver-3 (Lu et al. 2022, arXiv:2206.00927, algorithm 2) where alpha = 1."""
    for s, e in pairwise(sigma):
        h = np.log(s / e)
        third, two_thirds = s * np.exp(-h / 3), s * np.exp(-2 * h / 3)
        eps = (x - denoise(x, 1, s)) / s
        u = x + (third - s) * eps
        change = (u - denoise(u, 1, third)) / third - eps
        u = x + (two_thirds - s) * eps - 2 * ((s - two_thirds) * 3 / 2 / h - two_thirds) * change
        change = (u - denoise(u, 1, two_thirds)) / two_thirds - eps
        x = x + (e - s) * eps - ((s - e) / h - e) * 3 / 2 * change
        yield x


def corrected_formula(record, alpha, sigma, points, tau, moment):
    """Every step of a predictor-corrector through `points` evaluations each, from the corrected
    states of the record: yields (predicted, corrected) after it."""
    values = [denoise(x, a, s) for x, a, s in zip(record["states"], alpha, sigma, strict=True)]
    noise = record.get("noise", np.zeros((len(alpha) - 1, *SHAPE)))
    for i, x in enumerate(record["corrected"]):
        results = []
        for newest, count in zip((i, i + 1), points, strict=True):
            indices = range(newest, max(newest - count, -1), -1)
            arguments = (x, i, alpha, sigma, {j: values[j] for j in indices}, noise[i], tau)
            two = len(indices) == 2
            results.append(line_step(*arguments, moment) if two else exact_step(*arguments))
        yield results


FORMULAS = {
    "vp_ddim": ddim_formula,
    "vp_ddim_eta": partial(ddim_formula, eta=0.7),
    "vp_dpmpp_2m": dpmpp_2m_formula,
    "vp_dpmpp_2m_heun": exact_2m_formula,
    "vp_dpmpp_2m_sde": partial(dpmpp_2m_formula, tau=1.0),
    "vp_dpmpp_2m_sde_heun": partial(exact_2m_formula, tau=1.0),
    "vp_deis_2": partial(adams_formula, order=2, variable=np.log),
    "vp_deis_3": partial(adams_formula, order=3, variable=np.log),
    "ve_heun": edm_formula,
    "ve_dpm_2": partial(midpoint_formula, data_prediction=False),
    "ve_lms_4": partial(adams_formula, order=4, variable=lambda s: s),
    "ve_dpmpp_2m": dpmpp_2m_formula,
    "ve_dpmpp_2s": partial(midpoint_formula, data_prediction=True),
    "ve_dpm_solver_3": dpm_solver_3_formula,
    "ve_euler_ancestral": ancestral_formula,
    "ve_dpmpp_2m_sde": partial(dpmpp_2m_formula, tau=1.0),
    "ve_dpmpp_2m_sde_heun": partial(exact_2m_formula, tau=1.0),
    "ve_edm": partial(edm_formula, **CHURN),
}
# Name -> points of predictor and corrector, tau, what stands for the slope's integral.
CORRECTED = {
    "vp_unipc_2_bh2": ((2, 3), 0.0, lambda h: -np.expm1(-h) * h / 2),
    "vp_unipc_3_bh1": ((3, 4), 0.0, lambda h: h**2 / 2),
    "vp_unipc_3_bh2": ((3, 4), 0.0, lambda h: -np.expm1(-h) * h / 2),
    "vp_sa_3": ((3, 3), 0.5, lambda h: h**2 / 2),
}


def levels(name: str, record: Record) -> tuple[np.ndarray, np.ndarray]:
    """alpha and sigma at the times of a record."""
    times = record["times"]
    if name.startswith("ve_"):
        return np.ones_like(times), times
    return level(np.rint(999 * times).astype(int))


def check(name: str, record: Record) -> float:
    """The largest relative difference between a record and the formulas, over all steps."""
    alpha, sigma = levels(name, record)
    if name in CORRECTED:
        results = np.array(list(corrected_formula(record, alpha, sigma, *CORRECTED[name])))
        pairs = [(results[:, 0], record["states"][1:]), (results[:-1, 1], record["corrected"][1:])]
    else:
        noise = record.get("noise", np.zeros((len(alpha) - 1, *SHAPE)))
        states = list(FORMULAS[name](record["states"][0], alpha, sigma, noise))
        pairs = [(np.stack(states), record["states"][1:])]
    return max(np.max(np.abs(ours - theirs) / (1 + np.abs(theirs))) for ours, theirs in pairs)


def main() -> None:
    """Makes, checks and writes the records."""
    with float64():
        records = diffusers_records() | k_diffusion_records()
    for name, record in records.items():
        difference = check(name, record)
        print(f"{name:22s} {difference:.1e}")
        assert difference < 1e-11, name
    arrays = {f"{name}_{key}": a for name, record in records.items() for key, a in record.items()}
    path = Path(__file__).with_name("solvers_peers.npz")
    np.savez(path, weights=WEIGHTS, means=MEANS, covs=COVS, **arrays)
    print(f"{len(arrays)} arrays, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
