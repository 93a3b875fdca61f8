"""How far a FlowMap is from the three identities that an exact one fulfils, by noise level.

With X(x, t, s) the end of the flow and v(x, t) the velocity of the probability-flow ODE,

    Eulerian    d_t X + v . grad X = 0          what consistency models and mean flows train
    Lagrangian  d_s X = v(X, s)                 what terminal velocity matching trains
    semigroup   X(X(x, t, u), u, s) = X(x, t, s)        shortcut models, progressive distillation

The velocity is that which the map states itself, by D(x, t, t). So a map that fulfils all three
belongs to some ODE; `diagnostics.score_error` says whether to the right one.

All are measured where every process is a rectified flow, in y = x/(alpha + sigma) and tau =
sigma/(alpha + sigma), whose velocity is E - D with E = (x - alpha D)/sigma, a number of the size of
the data. A measure is the root of the mean square of the residual over examples and coordinates,
divided by that of the velocity at x_t. It is unitless, and the same on every process. An Eulerian
residual of 1 says that the end moves as fast as the start.

In D the residuals have forms in which no digits cancel where sigma is small:

    Eulerian    tau_s/tau_t^2 (D_ts - D_tt) + (1 - tau_s/tau_t) dD_ts/dtau_t
    Lagrangian  (D_ss - D_ts)/tau_s + (1 - tau_s/tau_t) dD_ts/dtau_s
    semigroup   [tau_s (1/tau_u - 1/tau_t) (D_tu - D_ts) + (1 - tau_s/tau_u) (D_us - D_ts)]
                / (tau_t - tau_s)

where D_ts = D(x, t, s), d/dtau_t is taken along the flow, and D_us, D_ss are at the point that D_tu
or D_ts leads to. The Eulerian residual is what the loss of mean flows squares, and the semigroup's
is the error of a mean velocity.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.evaluation.diagnostics import ByNoiseLevel, Mask, Times, by_level, mean_square
from score_sde.models.flow_map import tau
from score_sde.processes import SDE, Time, derivative, jump
from score_sde.types import FlowMap, Key

End = Callable[[SDE, Time], Time]
"""`(sde, t) -> s`, where the flow from t ends."""


def part_of_tau(sde: SDE, t: Time, part: float | Array = 0.5) -> Time:
    """s with tau_s = part tau_t, not before t_min."""
    log_snr = 2 * jnp.log(1 / (part * tau(sde, t)) - 1)
    return jnp.maximum(sde.t_of_log_snr(log_snr), sde.t_min).astype(t.dtype)


def to_t_min(sde: SDE, t: Time) -> Time:
    """s = t_min, as of a consistency function."""
    return jnp.full_like(t, sde.t_min)


def eulerian(
    key: Key,
    sde: SDE,
    flow_map: FlowMap,
    x: Float[Array, "b ..."],
    times: Times,
    *,
    end: End = part_of_tau,
    mask: Mask | None = None,
) -> ByNoiseLevel:
    """The change of the end where the start moves along the flow, per velocity.

    x: data, from which the noisy x_t are made. end: where the flow ends, by default half-way in
        tau.
    """

    def residual(x_t, t):
        s = end(sde, t)
        own = flow_map(x_t, t, t)
        direction = sde.velocity(x_t, t, own)
        value, change = jax.jvp(
            lambda x, t: flow_map(x, t, s), (x_t, t), (direction, jnp.ones_like(t))
        )
        now, then = tau(sde, t), tau(sde, s)
        rate = derivative(lambda t: tau(sde, t), t)
        return (then / now**2) * (value - own) + ((1 - then / now) / rate) * change

    return _relative(key, sde, flow_map, x, times, mask, residual)


def lagrangian(
    key: Key,
    sde: SDE,
    flow_map: FlowMap,
    x: Float[Array, "b ..."],
    times: Times,
    *,
    end: End = part_of_tau,
    mask: Mask | None = None,
) -> ByNoiseLevel:
    """The error of the velocity of the end. The arguments are those of `eulerian`."""

    def residual(x_t, t):
        s = end(sde, t)
        value, change = jax.jvp(lambda s: flow_map(x_t, t, s), (s,), (jnp.ones_like(s),))
        x_s = jump(sde, x_t, t, s, value)
        now, then = tau(sde, t), tau(sde, s)
        rate = derivative(lambda s: tau(sde, s), s)
        return (flow_map(x_s, s, s) - value) / then + ((1 - then / now) / rate) * change

    return _relative(key, sde, flow_map, x, times, mask, residual)


def semigroup(
    key: Key,
    sde: SDE,
    flow_map: FlowMap,
    x: Float[Array, "b ..."],
    times: Times,
    *,
    end: End = part_of_tau,
    mask: Mask | None = None,
) -> ByNoiseLevel:
    """How far two jumps end from one, per length in tau; the middle u of the flow has the mean tau
    of its ends. The arguments are those of `eulerian`."""

    def residual(x_t, t):
        s = end(sde, t)
        now, then = tau(sde, t), tau(sde, s)
        middle = (now + then) / 2
        u = part_of_tau(sde, t, middle / now)
        once, first = flow_map(x_t, t, s), flow_map(x_t, t, u)
        second = flow_map(jump(sde, x_t, t, u, first), u, s)
        by_first = then * (1 / middle - 1 / now) * (first - once)
        return (by_first + (1 - then / middle) * (second - once)) / (now - then)

    return _relative(key, sde, flow_map, x, times, mask, residual)


def _relative(key, sde, flow_map, x, times, mask, residual) -> ByNoiseLevel:
    """The RMS of `residual(x_t, t)` over that of the velocity E - D, by noise level."""

    def squares(key, x_t, t):
        own = flow_map(x_t, t, t)
        velocity = sde.eps(x_t, t, own) - own
        return mean_square(residual(x_t, t)), mean_square(velocity)

    return by_level(key, sde, x, times, mask, squares)
