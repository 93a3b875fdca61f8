"""The Frechet distance between Gaussians (Dowson & Landau 1982), the "FD" of FID."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def frechet_distance(
    mean_a: Float[np.ndarray, " d"],
    cov_a: Float[np.ndarray, "d d"],
    mean_b: Float[np.ndarray, " d"],
    cov_b: Float[np.ndarray, "d d"],
) -> float:
    """`|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`, in float64.

    The trace of the root is that of the symmetric `(C_a^(1/2) C_b C_a^(1/2))^(1/2)`, whose
    eigenvalues are real, so singular covariances need no care.
    """
    values, basis = np.linalg.eigh(np.asarray(cov_a, np.float64))
    root = (basis * np.sqrt(np.maximum(values, 0))) @ basis.T
    product = np.linalg.eigvalsh(root @ np.asarray(cov_b, np.float64) @ root)
    trace = np.trace(cov_a) + np.trace(cov_b) - 2 * np.sum(np.sqrt(np.maximum(product, 0)))
    return float(np.sum((mean_a - mean_b) ** 2) + trace)


def frechet_of_samples(a: Float[np.ndarray, "n *d"], b: Float[np.ndarray, "m *d"]) -> float:
    """The distance between the Gaussians fitted to two sets of samples (unbiased covariances)."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    return frechet_distance(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))
