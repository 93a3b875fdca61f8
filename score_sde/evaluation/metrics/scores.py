"""All metrics of a set of images at once, by name."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from score_sde.evaluation.metrics.frechet import frechet
from score_sde.evaluation.metrics.inception_score import inception_score
from score_sde.evaluation.metrics.kernel import kernel_distance
from score_sde.evaluation.metrics.neighbours import precision_recall
from score_sde.evaluation.metrics.summary import Summary, kept
from score_sde.evaluation.metrics.wasserstein import sliced_wasserstein


def scores(images: Summary, reference: Summary) -> dict[str, float]:
    """Of images against a reference of the same features. With those of Inception, `frechet` is
    FID and `kernel` KID; the Inception Score is left out where there are no classes.

    frechet and the Inception Score are of all images, the others of those in the reservoirs.
    """
    kernel, kernel_error = kernel_distance(images, reference)
    shares = precision_recall(reference, images)
    directions = jax.random.key(0)  # the same for all that is to be compared
    ends = (jnp.asarray(kept(summary)) for summary in (images, reference))
    result = {
        "frechet": frechet(images, reference),
        "kernel": kernel,
        "kernel_standard_error": kernel_error,
        **{name: float(value) for name, value in shares._asdict().items()},
        "sliced_wasserstein": float(sliced_wasserstein(directions, *ends)),
    }
    if images.scores.probs.shape[1]:
        mean, spread = inception_score(images)
        result |= {"inception_score": mean, "inception_score_std": spread}
    return result
