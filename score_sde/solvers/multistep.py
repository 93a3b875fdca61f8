"""Linear multistep methods: one evaluation a step, and the predictions of earlier steps.

The names here are choices of prediction, variable, order, corrector and noise; what they have in
common, and the coefficients, is in `solvers/exponential.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.processes import SDE
from score_sde.solvers import exponential
from score_sde.solvers.compose import start_with
from score_sde.solvers.exponential import (
    PREDICTIONS,
    Interpolation,
    Nodes,
    Stochasticity,
    noise_level,
)
from score_sde.solvers.runge_kutta import singlestep
from score_sde.types import Grid, Solver, expand

__all__ = [
    "ancestral",
    "ddim",
    "deis",
    "dpmpp",
    "dpmpp_sde",
    "euler_ancestral",
    "flow_map",
    "ipndm",
    "lms",
    "sa_solver",
    "unipc",
]


def ddim(sde: SDE, eta: float | Array = 0.0) -> Solver:
    """DDIM (Song, Meng & Ermon 2021, arXiv:2010.02502, eq. 12 and 16): order 1.

    One evaluation a step; deterministic at eta 0, ancestral sampling at eta 1. The plain choice
    for many steps; `dpmpp` wants fewer.
    """
    return multistep(sde, order=1, noise=exponential.eta(eta))


def ancestral(sde: SDE, variance: str = "small") -> Solver:
    """Ancestral sampling (Ho et al. 2020, arXiv:2006.11239, alg. 2): the mean of
    q(x_s | x_t, x_0 = D(x_t)), and noise of one of the two variances of their sec. 3.2.

    With a = alpha_t / alpha_s and G^2 = sigma_t^2 - a^2 sigma_s^2, the variance of x_t given x_s
    (beta_t of a DDPM):

        x_s = a sigma_s^2/sigma_t^2 x_t + alpha_s G^2/sigma_t^2 D + std z
        "small": std^2 = G^2 sigma_s^2/sigma_t^2, the variance of the posterior: `ddim` with eta 1.
            Right for data at a point; ancestral sampling of SMLD (Song et al. 2021, eq. 4).
        "large": std^2 = G^2. Right for data of N(0, I); Ho et al. and the VP models of Song et al.
            2021 sample with it.

    diffusers calls them fixed_small and fixed_large. One evaluation a step, stochastic, weak order
    1. For hundreds of steps.

    Raises:
      ValueError: another variance.
    """
    if variance not in ("small", "large"):
        raise ValueError(f"unknown variance {variance!r}: one of small, large")
    if variance == "small":
        return ddim(sde, eta=1.0)

    def coefficients(times):
        one = jnp.ones(len(times) - 1, int)
        mean = _on_grid(sde, Interpolation(), times, exponential.eta(1.0), one, None, 1)
        log_snr = sde.log_snr(times)
        std = sde.sigma(times[:-1]) * jnp.sqrt(-jnp.expm1(log_snr[:-1] - log_snr[1:]))
        return mean._replace(noise=std)

    return linear_multistep(sde, "x0", coefficients, stochastic=True)


def euler_ancestral(sde: SDE, eta: float | Array = 1.0) -> Solver:
    """The "Euler a" of k-diffusion: an Euler step of dx~ = eps ds to a lower level, then noise.

    That is `ddim` with the same eta, to the last digit, for every process. One evaluation a step,
    weak order 1. Under this name for those who look for it.
    """
    return ddim(sde, eta=eta)


def flow_map(sde: SDE, gamma: float | Array = 1.0) -> Solver:
    """Jumps along a flow map: x_s = alpha_s D + sigma_s (sqrt(1 - gamma^2) eps + gamma z).

    gamma 1 is multistep consistency sampling (Song et al. 2023, arXiv:2303.01469, alg. 1), the
    reverse SDE with tau to infinity; gamma 0 is `ddim` (Kim et al. 2024, arXiv:2310.02279, alg.
    2). One evaluation a step. For consistency models, whose denoiser is the end of the flow.
    """
    return multistep(sde, order=1, noise=exponential.fresh(gamma))


def dpmpp(
    sde: SDE, order: int = 2, slope: str = "bh2", start_order: int = 1, end_order: int | None = None
) -> Solver:
    """DPM-Solver++ kM (Lu et al. 2022, arXiv:2211.01095, alg. 2): orders 1 to 4, deterministic.

    One evaluation a step. Order 2 has the published coefficients (`slope="exact"` has those of
    `deis` in the data prediction); from order 3 on they are the exact integrals, which the printed
    3M is not. The default start, a step of order 1, leaves order 2 to the whole; `start_order` of
    the method's order gives it all. Order 2 for 10 to 50 steps, 3 for more; `end_order=1` when
    there are fewer than 10.

    See `multistep` for slope, start_order and end_order.
    """
    return multistep(sde, order, slope=slope, start_order=start_order, end_order=end_order)


def dpmpp_sde(
    sde: SDE,
    order: int = 2,
    tau: float | Array = 1.0,
    slope: str = "bh2",
    end_order: int | None = None,
) -> Solver:
    """SDE-DPM-Solver++ kM (Lu et al. 2022, arXiv:2211.01095, eq. 18 and app. D): orders 1 to 3.

    One evaluation a step, stochastic: weak order 2 from order 2 on, strong order 1. For 20 to 100
    steps where the errors of an ODE solver show.
    """
    return multistep(sde, order, noise=exponential.tau(tau), slope=slope, end_order=end_order)


def deis(
    sde: SDE,
    order: int = 3,
    variable: str = "t",
    start_order: int = 1,
    end_order: int | None = None,
) -> Solver:
    """DEIS (Zhang & Chen 2023, arXiv:2204.13902, eq. 15): orders 1 to 4, deterministic.

    One evaluation a step. The noise prediction, interpolated in the time "t" (tAB-DEIS), in
    "rho" = sigma/alpha (rhoAB; the same as `lms`) or in "log_rho". tAB for 5 to 15 steps of a VP
    process, log_rho for wide ranges of noise. The default start leaves order 2 to the whole;
    `start_order` of the method's order gives it all.
    """
    return multistep(sde, order, "eps", variable, start_order=start_order, end_order=end_order)


def lms(sde: SDE, order: int = 4, start_order: int = 1, end_order: int | None = None) -> Solver:
    """Adams-Bashforth on dx~ = eps ds with the right coefficients for unequal steps: orders 1 to 4.

    The linear multistep sampler of k-diffusion; deterministic, one evaluation a step. The default
    start, steps of order 1, 2, ..., leaves order 2 to the whole; `start_order=3` gives it all. For
    fine grids, where noise varies smoothly from step to step.
    """
    return deis(sde, order, "rho", start_order, end_order)


def ipndm(sde: SDE, order: int = 4, variable_step: bool = True) -> Solver:
    """iPNDM (Zhang & Chen 2023, arXiv:2204.13902, app. B): Adams-Bashforth that grows from order 1.

    Deterministic, one evaluation a step. With variable_step it is `lms` with its default start:
    order 2 on any grid. Without, the coefficients are the classical ones of equal steps, as
    published: order 2 on smooth grids, and robust at 5 to 10 steps.
    """
    return multistep(sde, order, "eps", "rho" if variable_step else "index")


def unipc(
    sde: SDE,
    order: int = 2,
    variant: str = "bh2",
    prediction: str = "x0",
    start_order: int = 1,
    end_order: int | None = 1,
) -> Solver:
    """UniPC-p (Zhao et al. 2023, arXiv:2302.04867, alg. 5-8): order p + 1, p from 1 to 4.

    One evaluation a step, deterministic: each value of the denoiser corrects the state that it
    was taken at, then predicts the next. For 5 to 20 steps. variant: "bh1" or "bh2", see
    `multistep`. As published, the last step has order 1 and is not corrected, which leaves order 2
    to the whole. `end_order=None` leaves order 3, and `start_order=p` (3 at most) with it order
    p + 1 (4 at most).
    """
    return multistep(
        sde,
        order,
        prediction,
        slope=variant,
        corrector=order,
        start_order=start_order,
        end_order=end_order,
    )


def sa_solver(
    sde: SDE,
    predictor_order: int = 3,
    corrector_order: int = 3,
    tau: float | Array = 1.0,
    s_min: float = 0.05,
    s_max: float = 1.0,
    start_order: int = 1,
) -> Solver:
    """SA-Solver (Xue et al. 2023, arXiv:2309.05019, alg. 1): stochastic Adams, orders 1 to 4.

    One evaluation a step. tau where sigma/alpha is in [s_min, s_max], the ODE elsewhere. With
    noise: weak order 2, strong order 1. Where tau is 0: order corrector_order + 1, but 3 at most
    from the default start; `start_order=3` mends that. corrector_order 0 leaves the predictor
    alone. For 20 to 60 steps, when quality counts for more than time.
    """
    return multistep(
        sde,
        predictor_order,
        corrector=corrector_order,
        noise=exponential.tau(tau, s_min, s_max),
        start_order=start_order,
    )


class Coefficients(NamedTuple):
    """The coefficients of every step of a grid of n steps, with k predictions.

    x_{i+1} = linear_i x_i + sum_j predict_ij y_{i-j} + noise_i z, and, where there is a corrector,
    first x_i is replaced by the same sum over the step that led to it, with correct_ij.
    """

    linear: Float[Array, " n"]
    predict: Float[Array, "n k"]
    noise: Float[Array, " n"]
    correct: Float[Array, "n k"]


class _State(NamedTuple):
    """The step's number, the predictions y_{i-j} (newest first), and what they added to x_i."""

    index: Int[Array, ""]
    history: Float[Array, "k b ..."]
    predicted: Float[Array, "b ..."]


def multistep(
    sde: SDE,
    order: int = 2,
    prediction: str = "x0",
    variable: str = "log_rho",
    *,
    corrector: int = 0,
    noise: Stochasticity | None = None,
    slope: str = "exact",
    start_order: int = 1,
    end_order: int | None = None,
) -> Solver:
    """The linear multistep method of an order in a prediction and a variable.

    order: that of the predictor, 1 to 4: the number of nodes of its interpolation.
    prediction, variable, slope: see `solvers/exponential.py`.
    corrector: how many earlier nodes join the newest one in correcting the state at which it was
        taken; 0 for no correction. Its order is one more. The last state is not corrected: that
        would cost an evaluation.
    noise: the stochasticity of the reverse SDE, or None for the ODE.
    start_order: the first steps, for which there is no history yet, have the orders 1, 2, ..., and
        their errors lower the order of the whole. A start_order of 2 or 3 takes them by the
        Runge-Kutta method of that order, at 1 or 2 evaluations more each; these states are not
        corrected.
    end_order: the order of the last step; the one before has an order higher by one, and so on.

    Raises:
      ValueError: an option is out of its range.
    """
    for name, value, allowed in (
        ("order", order, (1, 2, 3, 4)),
        ("corrector", corrector, (0, 1, 2, 3, 4)),
        ("start_order", start_order, (1, 2, 3)),
        ("end_order", end_order, (None, 1, 2, 3, 4)),
    ):
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}: one of {', '.join(map(str, allowed))}")
    method = Interpolation(prediction, variable, slope)
    exponential.check(sde, method, noise)

    def coefficients(times):
        steps = len(times) - 1
        left = jnp.arange(steps)[::-1] + (order if end_order is None else end_order)
        known = jnp.arange(steps) + 1
        predictors = jnp.minimum(jnp.minimum(order, left), known)
        # The corrector of step i is used at its end, by the step i + 1.
        correctors = jnp.minimum(jnp.minimum(corrector, left), known) + 1
        correctors = correctors if corrector else None
        return _on_grid(sde, method, times, noise, predictors, correctors, size)

    size = max(order, corrector + 1 if corrector else 0)
    start_steps = 0 if start_order == 1 else max(order, corrector) - 1
    solver = linear_multistep(
        sde,
        prediction,
        coefficients,
        corrected_from=start_steps + 1 if corrector else None,
        stochastic=noise is not None,
    )
    if start_steps == 0:
        return solver
    start = singlestep(sde, start_order, prediction, variable, noise)
    return start_with(start, start_steps, solver)


def linear_multistep(
    sde: SDE,
    prediction: str,
    coefficients: Callable[[Grid], Coefficients],
    *,
    corrected_from: int | None = None,
    stochastic: bool = False,
) -> Solver:
    """The linear multistep method whose coefficients on a grid are `coefficients(times)`.

    corrected_from: the first step that corrects the state it starts from; None: no step does.
    """

    def init(x, times):
        on_grid = coefficients(times)
        history = jnp.zeros((on_grid.predict.shape[1], *x.shape), x.dtype)
        return on_grid, _State(jnp.zeros((), jnp.int32), history, jnp.zeros_like(x))

    def step(noise, denoiser, x, t, s, carry):
        on_grid, state = carry
        now = jax.tree.map(lambda a: a[state.index], on_grid)
        y = PREDICTIONS[prediction].y(x, denoiser(x, t), sde.alpha(t), sde.sigma(t))
        history = jnp.concatenate([y[None], state.history[:-1]])
        if corrected_from is not None:
            corrected = x + _combine(now.correct, history) - state.predicted
            x = jnp.where(state.index >= corrected_from, corrected, x)
        predicted = _combine(now.predict, history)
        x = now.linear * x + predicted
        if stochastic:
            x = x + now.noise * noise(t, s, x.shape)
        return x, (on_grid, _State(state.index + 1, history, predicted))

    return Solver(init, step)


def _combine(weights: Float[Array, " k"], history: Float[Array, "k b ..."]) -> Array:
    return jnp.sum(expand(weights, history) * history, axis=0)


def _on_grid(
    sde: SDE,
    method: Interpolation,
    times: Grid,
    noise: Stochasticity | None,
    predictors: Int[Array, " n"],
    correctors: Int[Array, " n"] | None,
    size: int,
) -> Coefficients:
    """The coefficients of a grid, given the number of nodes, at most `size`, of every step's
    predictor and corrector."""
    levels = noise_level(sde, times)
    back = jnp.arange(size)

    def one(i, newest, base, count):
        start, end = (jax.tree.map(lambda a, j=j: a[j], levels) for j in (i, i + 1))
        nodes = Nodes(levels.lam[jnp.maximum(newest - back, 0)], back < count, base)
        g = None if noise is None else noise(start.lam, end.lam)
        return exponential.step(sde, method, start, end, nodes, g)

    steps = jnp.arange(len(times) - 1)
    predict = jax.vmap(lambda i, count: one(i, i, 0, count))(steps, predictors)
    correct = jnp.zeros_like(predict.weights)
    if size > 1 and correctors is not None:
        rows = jax.vmap(lambda i, count: one(i, i + 1, 1, count))(steps, correctors)
        correct = correct.at[1:].set(rows.weights[:-1])
    return Coefficients(predict.linear, predict.weights, predict.noise, correct)
