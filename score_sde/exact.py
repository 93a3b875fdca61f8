"""Distributions whose denoiser, score and log-density are known at every noise level.

The truth that tests, notebooks and benchmarks stand on. All three are mixtures of Gaussians, for
which `x_t | k ~ N(alpha m_k, alpha^2 C_k + sigma^2 I)` and, given x_t, the data of component k has
mean `m_k + alpha C_k (alpha^2 C_k + sigma^2 I)^-1 (x_t - alpha m_k)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.sde import SDE
from score_sde.types import Denoiser, Key

__all__ = ["ring", "three_gaussians"]  # what a config can name

# Accelerators multiply float32 matrices in fewer bits unless told not to.
_full_precision = jax.default_matmul_precision("highest")


class _Exact:
    """What follows, for one example x [d] and its alpha [] and sigma [], from

    `_log_joint(x, alpha, sigma)`: ln p(k) + ln p_t(x | k), [k];
    `_mean(responsibility, x, alpha, sigma)`: E[x_0 | x] given p(k | x), [d].
    """

    @_full_precision
    def log_prob(self, sde: SDE, x: Float[Array, "b ..."], t: Array) -> Float[Array, " b"]:
        """Log-density of x_t at x, nats."""
        return jax.nn.logsumexp(jax.vmap(self._log_joint)(*_flatten(sde, x, t)), axis=1)

    @_full_precision
    def log_density(self, x: Float[Array, "b ..."]) -> Float[Array, " b"]:
        """Log-density of the data itself at x (no noise), nats."""
        x = x.reshape(x.shape[0], -1)
        ones = jnp.ones_like(x[:, 0])
        return jax.nn.logsumexp(jax.vmap(self._log_joint)(x, ones, 0 * ones), axis=1)

    def denoiser(self, sde: SDE) -> Denoiser:
        """The exact posterior mean E[x_0 | x_t]."""

        @_full_precision
        def one(x, alpha, sigma):
            responsibility = jax.nn.softmax(self._log_joint(x, alpha, sigma))
            return self._mean(responsibility, x, alpha, sigma)

        return lambda x_t, t: jax.vmap(one)(*_flatten(sde, x_t, t)).reshape(x_t.shape)

    def score(self, sde: SDE, x: Float[Array, "b ..."], t: Array) -> Float[Array, "b ..."]:
        """grad log p_t at x."""
        return sde.score(x, t, self.denoiser(sde)(x, t))


@dataclass(frozen=True, eq=False)
class Mixture(_Exact):
    """A mixture of k Gaussians in d dimensions with full covariances.

    weights [k] (positive, sum 1), means [k, d], covs [k, d, d] (symmetric, positive definite).
    """

    weights: Float[Array, " k"]
    means: Float[Array, "k d"]
    covs: Float[Array, "k d d"]

    def sample(self, key: Key, n: int) -> Float[Array, "n d"]:
        """Draws n points."""
        key_component, key_noise = jax.random.split(key)
        k = jax.random.categorical(key_component, jnp.log(self.weights), shape=(n,))
        z = jax.random.normal(key_noise, (n, self.means.shape[1]), self.means.dtype)
        return self.means[k] + jnp.einsum("nij,nj->ni", jnp.linalg.cholesky(self.covs)[k], z)

    def _project(self, x, alpha, sigma):
        """x - alpha m_k in the eigenbasis of each covariance, [k, d], and the variances there."""
        eigenvalues, basis = jnp.linalg.eigh(self.covs)
        projected = jnp.einsum("ki,kij->kj", x[None] - alpha * self.means, basis)
        return projected, alpha**2 * eigenvalues + sigma**2, eigenvalues, basis

    def _log_joint(self, x, alpha, sigma):
        projected, variance, _, _ = self._project(x, alpha, sigma)
        log_normal = -jnp.sum(projected**2 / variance + jnp.log(2 * math.pi * variance), axis=1) / 2
        return jnp.log(self.weights) + log_normal

    def _mean(self, responsibility, x, alpha, sigma):
        projected, variance, eigenvalues, basis = self._project(x, alpha, sigma)
        gain = alpha * eigenvalues / variance
        return responsibility @ (self.means + jnp.einsum("kij,kj->ki", basis, gain * projected))


class Gaussian(Mixture):
    """N(mean [d], cov [d, d])."""

    def __init__(self, mean: Float[Array, " d"], cov: Float[Array, "d d"]):
        super().__init__(jnp.ones((1,), mean.dtype), mean[None], cov[None])


@dataclass(frozen=True, eq=False)
class Dataset(_Exact):
    """The empirical distribution of points [n, ...], each blurred by N(0, std^2).

    Its denoiser is the ideal one that a network trained on these points alone would reach. With
    std 0 the data itself has no density and `log_density` is infinite or NaN.
    """

    points: Float[Array, "n ..."]
    std: float = 0.0

    def sample(self, key: Key, n: int) -> Float[Array, "n ..."]:
        """Draws n points."""
        key_point, key_noise = jax.random.split(key)
        points = jax.random.choice(key_point, self.points, (n,))
        return points + self.std * jax.random.normal(key_noise, points.shape, points.dtype)

    def _log_joint(self, x, alpha, sigma):
        variance = (alpha * self.std) ** 2 + sigma**2
        # Differences are formed before they are squared: at small sigma the expanded square
        # would cancel. A few points at a time keep the memory small.
        squares = jax.lax.map(
            lambda point: jnp.sum((x - alpha * point.ravel()) ** 2), self.points, batch_size=64
        )
        log_norm = x.size / 2 * jnp.log(2 * math.pi * variance) + math.log(len(self.points))
        return -squares / (2 * variance) - log_norm

    def _mean(self, responsibility, x, alpha, sigma):
        mean = responsibility @ self.points.reshape(len(self.points), -1)
        gain = alpha * self.std**2 / ((alpha * self.std) ** 2 + sigma**2)
        return mean + gain * (x - alpha * mean)


def ring(components: int = 8, radius: float = 1.0, std: float = 0.1) -> Dataset:
    """Equal Gaussians N(m_k, std^2 I) in two dimensions, their means evenly on a circle.

    Raises:
      ValueError: there are no components.
    """
    if components < 1:
        raise ValueError(f"a ring needs at least 1 component, not {components}")
    angles = np.linspace(0, 2 * np.pi, components, endpoint=False)
    return Dataset(jnp.asarray(radius * np.stack([np.cos(angles), np.sin(angles)], 1), float), std)


def three_gaussians() -> Mixture:
    """Three correlated components in two dimensions, centred as data scaled to [-1, 1] is."""
    weights = jnp.array([0.5, 0.3, 0.2])
    means = jnp.array([[1.5, 0.0], [-1.0, 1.0], [0.0, -1.5]])
    covs = [[[0.3, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.4]], [[0.2, -0.1], [-0.1, 0.2]]]
    return Mixture(weights, means - (weights @ means)[None], jnp.array(covs))


def _flatten(sde: SDE, x: Array, t: Array) -> tuple[Array, Array, Array]:
    """x as [b, d], alpha and sigma as [b]."""
    t = jnp.broadcast_to(jnp.asarray(t, x.dtype), x.shape[:1])
    return x.reshape(x.shape[0], -1), sde.alpha(t), sde.sigma(t)
