"""The Frechet distance between Gaussians (Dowson & Landau 1982), the "FD" of FID."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from jaxtyping import Float, Float64

from score_sde.evaluation.metrics.summary import Summary


def frechet(a: Summary, b: Summary) -> float:
    """The distance between Gaussians with the means and unbiased covariances of two sets. With the
    features of Inception it is FID (arXiv:1706.08500).

    For n examples it exceeds the limit of many by about a constant over n: compare equal n.

    Raises:
      ValueError: fewer than two examples, or features that are not finite.
    """
    (mean_a, cov_a), (mean_b, cov_b) = _gaussian(a), _gaussian(b)
    return frechet_distance(mean_a, cov_a, mean_b, cov_b)


def frechet_distance(
    mean_a: Float[np.ndarray, " d"],
    cov_a: Float[np.ndarray, "d d"],
    mean_b: Float[np.ndarray, " d"],
    cov_b: Float[np.ndarray, "d d"],
) -> float:
    """`|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`, in float64.

    Covariances may be singular. The distance of a set from itself is 0 to rounding.
    """
    shift = np.asarray(mean_a, np.float64) - np.asarray(mean_b, np.float64)
    trace = np.trace(cov_a) + np.trace(cov_b) - 2 * trace_of_root(cov_a, cov_b)
    return float(shift @ shift + trace)


def trace_of_root(cov_a: Float[np.ndarray, "d d"], cov_b: Float[np.ndarray, "d d"]) -> float:
    """`tr (A B)^(1/2)` of positive semidefinite A and B.

    With A = L L^T and B = M M^T, the eigenvalues of A B are the squares of the singular values of
    L^T M. So no root of a rounding error is taken, and directions without variance cost no digits.
    """
    return float(np.sum(np.linalg.svd(factor(cov_a).T @ factor(cov_b), compute_uv=False)))


def factor(cov: Float[np.ndarray, "d d"]) -> Float64[np.ndarray, "d rank"]:
    """L with `L L^T = cov` to rounding, and as many columns as the rank of cov. It is the pivoted
    Cholesky factor, thirty times faster than eigenvectors in 2,048 dimensions."""
    packed, order, rank, _ = scipy.linalg.lapack.dpstrf(np.asarray(cov, np.float64), lower=1)  # pyright: ignore[reportAttributeAccessIssue]
    lower = np.tril(packed)[:, :rank]
    return lower[np.argsort(order)]


def _gaussian(
    summary: Summary,
) -> tuple[Float64[np.ndarray, " d"], Float64[np.ndarray, "d d"]]:
    count, mean, scatter = (np.asarray(x) for x in summary.moments)
    if count < 2:
        raise ValueError(f"a covariance needs at least two examples, not {count:.0f}")
    if not (np.isfinite(mean).all() and np.isfinite(scatter).all()):
        raise ValueError("some features are not finite")
    return mean, scatter / (count - 1)
