"""A table whose law is known: a Gaussian copula of columns with known marginals."""

from __future__ import annotations

import numpy as np
from scipy import stats
from scipy.special import ndtri

from score_sde.data.draws import uniform
from score_sde.data.source import Data
from score_sde.data.table import numeric, table
from score_sde.errors import DataError
from score_sde.types import Column

__all__ = ["copula"]

TRAIN, TEST = range(2)  # each has random numbers of its own

MARGINALS = {
    "wait": stats.expon(scale=3.0),
    "price": stats.lognorm(s=0.8, scale=20.0),
    "share": stats.beta(2.0, 5.0),
}
KINDS, CHANCES = ("bus", "train", "tram"), (0.5, 0.3, 0.2)
# of the normal numbers behind wait, price, share and kind
CORRELATION = np.array(
    [[1.0, 0.7, -0.3, 0.5], [0.7, 1.0, 0.2, 0.3], [-0.3, 0.2, 1.0, -0.4], [0.5, 0.3, -0.4, 1.0]]
)


def copula(*, train: int = 5000, test: int = 1000, seed: int = 0) -> Data:
    """Rows of three real numbers and a category: "wait" is exponential, "price" log-normal, "share"
    of the beta law (2, 5), and "kind" one of bus, train and tram with chances .5, .3 and .2.

    Normal numbers z with CORRELATION r are behind them: a number is the quantile of its marginal at
    Phi(z), and the category that in whose share Phi(z) is. So the rank correlation of two numbers
    is 6/pi asin(r/2).

    Raises DataError where train or test is below 4.
    """
    if min(train, test) < 4:
        raise DataError(f"train and test must be at least 4, got {train} and {test}")
    root = np.linalg.cholesky(CORRELATION)
    edges = np.cumsum(CHANCES)[:-1]

    def rows(split: int, size: int) -> np.ndarray:
        normal = ndtri(uniform((seed, split), 4 * size).reshape(size, 4) + 2.0**-54)
        level = stats.norm.cdf(normal @ root.T)
        numbers = [law.ppf(level[:, i]) for i, law in enumerate(MARGINALS.values())]
        return np.stack([*numbers, np.searchsorted(edges, level[:, 3])], axis=1)

    both = rows(TRAIN, train), rows(TEST, test)
    columns = [numeric(name, both[0][:, i]) for i, name in enumerate(MARGINALS)]
    return table("copula", [*columns, Column("kind", KINDS)], *both)
