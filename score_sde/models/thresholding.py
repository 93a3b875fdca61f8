"""Denoisers kept in the range of the data, which guidance leaves (Saharia et al. 2022,
arXiv:2205.11487, sec. 2.3): constructors `(low, high, **options)` of a change Denoiser -> Denoiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp

from score_sde.types import Denoiser, expand

__all__ = ["dynamic", "none", "static"]  # what a config can name

Change = Callable[[Denoiser], Denoiser]


def none(low: float, high: float) -> Change:
    """Nothing is changed."""
    return lambda denoiser: denoiser


def static(low: float, high: float) -> Change:
    """Clips E[x_0 | x_t] to [low, high]."""
    return lambda denoiser: lambda x_t, *times: jnp.clip(denoiser(x_t, *times), low, high)


def dynamic(low: float, high: float, percentile: float = 0.995) -> Change:
    """Clips an example to [-s, s] times the range and divides by s, where s is this quantile of its
    distance from the middle of the range, in halves of the range, and at least 1: with low = -1 and
    high = 1, clip(D, -s, s) / s and s = max(1, quantile |D|).

    Raises:
      ValueError: the percentile, a share, is not in [0, 1]; or the range is infinite.
    """
    if not 0 <= percentile <= 1:
        raise ValueError(f"percentile={percentile} is not between 0 and 1")
    if not math.isfinite(high - low):
        raise ValueError("data without bounds, such as real numbers, have no range to be kept in")
    middle, half = (low + high) / 2, (high - low) / 2

    def change(denoiser):
        def denoise(x_t, *times):
            unit = (denoiser(x_t, *times) - middle) / half
            size = jnp.abs(unit).reshape(len(unit), -1)
            s = expand(jnp.maximum(jnp.quantile(size, percentile, axis=1), 1), unit)
            return middle + half * jnp.clip(unit, -s, s) / s

        return denoise

    return change
