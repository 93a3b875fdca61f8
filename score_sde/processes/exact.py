"""Distributions whose denoiser, score and log-density are known at every noise level.

Tests, notebooks and benchmarks compare with them. `Mixture`, `Gaussian` and `Dataset` are mixtures
of Gaussians: `x_t | k ~ N(alpha m_k, alpha^2 C_k + sigma^2 I)`, and given x_t the data of component
k has mean `m_k + alpha C_k (alpha^2 C_k + sigma^2 I)^-1 (x_t - alpha m_k)`. `Histograms` is the law
of integers after uniform dequantisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from score_sde.processes import exact_flow
from score_sde.processes.exact_table import Table as Table
from score_sde.processes.gaussian import SDE
from score_sde.types import Cond, Denoiser, FlowMap, Key

__all__ = ["ring", "three_gaussians"]  # what a config can name

# Accelerators multiply float32 matrices in fewer bits unless told not to.
_full_precision = jax.default_matmul_precision("highest")


class _Exact:
    """Derives all from two methods for one example x [d], alpha [] and sigma []:

    `_log_joint(x, alpha, sigma)`: ln p(k) + ln p_t(x | k), [k];
    `_mean(responsibility, x, alpha, sigma)`: E[x_0 | x] given p(k | x), [d].
    """

    _log_joint: Callable[..., Array]
    _mean: Callable[..., Array]

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

    @_full_precision
    def posterior(
        self, matrix: Float[Array, "m d"], y: Float[Array, " m"], noise: float
    ) -> Mixture:
        """The distribution of x given y = matrix x + noise z, a mixture again.

        With the gain K_k = C_k A^T (A C_k A^T + noise^2 I)^-1 of each component, its mean is
        m_k + K_k (y - A m_k), its covariance (I - K_k A) C_k, and its weight p(k) p(y | k).

        Raises:
          ValueError: the noise is not positive: without it the covariances are singular.
        """
        if not noise > 0:
            raise ValueError(f"noise must be positive, not {noise}")

        def one(mean, cov):
            across = matrix @ cov  # A C
            evidence = across @ matrix.T + noise**2 * jnp.eye(len(y), dtype=cov.dtype)
            away = y - matrix @ mean
            gain = jnp.linalg.solve(evidence, across).T
            left = jnp.eye(len(mean), dtype=cov.dtype) - gain @ matrix
            # (I - K A) C, as a sum of squares, which stays symmetric and positive
            rest = left @ cov @ left.T + noise**2 * gain @ gain.T
            log_density = jax.scipy.stats.multivariate_normal.logpdf(
                away, jnp.zeros_like(away), evidence
            )
            return mean + gain @ away, rest, log_density

        means, covs, log_evidence = jax.vmap(one)(self.means, self.covs)
        return Mixture(jax.nn.softmax(jnp.log(self.weights) + log_evidence), means, covs)

    def flow_map(self, sde: SDE) -> FlowMap:
        """The exact flow map, in one dimension; a ValueError in others, where none is known
        (`exact_flow.in_one_dimension`)."""
        parts = self.weights, self.means, self.covs
        return exact_flow.in_one_dimension(sde, *parts, self.denoiser(sde))

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

    def flow_map(self, sde: SDE) -> FlowMap:
        """The exact flow map (`exact_flow.gaussian`)."""
        return exact_flow.gaussian(sde, self.means[0], self.covs[0])


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
        # The square is not expanded, since it would cancel at small sigma. A few points at a time
        # keep the memory small.
        squares = jax.lax.map(
            lambda point: jnp.sum((x - alpha * point.ravel()) ** 2), self.points, batch_size=64
        )
        log_norm = x.size / 2 * jnp.log(2 * math.pi * variance) + math.log(len(self.points))
        return -squares / (2 * variance) - log_norm

    def _mean(self, responsibility, x, alpha, sigma):
        mean = responsibility @ self.points.reshape(len(self.points), -1)
        gain = alpha * self.std**2 / ((alpha * self.std) ** 2 + sigma**2)
        return mean + gain * (x - alpha * mean)


@dataclass(frozen=True, eq=False)
class Labelled:
    """A mixture whose components have classes, with the exact conditional denoiser.

    mixture: of k components; classes [k], from 0, each of some component.
    A condition is `{"label": int [b]}`, negative where the class is not known.
    """

    mixture: Mixture
    classes: Int[Array, " k"]

    @_full_precision
    def log_prob(
        self, sde: SDE, x: Float[Array, "b ..."], t: Array, cond: Cond
    ) -> Float[Array, " b"]:
        """Log-density of x_t at x given the class, nats."""
        return self._log_joint_prob(sde, x, t, cond) - self._log_share(cond["label"])

    @_full_precision
    def log_class(
        self, sde: SDE, x: Float[Array, "b ..."], t: Array, cond: Cond
    ) -> Float[Array, " b"]:
        """Log-probability of the class given x_t = x, nats: the exact classifier."""
        return self._log_joint_prob(sde, x, t, cond) - self.mixture.log_prob(sde, x, t)

    def denoiser(self, sde: SDE, cond: Cond) -> Denoiser:
        """The exact posterior mean E[x_0 | x_t, class]."""

        @_full_precision
        def one(label, x, alpha, sigma):
            responsibility = jax.nn.softmax(self._log_joint(label, x, alpha, sigma))
            return self.mixture._mean(responsibility, x, alpha, sigma)

        return lambda x_t, t: jax.vmap(one)(cond["label"], *_flatten(sde, x_t, t)).reshape(
            x_t.shape
        )

    def _log_joint(self, label, x, alpha, sigma):
        """That of the mixture, without the components of other classes."""
        ours = (label < 0) | (self.classes == label)
        return jnp.where(ours, self.mixture._log_joint(x, alpha, sigma), -jnp.inf)

    def _log_joint_prob(self, sde, x, t, cond):
        log_joint = jax.vmap(self._log_joint)(cond["label"], *_flatten(sde, x, t))
        return jax.nn.logsumexp(log_joint, axis=1)

    def _log_share(self, label):
        """ln p(class), [b]."""
        prior = jnp.log(self.mixture.weights)
        ours = (label < 0)[:, None] | (self.classes[None] == label[:, None])
        return jax.nn.logsumexp(jnp.where(ours, prior[None], -jnp.inf), axis=1)


@dataclass(frozen=True, eq=False)
class Histograms(_Exact):
    """A mixture of k densities. Each is a product over d coordinates of a density that is constant
    on each of n equal cells of [low, high].

    weights [k] (positive, sum 1); probabilities [k, d, n] of the cells (sum 1 over n).

    With noise a cell is `alpha U(a, b) + sigma z`. Its density at x is a difference of two normal
    distribution functions; its data, given x, is a truncated normal.
    """

    weights: Float[Array, " k"]
    probabilities: Float[Array, "k d n"]
    low: float = -1.0
    high: float = 1.0

    @property
    def _cell(self) -> float:
        return (self.high - self.low) / self.probabilities.shape[2]

    def _cells(self, x, alpha, sigma):
        """ln of the density of x_t at each coordinate from each cell, and the mean of x_0 in the
        cell given x_t, both [d, n]."""
        half = self._cell / 2
        middle = (
            self.low + half + self._cell * jnp.arange(self.probabilities.shape[2], dtype=x.dtype)
        )
        x = x[:, None]
        # Cells that are wide beside the noise, in closed form. A cell above x is mirrored to below
        # it, where the distribution function keeps its digits.
        offset = alpha * middle[None] - x  # [d, n]
        sign = jnp.where(offset > 0, -1, 1).astype(x.dtype)
        top, bottom = ((sign * offset + side * alpha * half) / sigma for side in (1, -1))
        log_top, log_bottom = (jax.scipy.special.log_ndtr(z) for z in (top, bottom))
        far = jnp.isneginf(log_top)
        ratio = jnp.exp(jnp.where(far, 0, log_bottom - log_top))
        log_mass = log_top + jnp.log1p(-ratio)
        tilt = jnp.exp(-(bottom**2) / 2 - log_mass) - jnp.exp(-(top**2) / 2 - log_mass)
        mean = (x + sign * sigma * tilt / math.sqrt(2 * math.pi)) / alpha
        wide = log_mass, jnp.clip(mean, middle[None] - half, middle[None] + half)
        # Narrow cells, whose difference would cancel, by Gauss-Legendre quadrature.
        nodes, weights = np.polynomial.legendre.leggauss(6)
        place = middle[None, :, None] + jnp.asarray(half * nodes, x.dtype)[None, None, :]
        log_normal = -(((x[..., None] - alpha * place) / sigma) ** 2) / 2
        log_weights = jnp.asarray(np.log(weights * half / math.sqrt(2 * math.pi)), x.dtype)
        log_node = log_normal + log_weights[None, None, :] + jnp.log(alpha / sigma)
        share = jax.nn.softmax(log_node, axis=-1)
        narrow = jax.nn.logsumexp(log_node, axis=-1), jnp.sum(share * place, axis=-1)
        is_wide = alpha * half > 0.4 * sigma
        log_mass, mean = (jnp.where(is_wide, a, b) for a, b in zip(wide, narrow, strict=True))
        return log_mass - jnp.log(alpha * self._cell), mean

    def _each_component(self, function):
        """`function(ln probabilities [d, n])` of every component, a few of them at a time."""
        return jax.lax.map(lambda p: function(jnp.log(p)), self.probabilities, batch_size=64)

    def _log_joint(self, x, alpha, sigma):
        log_density, _ = self._cells(x, alpha, sigma)

        def of_component(log_p):
            return jnp.sum(jax.nn.logsumexp(log_p + log_density, axis=1))

        return jnp.log(self.weights) + self._each_component(of_component)

    def _mean(self, responsibility, x, alpha, sigma):
        log_density, mean = self._cells(x, alpha, sigma)

        def of_component(log_p):
            return jnp.sum(jax.nn.softmax(log_p + log_density, axis=1) * mean, axis=1)

        return responsibility @ self._each_component(of_component)


def dequantized(
    images: Integer[Array | np.ndarray, "k ..."], values: int, low: float = -1.0, high: float = 1.0
) -> Histograms:
    """The law of these images, equally likely, after uniform dequantisation: a box for each image.

    Its denoiser is the ideal one of a network that is trained on them with `codec.dequantize`. It
    holds k d n numbers for n values, so it is for small data sets.
    """
    flat = jnp.asarray(images).reshape(len(images), -1)
    return Histograms(
        jnp.full(len(flat), 1 / len(flat), float),
        jax.nn.one_hot(flat, values, dtype=float),
        low,
        high,
    )


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
