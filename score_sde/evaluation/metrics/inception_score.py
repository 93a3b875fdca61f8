"""The Inception Score (Salimans et al. 2016, arXiv:1606.03498)."""

from __future__ import annotations

import numpy as np
from scipy.special import xlogy

from score_sde.evaluation.metrics.summary import Summary


def inception_score(a: Summary) -> tuple[float, float]:
    """The mean and the standard deviation over splits of `exp E_x KL(p(y|x) || p(y))`.

    p(y) is the mean of p(y|x) over the split; empty splits are left out. A score is between 1 and
    the number of classes, and grows with the size of a split.

    Raises:
      ValueError: the extractor has no classes, or the set is empty.
    """
    count, probs, negentropy = (np.asarray(x) for x in a.scores)
    if not probs.shape[1]:
        raise ValueError("an Inception Score needs an extractor with classes")
    if not count.any():
        raise ValueError("an Inception Score needs at least one example")
    count, probs, negentropy = (x[count > 0] for x in (count, probs, negentropy))
    marginal = probs / count[:, None]
    scores = np.exp(negentropy / count - np.sum(xlogy(marginal, marginal), axis=1))
    return float(np.mean(scores)), float(np.std(scores))
