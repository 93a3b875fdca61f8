"""How well a classifier knows real examples after it learnt from others."""

from __future__ import annotations

import warnings

from jaxtyping import Float, Int
from numpy import ndarray


def accuracy(
    x: Float[ndarray, "n d"],
    labels: Int[ndarray, " n"],
    test_x: Float[ndarray, "m d"],
    test_labels: Int[ndarray, " m"],
    seed: int,
) -> float:
    """The share of test examples whose label a perceptron tells, which learnt from x: the
    classification accuracy score where x are samples (Ravuri & Vinyals 2019, arXiv:1905.10887).

    The perceptron has 128 hidden units. A tenth of x decides when it stops.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    net = MLPClassifier((128,), early_stopping=True, n_iter_no_change=20, random_state=seed)
    classifier = make_pipeline(StandardScaler(), net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 passes are enough
        classifier.fit(x, labels)
    return float(classifier.score(test_x, test_labels))
