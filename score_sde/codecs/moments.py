"""The diagonal Gaussian that an encoder gives, `[mean | log variance]` in the last axis (Kingma &
Welling 2013, arXiv:1312.6114)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.types import Keys, normal, real_dtype

LOG_VARIANCES = (-30.0, 20.0)  # those of latent diffusion (arXiv:2112.10752): others are clipped


def mean_and_std(
    moments: Float[Array, "*s c"],
) -> tuple[Float[Array, "*s z"], Float[Array, "*s z"]]:
    """Both halves, c = 2 z, with the log variance clipped to `LOG_VARIANCES`."""
    mean, log_variance = _split(moments)
    return mean, jnp.exp(0.5 * log_variance)


def sample(key: Keys, moments: Float[Array, "*s c"]) -> Float[Array, "*s z"]:
    """mean + std times standard normal noise. The key is one, or one for each example."""
    mean, std = mean_and_std(moments)
    return mean + std * normal(key, mean.shape, mean.dtype)


def kl(moments: Float[Array, "b *s c"]) -> Float[Array, " b"]:
    """The divergence KL(N(mean, std^2) || N(0, 1)) of each example in nats, the sum over its
    numbers of (mean^2 + std^2 - 1 - log std^2) / 2; in at least float32."""
    mean, log_variance = _split(moments.astype(real_dtype(moments)))
    terms = mean**2 + jnp.exp(log_variance) - 1 - log_variance
    return 0.5 * jnp.sum(terms.reshape(len(terms), -1), axis=1)


def _split(moments):
    mean, log_variance = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(log_variance, *LOG_VARIANCES)
