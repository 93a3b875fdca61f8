"""The kernel distance; with the features of Inception it is KID (Binkowski et al. 2018,
arXiv:1801.01401)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Float64, Int32

from score_sde.evaluation.metrics.summary import Summary, kept

_ROWS = 256  # of the kernel matrix, in memory at once


def kernel_distance(a: Summary, b: Summary) -> tuple[float, float]:
    """MMD^2 of the kernel `(x.y / d + 1)^3`, unbiased, and its standard error.

    It is over all pairs of examples in the reservoirs. The usual mean over 100 subsets of 1,000
    estimates the same number with more noise, and comes with the deviation between subsets. Here
    the error is the jackknife's standard error of the value, which errs on the large side (Efron &
    Stein 1981).

    Raises:
      ValueError: a reservoir has fewer than three examples.
    """
    x, y = kept(a), kept(b)
    n, m = len(x), len(y)
    if min(n, m) < 3:
        raise ValueError(f"a kernel distance needs three examples of each set, not {n} and {m}")
    own_x, own_y = np.arange(n, dtype=np.int32), np.arange(m, dtype=np.int32)
    with jax.enable_x64(True):
        xx, yy = np.asarray(_row_sums(x, x, own_x)), np.asarray(_row_sums(y, y, own_y))
        xy, yx = np.asarray(_row_sums(x, y, own_x - n)), np.asarray(_row_sums(y, x, own_y - m))

    def mmd(sum_xx, sum_xy, sum_yy, n, m):
        return sum_xx / (n * (n - 1)) + sum_yy / (m * (m - 1)) - 2 * sum_xy / (n * m)

    sums = xx.sum(), xy.sum(), yy.sum()
    without_x = mmd(sums[0] - 2 * xx, sums[1] - xy, sums[2], n - 1, m)
    without_y = mmd(sums[0], sums[1] - yx, sums[2] - 2 * yy, n, m - 1)
    variance = (n - 1) * np.var(without_x) + (m - 1) * np.var(without_y)
    return float(mmd(*sums, n, m)), float(np.sqrt(variance))


@jax.jit
def _row_sums(
    x: Float32[Array | np.ndarray, "n d"],
    y: Float32[Array | np.ndarray, "m d"],
    own: Int32[Array | np.ndarray, " n"],
) -> Float64[Array, " n"]:
    """`sum_j k(x_i, y_j)` over all j except `own[i]`; products in float32, sums in float64."""
    dim, column = x.shape[1], jnp.arange(y.shape[0], dtype=jnp.int32)

    def row(args):
        x_i, own_i = args
        dot = jnp.matmul(y, x_i, precision=jax.lax.Precision.HIGHEST).astype(jnp.float64)
        return jnp.sum(jnp.where(column == own_i, 0.0, (dot / dim + 1) ** 3))

    return jax.lax.map(row, (x, own), batch_size=_ROWS)
