"""How the examples of two data sets are paired in a batch: augmentations, as `data.augment`.

Each changes the part "source", x_1, and leaves the others, which belong to x_0. They run on the
host beside the training, so a batch of any size may be paired exactly. The pairs are of the
batches of one process.

**Conditions.** A plan of x alone breaks them: an x_1 then depends on the class of the example that
it is sent to, and samples, whose x_1 does not, have another law than the class. So the cost may
count the condition too, `weight |c_i - c_j|^2` with c_j that of the example that x_1 number j came
with (Cheng & Schwing 2025, arXiv:2503.10636). A large weight pairs within a class.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from score_sde.data.source import Example
from score_sde.types import Feature

SOURCE = "source"


class Cost:
    """`|x_i - y_j|^2 + weight |c_i - c_j|^2` of the examples of a batch.

    part: of x_0. source: of x_1. cond: of the condition; whole numbers are classes, whose distance
    is 0 or 1. Numbers of pixels are scaled to [-1, 1].

    Raises:
      ValueError: the data set lacks a part; weight is below 0, or above 0 without a condition.
    """

    def __init__(
        self,
        features: Mapping[str, Feature],
        part: str = "image",
        source: str = SOURCE,
        cond: str | None = None,
        weight: float = 0.0,
    ):
        for name in (part, source, cond):
            if name is not None and name not in features:
                raise ValueError(f"the data set has no part {name!r}, only {', '.join(features)}")
        if weight < 0 or (weight > 0) != (cond is not None):
            raise ValueError(
                f"cond={cond!r} with weight={weight}: name the part of the condition, such as "
                "'label', and a weight above 0; or neither"
            )
        self.part, self.source, self.cond, self.weight = part, source, cond, weight
        values = features[part].values
        self.unit = 1.0 if values is None else 2 / (values - 1)
        self.classes = cond is not None and features[cond].values is not None

    def __call__(self, batch: Example) -> Float[np.ndarray, "b b"]:
        """Float64, x_0 in rows and x_1 in columns."""
        found = self.unit**2 * _squares(batch[self.part], batch[self.source])
        if self.cond is None:
            return found
        c = np.asarray(batch[self.cond])
        if self.classes:
            c = c.reshape(len(c), -1)
            return found + self.weight * np.any(c[:, None] != c[None], axis=2)
        return found + self.weight * _squares(c, c)


def exact_coupling(
    features: Mapping[str, Feature],
    part: str = "image",
    source: str = SOURCE,
    cond: str | None = None,
    weight: float = 0.0,
):
    """Optimal transport within the batch: of all ways to pair, the one with the least sum of costs
    (Pooladian et al. 2023, arXiv:2304.14772; Tong et al. 2023, arXiv:2302.00482). part, source,
    cond, weight: as of `Cost`."""
    from scipy.optimize import linear_sum_assignment

    cost = Cost(features, part, source, cond, weight)

    def paired(batch, u):
        _, chosen = linear_sum_assignment(cost(batch))
        return batch | {source: batch[source][chosen]}

    return paired


def entropic_coupling(
    features: Mapping[str, Feature],
    variance: float,
    part: str = "image",
    source: str = SOURCE,
    cond: str | None = None,
    weight: float = 0.0,
    iterations: int = 100,
):
    """The entropic plan P of the batch, `least <P, cost/2> + variance KL`, by Sinkhorn's iterations
    on logarithms; the x_1 of each x_0 is drawn from its row. As batches grow it is the plan of the
    Schroedinger bridge of `Brownian` with this variance, whose pairing bridge matching keeps.

    Raises:
      ValueError: variance or iterations is not above 0; as `Cost`.
    """
    cost = Cost(features, part, source, cond, weight)
    if variance <= 0 or iterations < 1:
        raise ValueError(f"variance={variance} and iterations={iterations} must be above 0")

    def paired(batch, u):
        plan = sinkhorn(cost(batch) / (2 * variance), iterations)
        rising = np.cumsum(plan, axis=1)
        chosen = np.sum(rising < u[:, None] * rising[:, -1:], axis=1)
        return batch | {source: batch[source][chosen]}

    return paired


def independent_coupling(features: Mapping[str, Feature], source: str = SOURCE):
    """No pairing: the x_1 of the batch in a random order.

    Raises:
      ValueError: the data set has no such part.
    """
    if source not in features:
        raise ValueError(f"the data set has no part {source!r}, only {', '.join(features)}")
    return lambda batch, u: batch | {source: batch[source][np.argsort(u)]}


def sinkhorn(cost: Float[np.ndarray, "b b"], iterations: int) -> Float[np.ndarray, "b b"]:
    """The plan `e^(f_i + g_j - cost_ij)` whose rows and columns sum to 1/b (Cuturi 2013,
    arXiv:1306.0895); the rows exactly, the columns as the iterations converge."""
    from scipy.special import logsumexp

    level = -np.log(len(cost))
    g = np.zeros(len(cost))
    for _ in range(iterations):
        f = level - logsumexp(g[None] - cost, axis=1)
        g = level - logsumexp(f[:, None] - cost, axis=0)
    f = level - logsumexp(g[None] - cost, axis=1)
    return np.exp(f[:, None] + g[None] - cost)


def _squares(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, "n m"]:
    """The squared distances of the examples of a from those of b."""
    a, b = (np.asarray(part, float).reshape(len(part), -1) for part in (a, b))
    squares = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)[None] - 2 * a @ b.T
    return np.maximum(squares, 0)
