"""All metrics of a set of samples at once, by name."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from score_sde.evaluation.metrics.frechet import frechet
from score_sde.evaluation.metrics.inception_score import inception_score
from score_sde.evaluation.metrics.kernel import kernel_distance
from score_sde.evaluation.metrics.neighbours import precision_recall
from score_sde.evaluation.metrics.summary import Summary, kept
from score_sde.evaluation.metrics.wasserstein import sliced_wasserstein


def scores(samples: Summary, reference: Summary) -> dict[str, float]:
    """The metrics of samples against a reference with the same features. With the features of
    Inception, `frechet` is FID and `kernel` KID. Without classes there is no Inception Score.

    frechet and the Inception Score use all examples, the others those in the reservoirs.
    """
    kernel, kernel_error = kernel_distance(samples, reference)
    shares = precision_recall(reference, samples)
    directions = jax.random.key(0)  # the same ones for every set of samples
    ours, theirs = (jnp.asarray(kept(summary)) for summary in (samples, reference))
    result = {
        "frechet": frechet(samples, reference),
        "kernel": kernel,
        "kernel_standard_error": kernel_error,
        **{name: float(value) for name, value in shares._asdict().items()},
        "sliced_wasserstein": float(sliced_wasserstein(directions, ours, theirs)),
    }
    if samples.scores.probs.shape[1]:
        mean, spread = inception_score(samples)
        result |= {"inception_score": mean, "inception_score_std": spread}
    return result
