"""Adaptive steps by an embedded pair: two results of each step, whose difference is its error.

Both methods here have one controller (Lu et al. 2022, arXiv:2206.00927, app. C.4;
Jolicoeur-Martineau et al. 2021, arXiv:2105.14080, alg. 1). With x' the lower and x'' the higher
result, x'_prev the lower one of the step before and n the size of a sample,

    delta = max(atol, rtol max(|x'|, |x'_prev|))      E = |(x' - x'') / delta|_2 / sqrt(n)

A step with E <= 1 is taken, to x''. Either way the next step is h times 0.9 E^-r, a factor that is
kept from 0.2 to 10; the papers set no bounds. Every sample has its own steps; the denoiser sees the
whole batch, with one time for each sample.

The letters of the equations are those of `score_sde.solvers`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.processes import SDE
from score_sde.processes import coefficients as drift_and_diffusion
from score_sde.solvers import exponential
from score_sde.solvers.exponential import Interpolation, NoiseLevel, noise_level
from score_sde.solvers.runge_kutta import PAIRS, coefficients, results
from score_sde.types import Denoiser, PyTree, Solver, between, counted, expand

__all__ = ["dpm_adaptive", "gotta_go_fast"]


def dpm_adaptive(
    sde: SDE,
    order: int = 3,
    rtol: float | Array = 0.05,
    atol: float | Array = 0.0078,
    prediction: str = "eps",
    h_init: float = 0.05,
    max_steps: int = 4096,
) -> Solver:
    """DPM-Solver-12 and -23 (Lu et al. 2022, arXiv:2206.00927, app. C.4). From the same evaluations

        order 2    x' by `ddim`                             x'' by `dpm2`
        order 3    x~' = x~_t + (rho_s - rho_t) eps         x'' by `dpm_solver`
                         - (3/2) rho_s (e^h - 1) (eps(x_u, u) - eps)

    with u the time at 1/3 of the step in lambda; prediction="x0" is their DPM-Solver++ form.

    Orders 2 and 3, as many evaluations an attempted step, deterministic; `sample` reports the
    evaluations of each sample. For a wanted error from 0.05 (about 40 evaluations) to 1e-4 (about
    170), instead of a grid; below that `probability_flow` is cheaper.

    The error is about proportional to the tolerances; the default ones are as published, for data
    in [-1, 1]. h_init is the first step in lambda, which must be finite at both ends. `sample`
    takes the whole grid at once; only a trajectory takes it interval by interval, and the size of
    the step goes on to the next interval. A sample that needs more than max_steps attempts in an
    interval becomes NaN.

    Raises:
      ValueError: another order, an unknown prediction, or a process whose log-SNR is infinite at
        an end.
    """
    if order not in PAIRS:
        raise ValueError(f"order is {order!r}: one of 2, 3")
    method, pair = Interpolation(prediction), PAIRS[order]
    exponential.check(sde, method, None)
    exponential.check_ends(sde, "dpm_adaptive")
    control = _Control(rtol, atol, 1 / order, max_steps)

    def init(x, times):
        return _start(x, h_init)

    def step(noise, denoiser, x, t, s, state):
        counting, count = counted(denoiser)
        start, end = noise_level(sde, t), noise_level(sde, s)

        def attempt(x, carried, left, left_after):
            low, high = (_place(sde, start, end, part) for part in (left, left_after))
            rows = jax.vmap(lambda low, high: coefficients(sde, pair, method, low, high))(low, high)
            accurate, embedded = results(pair, rows, prediction, counting, x, low)
            return embedded, accurate, carried

        return _all_the_way(control, attempt, count, x, (), end.lam - start.lam, state)

    return Solver(init, step, nfe=lambda state: state.nfe, adaptive=True)


def _place(sde: SDE, start: NoiseLevel, end: NoiseLevel, left: Float[Array, " b"]) -> NoiseLevel:
    lam = between(start.lam, end.lam, left)
    # The ends of the step exactly, not as the inverse of their log-SNR.
    time = jnp.where(left < 1, sde.t_of_log_snr(2 * lam), start.t)
    time = jnp.where(left > 0, time, end.t)
    return NoiseLevel(time, sde.alpha(time), sde.sigma(time), lam)


def gotta_go_fast(
    sde: SDE,
    rtol: float | Array = 0.05,
    atol: float | Array = 0.0078,
    h_init: float = 0.01,
    max_steps: int = 16384,
) -> Solver:
    """The adaptive reverse SDE of Jolicoeur-Martineau et al. 2021 (arXiv:2105.14080, alg. 1). With
    F = f x - g^2 score, and dW the path's change over the step, of variance t - s,

        x' = x_t - (t - s) F(x_t, t) + g_t dW
        x'' = (x' + x_t - (t - s) F(x', s) + g_s dW)/2

    Strong order 1, two evaluations an attempted step, stochastic; `sample` reports the evaluations
    of each sample. To reproduce, and where no even grid in t suits the process. On EDM some 300
    evaluations leave an error of a few per cent in a Gaussian's variance, where 200 even steps of
    `euler_maruyama` leave up to 260 per cent; on VP both leave one per cent. `dpmpp_sde` needs far
    fewer.

    Unlike in the paper, each sample has one Brownian path, which a rejected step does not change.
    New noise after a rejection would favour noise that makes the error look small: in two
    dimensions, where four steps in ten are rejected, the variance becomes 1.6 to 3 times too
    large, more so at small tolerances. In thousands of dimensions hardly any step is rejected, and
    the two are alike.

    h_init is the first step, as a part of the whole grid in t. `sample` takes the whole grid at
    once; only a trajectory takes it interval by interval, and the size of the step goes on to the
    next interval. A sample that needs more than max_steps attempts in an interval becomes NaN. A
    sample depends on the key and its place in the batch, not on the other samples.

    Raises:
      ValueError: the log-SNR of the process is infinite at an end.
    """
    exponential.check_ends(sde, "gotta_go_fast")
    control = _Control(rtol, atol, 0.9, max_steps)

    def init(x, times):
        return _start(x, h_init * (times[0] - times[-1]))

    def step(noise, denoiser, x, t, s, state):
        counting, count = counted(denoiser)
        path = noise.along(t, s)

        def attempt(x, place, left, left_after):
            time, until = between(t, s, left), between(t, s, left_after)
            h, place_after = expand(time - until, x), path.place(left_after, x.shape)
            w = path.change(place, place_after)
            drift, g = _reverse(sde, counting, x, time)
            low = x - h * drift + g * w
            drift, g = _reverse(sde, counting, low, until)
            other = x - h * drift + g * w
            return low, (low + other) / 2, place_after

        place = path.place(jnp.ones_like(x, shape=x.shape[:1]), x.shape)
        return _all_the_way(control, attempt, count, x, place, t - s, state)

    return Solver(init, step, nfe=lambda state: state.nfe, adaptive=True)


def _reverse(sde: SDE, denoiser: Denoiser, x: Float[Array, "b ..."], time: Float[Array, " b"]):
    """Drift and diffusion of the reverse SDE."""
    f, g2 = drift_and_diffusion(sde, time)
    score = sde.score(x, time, denoiser(x, time).astype(x.dtype))
    return expand(f, x) * x - expand(g2, x) * score, expand(jnp.sqrt(g2), x)


class _Control(NamedTuple):
    """The options of the controller; exponent is r of the module's text."""

    rtol: float | Array
    atol: float | Array
    exponent: float
    max_steps: int


class _State(NamedTuple):
    """What goes from one step of the grid to the next: the size of the step to try, x'_prev, and
    the evaluations so far."""

    size: Float[Array, " b"]
    previous: Float[Array, "b ..."]
    nfe: Int[Array, " b"]


class _Walk(NamedTuple):
    """Where the samples stand between two times of the grid. `left` is the remaining part of the
    way: exactly 1 at the start and 0 at the end, and finely resolved next to the data."""

    left: Float[Array, " b"]
    x: Float[Array, "b ..."]
    carried: PyTree
    previous: Float[Array, "b ..."]
    size: Float[Array, " b"]
    attempts: Int[Array, " b"]


def _start(x: Array, size: Any) -> _State:
    return _State(jnp.full(x.shape[:1], size, x.dtype), x, jnp.zeros(x.shape[:1], jnp.int32))


def _all_the_way(
    control: _Control,
    attempt: Callable,
    evaluations: Callable[[], int],
    x: Float[Array, "b ..."],
    carried: PyTree,
    length: Float[Array, ""],
    state: _State,
) -> tuple[Float[Array, "b ..."], _State]:
    """Takes every sample from one time of the grid to the next.

    attempt: `(x, carried, left [b], left afterwards [b]) -> (x', x'', carried)`, one step. Arrays
        that are carried are [b, ...]; those of a rejected step are dropped.
    evaluations: the number of evaluations of an attempt, known once it is traced.
    length: of the way, in the variable in which steps have their size.
    """

    def running(walk: _Walk) -> Array:
        # A sample whose steps have become too small to move it is given up: it is not finite.
        moves = walk.left - walk.size != walk.left
        return (walk.left > 0) & moves & (walk.attempts < control.max_steps)

    def body(walk: _Walk) -> _Walk:
        on = running(walk)
        # Samples that have arrived are computed too; over the whole way all is finite.
        left = jnp.where(on, walk.left, 1.0)
        # A step takes along a rest that is not worth a step of its own.
        last = ~on | (1.001 * walk.size >= left)
        after = jnp.where(last, 0.0, left - walk.size)
        low, high, carried = attempt(walk.x, walk.carried, left, after)
        error = _scaled(low - high, low, walk.previous, control)
        factor = jnp.clip(0.9 * error**-control.exponent, 0.2, 10.0)
        factor = jnp.where(jnp.isfinite(error), factor, 0.2)
        accept = on & (error <= 1)
        size = (left - after) * factor
        # A last step that the end cut short does not make the next one smaller.
        size = jnp.where(accept & last, jnp.maximum(size, walk.size), size)

        def choose(new, old):
            return jax.vmap(jnp.where)(accept, new, old)

        return _Walk(
            choose(after, walk.left),
            choose(high, walk.x),
            jax.tree.map(choose, carried, walk.carried),
            choose(low, walk.previous),
            jnp.where(on, size, walk.size),
            walk.attempts + on.astype(jnp.int32),
        )

    ones = jnp.ones_like(state.size)
    walk = _Walk(ones, x, carried, state.previous, state.size / length, jnp.zeros_like(state.nfe))
    walk = jax.lax.while_loop(lambda walk: jnp.any(running(walk)), body, walk)
    x = jax.vmap(lambda left, x: jnp.where(left > 0, jnp.nan, x))(walk.left, walk.x)
    nfe = state.nfe + evaluations() * walk.attempts
    return x, _State(walk.size * length, walk.previous, nfe)


def _scaled(
    error: Float[Array, "b ..."],
    x: Float[Array, "b ..."],
    previous: Float[Array, "b ..."],
    control: _Control,
) -> Float[Array, " b"]:
    """E of the module's text."""
    largest = jnp.maximum(jnp.abs(x), jnp.abs(previous))
    delta = jnp.maximum(control.atol, control.rtol * largest)
    return jnp.sqrt(jnp.mean((error / delta) ** 2, axis=tuple(range(1, x.ndim))))
