"""How good samples of what comes are, once it has come."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr

__all__: list[str] = []  # what a config can name: nothing


def crps(
    samples: Float[np.ndarray, "k *shape"], truth: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """The continuous ranked probability score of each number, estimated without bias from k samples
    of its forecast (Gneiting & Raftery 2007, "Strictly proper scoring rules", eq. 21):

        E|X - y| - E|X - X'| / 2

    0 is best, in the units of the numbers. For one sample the second term is not known.

    Raises:
      ValueError: there are fewer than two samples.
    """
    k = len(samples)
    if k < 2:
        raise ValueError(f"the score needs at least 2 samples, not {k}")
    away = np.mean(np.abs(samples - truth), axis=0)
    # of sorted numbers, sum_{i<j} x_j - x_i = sum_i (2 i - k - 1) x_i
    weights = (2 * np.arange(1, k + 1) - k - 1).reshape(k, *[1] * (samples.ndim - 1))
    return away - np.sum(weights * np.sort(samples, axis=0), axis=0) / (k * (k - 1))


def crps_normal(
    mean: Float[np.ndarray, "*shape"],
    std: Float[np.ndarray, "*shape"],
    truth: Float[np.ndarray, "*shape"],
) -> Float[np.ndarray, "*shape"]:
    """That score of the forecast N(mean, std^2), with z = (truth - mean) / std (eq. 5 of Gneiting
    et al. 2005, "Calibrated probabilistic forecasting"):

        std (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi))
    """
    z = (truth - mean) / std
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return std * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))


def coverage(
    samples: Float[np.ndarray, "k *shape"], truth: Float[np.ndarray, "*shape"], level: float = 0.9
) -> tuple[float, float]:
    """The share of the numbers within the interval of the middle samples, and the share that a
    perfect forecast has there: 1 - 2 i / (k + 1), the one nearest to `level`, of the interval from
    the i-th smallest to the i-th largest of k samples.

    Raises:
      ValueError: there are too few samples for this level, or it is not between 0 and 1.
    """
    k = len(samples)
    i = round((1 - level) / 2 * (k + 1))
    if not 0 < level < 1 or not 1 <= i <= k // 2:
        raise ValueError(f"{k} samples have no interval of level {level}: take more")
    ordered = np.sort(samples, axis=0)
    inside = (ordered[i - 1] <= truth) & (truth <= ordered[k - i])
    return float(np.mean(inside)), 1 - 2 * i / (k + 1)
