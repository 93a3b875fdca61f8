"""Weights of guidance that depend on the noise level, and the mistakes that a weight shows before
anything is sampled."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.processes import SDE, Time
from score_sde.types import Grid

Weight = float | Array | Callable[[Time], Time]
"""A number, or a schedule `t -> w` of the shape of t."""

LARGEST = 20.0
"""The weight from which on a warning is given."""


def weight_at(weight: Weight, t: Time) -> Array:
    """The weight at t, [] or [b]."""
    return weight(t) if callable(weight) else jnp.asarray(weight)


def within(sde: SDE, weight: float, low: float, high: float) -> Callable[[Time], Time]:
    """The weight where ln(alpha^2/sigma^2) is in [low, high], and 1, no guidance, elsewhere
    (Kynkaanniemi et al. 2024, arXiv:2404.07724)."""

    def schedule(t):
        log_snr = sde.log_snr(t)
        return jnp.where((low <= log_snr) & (log_snr <= high), weight, jnp.ones_like(log_snr))

    return schedule


def cfg_pp_weight(sde: SDE, times: Grid, strength: float) -> Callable[[Time], Time]:
    """The weight with which a step of DDIM is one of CFG++ (Chung et al. 2024, arXiv:2406.08070).

    CFG++ denoises with the guided prediction and adds the unguided noise: x_s = alpha_s D_w +
    sigma_s eps_neg with w = strength. Since eps_neg - eps_w = (alpha/sigma) w (D_pos - D_neg), its
    step is that of DDIM with

        w(t) = strength / (1 - e^-h),    h = ln(alpha_s/sigma_s) - ln(alpha_t/sigma_t)

    s the time after t in the grid. Past the end of the grid, where the next noise level is zero, w
    is the strength. For strengths from 0 to 1.
    """

    def schedule(t):
        grid = times.astype(t.dtype)
        lam = sde.log_snr(grid) / 2
        h = jnp.append(jnp.diff(lam), jnp.inf)
        # the step that begins at t, or that t lies in
        index = jnp.searchsorted(-grid, -t, side="right") - 1
        return -strength / jnp.expm1(-h[jnp.maximum(index, 0)])

    return schedule


def checked(
    sde: SDE, times: Grid, weight: float, interval: tuple[float, float] | None = None
) -> Weight:
    """The weight that a config asks for, within an interval of log-SNR if it names one.

    It gives a UserWarning where the weight is negative or above `LARGEST`, and where the interval
    has no time of the grid.

    Raises:
      ValueError: the interval is none.
    """
    if weight < 0:
        warnings.warn(
            f"weight={weight} leads away from the condition: 1 is the conditional model, 0 the "
            "other one, and guidance begins above 1",
            stacklevel=3,
        )
    if weight > LARGEST:
        warnings.warn(
            f"weight={weight} is large: expect samples far from the data and out of their range, "
            "and divergence in few steps; 1 to 10 is usual",
            stacklevel=3,
        )
    if interval is None:
        return weight
    if len(interval) != 2 or not interval[0] < interval[1]:
        raise ValueError(f"interval={interval} is not (low, high), two log-SNRs with low < high")
    low, high = interval
    with jax.ensure_compile_time_eval():
        levels = np.asarray(sde.log_snr(jnp.asarray(times)))
    if not np.any((low <= levels) & (levels <= high)):
        warnings.warn(
            f"interval={interval} has no time of the grid, whose log-SNRs go from {levels[0]:.3g} "
            f"to {levels[-1]:.3g}: nothing is guided",
            stacklevel=3,
        )
    return within(sde, weight, low, high)


def check_strength(strength: float) -> None:
    """Gives a UserWarning where the strength of CFG++ is not from 0 to 1."""
    if not 0 <= strength <= 1:
        warnings.warn(
            f"strength={strength} is not between 0 and 1: the strength of CFG++ is no weight of "
            "classifier-free guidance",
            stacklevel=3,
        )


def share(name: str, value: float) -> float:
    """The value. Raises a ValueError unless it is from 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value} is not between 0 and 1")
    return value
