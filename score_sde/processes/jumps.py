"""One step of DDIM, from t to s with a value D, and its inverse.

With r = sigma_s/sigma_t and k = alpha_s - r alpha_t the step is

    x_s = r x_t + k D

so x_s and D say the same. A `FlowMap` `(x_t, t, s) -> D` is a flow `(x_t, t, s) -> x_s` in other
words.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from score_sde.processes.gaussian import SDE, Time
from score_sde.types import FlowMap, expand

_INFINITE = 80.0  # a log-SNR beyond which nothing changes to float64's rounding


def coefficients(sde: SDE, t: Time, s: Time) -> tuple[Time, Time]:
    """r and k, of the shape of t and s together. k keeps its digits where s is near t, and where
    alpha or sigma is 0 at an end."""
    now, then = (jnp.clip(sde.log_snr(a), -_INFINITE, _INFINITE) for a in (t, s))
    return sde.sigma(s) / sde.sigma(t), -sde.alpha(s) * jnp.expm1((now - then) / 2)


def jump(sde: SDE, x_t: Array, t: Time, s: Time, value: Array) -> Array:
    """x_s, the step of DDIM from x_t [b, ...] with D = value; times are [] or [b]. At s = t it is
    x_t, whatever D is."""
    r, k = coefficients(sde, t, s)
    return expand(r, x_t) * x_t + expand(k, x_t) * value


def jump_value(sde: SDE, x_t: Array, t: Time, s: Time, x_s: Array) -> Array:
    """D, with which the step of DDIM from x_t leads to x_s, for s not t."""
    r, k = coefficients(sde, t, s)
    return (x_s - expand(r, x_t) * x_t) / expand(k, x_t)


def flow(sde: SDE, flow_map: FlowMap) -> Callable[[Array, Time, Time], Array]:
    """`(x_t, t, s) -> x_s`, the flow along a FlowMap."""
    return lambda x_t, t, s: jump(sde, x_t, t, s, flow_map(x_t, t, s))
