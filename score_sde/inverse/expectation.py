"""The Gaussian that explains incomplete data best, by expectation maximisation.

Of examples y = A x_0 + noise z, where A keeps the known numbers of each, a round takes the
posterior of every x_0 under N(m, C), and then the mean and covariance of all of them together
(Dempster, Laird & Rubin 1977):

    S = A C A^T + noise^2 I,    K = C A^T S^-1,    m_i = m + K (y_i - A m)
    m' = mean m_i,    C' = mean (C - K A C + (m_i - m')(m_i - m')^T)

It is what learning a diffusion model from its own restorations does, round by round, where the
model is Gaussian.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

_EXAMPLES = 256  # whose matrices are in memory at once


class Moments(NamedTuple):
    """N(mean, cov)."""

    mean: Float[np.ndarray, " d"]
    cov: Float[np.ndarray, "d d"]


def first(y: Float[np.ndarray, "n d"], known: Bool[np.ndarray, "n d"]) -> Moments:
    """The mean and variance of each number, where it is known, and no covariances.

    Raises:
      ValueError: a number is never known.
    """
    count = known.sum(axis=0)
    if not count.all():
        raise ValueError(f"{np.sum(count == 0)} of {len(count)} numbers are known of no example")
    y = np.where(known, y, 0).astype(np.float64)
    mean = y.sum(axis=0) / count
    variance = (np.where(known, y - mean, 0) ** 2).sum(axis=0) / count
    return Moments(mean, np.diag(variance))


def em_round(
    law: Moments,
    y: Float[np.ndarray, "n d"],
    known: Bool[np.ndarray, "n d"],
    noise: float = 0.0,
) -> Moments:
    """One round. y is not looked at where it is not known. Float64."""
    mean, cov = law
    seen = known.astype(np.float64)
    away = np.where(known, y - mean, 0)
    means, left = np.empty_like(away), np.zeros_like(cov)
    for i in range(0, len(y), _EXAMPLES):
        some = slice(i, i + _EXAMPLES)
        kept = seen[some, :, None] * cov  # A C, with rows of 0 for what is not known
        # where nothing is known S has a 1, so that it has an inverse
        diagonal = noise**2 * seen[some] + (1 - seen[some])
        evidence = kept * seen[some, None, :] + diagonal[:, :, None] * np.eye(len(mean))
        gain = np.linalg.solve(evidence, kept)  # K^T
        means[some] = mean + np.einsum("nji,nj->ni", gain, away[some])
        left += len(gain) * cov - np.einsum("nki,nkj->ij", gain, kept)
    centre = means.mean(axis=0)
    spread = (means - centre).T @ (means - centre)
    return Moments(centre, (left + spread) / len(y))


def em(
    y: Float[np.ndarray, "n d"],
    known: Bool[np.ndarray, "n d"],
    rounds: int,
    noise: float = 0.0,
) -> Moments:
    """The law after so many rounds from `first`. The likelihood of y rises in each.

    Raises:
      ValueError: a number is never known, or there are less than 0 rounds.
    """
    if rounds < 0:
        raise ValueError(f"rounds must be at least 0, not {rounds}")
    law = first(y, known)
    for _ in range(rounds):
        law = em_round(law, y, known, noise)
    return law
