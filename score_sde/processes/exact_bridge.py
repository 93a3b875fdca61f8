"""Bridges in closed form: pairs (x_0, x_1) of a mixture of Gaussians, and what lies between them.

The law of a pair and of `x_t = a x_0 + b x_1 + c z` is a mixture of Gaussians together, so the
posterior means of both ends are known: given x_t, and given x_t and x_1. For one Gaussian the
law that the reverse SDE draws is known too (`markovian`), and the plan of the Schroedinger bridge
(`schroedinger`), at which iterative Markovian fitting ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.processes.exact import Mixture
from score_sde.processes.gaussian import SDE, derivative
from score_sde.processes.two_ends import Weights, between
from score_sde.types import Denoiser, Ends, Key

_full_precision = jax.default_matmul_precision("highest")
_STEPS = 4000  # of `markovian`, of order 4


@dataclass(frozen=True, eq=False)
class Pairs:
    """A law of pairs (x_0, x_1), both in d dimensions: a mixture of k Gaussians of both together.

    weights [k] (positive, sum 1), means [k, 2 d], covs [k, 2 d, 2 d].
    """

    weights: Float[Array, " k"]
    means: Float[Array, "k n"]
    covs: Float[Array, "k n n"]

    @property
    def dims(self) -> int:
        """d."""
        return self.means.shape[1] // 2

    def sample(self, key: Key, n: int) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        """Draws n pairs."""
        both = Mixture(self.weights, self.means, self.covs).sample(key, n)
        return both[:, : self.dims], both[:, self.dims :]

    def denoiser(self, sde: SDE) -> Denoiser:
        """E[x_0 | x_t] on the bridges of this process: what bridge matching learns."""
        return self._first(lambda t: between(sde, t))

    def ends(self, sde: SDE) -> Ends:
        """E[x_0 | x_t], and E[x_1 | x_t] too if it is called with a third argument."""
        both = self._both(lambda t: between(sde, t))
        return lambda x_t, t, *s: both(x_t, t)[:, : (2 if s else 1) * self.dims]

    def interpolated(self, sde: SDE) -> Denoiser:
        """E[x_0 | x_t] of x_t = alpha x_0 + sigma x_1, without noise (`interpolant`)."""
        return self._first(lambda t: Weights(sde.alpha(t), sde.sigma(t), jnp.zeros_like(t)))

    def denoiser_given(self, sde: SDE, x_1: Float[Array, "b d"]) -> Denoiser:
        """E[x_0 | x_t, x_1] on the bridges: what a network that reads x_1 learns."""

        @_full_precision
        def one(x, x_1, t):
            law, weights = self._given(x_1), between(sde, t)
            # with y = x_t - b x_1 = a x_0 + c z and k = c^2/a, which is finite where a and c are 0
            k = sde.sigma(t) ** 2 / sde.alpha(t)
            y = x - weights.b * x_1

            def component(mean, cov):
                system = weights.a * cov + k * jnp.eye(len(y), dtype=y.dtype)
                away = y - weights.a * mean
                solved = jnp.linalg.solve(system, away)
                square = away @ solved / jnp.maximum(weights.a, jnp.finfo(y.dtype).tiny)
                log_density = -(square + jnp.linalg.slogdet(system)[1]) / 2
                return log_density, mean + cov @ solved

            log_densities, means = jax.vmap(component)(law.means, law.covs)
            return jax.nn.softmax(jnp.log(law.weights) + log_densities) @ means

        return lambda x_t, t: jax.vmap(one)(x_t, x_1, _of_each(t, x_t))

    def _given(self, x_1: Float[Array, " d"]) -> Mixture:
        """The law of x_0 given x_1."""
        d = self.dims

        def component(mean, cov):
            solved = jnp.linalg.solve(cov[d:, d:], cov[d:, :d]).T
            rest = cov[:d, :d] - solved @ cov[d:, :d]
            log_density = jax.scipy.stats.multivariate_normal.logpdf(x_1, mean[d:], cov[d:, d:])
            return mean[:d] + solved @ (x_1 - mean[d:]), (rest + rest.T) / 2, log_density

        means, covs, log_density = jax.vmap(component)(self.means, self.covs)
        return Mixture(jax.nn.softmax(jnp.log(self.weights) + log_density), means, covs)

    def _first(self, weights_at: Callable[[Array], Weights]) -> Denoiser:
        """E[x_0 | x_t] of x_t with these weights."""
        both = self._both(weights_at)
        return lambda x_t, t: both(x_t, t)[:, : self.dims]

    def _both(self, weights_at: Callable[[Array], Weights]) -> Denoiser:
        """[E[x_0 | x_t] | E[x_1 | x_t]]."""

        @_full_precision
        def one(x, t):
            weights = weights_at(t)
            a, b = weights.a, weights.b
            eye = jnp.eye(self.dims, dtype=x.dtype)
            matrix = jnp.concatenate([a * eye, b * eye], axis=1)

            def component(mean, cov):
                across = matrix @ cov
                system = across @ matrix.T + weights.c**2 * eye
                away = x - matrix @ mean
                log_density = jax.scipy.stats.multivariate_normal.logpdf(x, matrix @ mean, system)
                gain = jnp.linalg.solve(system, across).T
                return log_density, mean + gain @ away

            log_densities, means = jax.vmap(component)(self.means, self.covs)
            return jax.nn.softmax(jnp.log(self.weights) + log_densities) @ means

        return lambda x_t, t: jax.vmap(one)(x_t, _of_each(t, x_t))


def gaussian(
    means: tuple[Float[Array, " d"], Float[Array, " d"]],
    covs: tuple[Float[Array, "d d"], Float[Array, "d d"]],
    cross: Float[Array, "d d"],
) -> Pairs:
    """Pairs of one Gaussian. means, covs: of x_0 and of x_1. cross: Cov(x_0, x_1)."""
    whole = jnp.block([[covs[0], cross], [cross.T, covs[1]]])
    return Pairs(jnp.ones(1, whole.dtype), jnp.concatenate(means)[None], whole[None])


def independent(first: Mixture, second: Mixture) -> Pairs:
    """Pairs of independent x_0 and x_1: a component for each pair of components."""
    d = first.means.shape[1]
    means, covs, weights = [], [], []
    for i in range(len(first.weights)):
        for j in range(len(second.weights)):
            zero = jnp.zeros((d, d), first.covs.dtype)
            means.append(jnp.concatenate([first.means[i], second.means[j]]))
            covs.append(jnp.block([[first.covs[i], zero], [zero, second.covs[j]]]))
            weights.append(first.weights[i] * second.weights[j])
    return Pairs(jnp.stack(weights), jnp.stack(means), jnp.stack(covs))


@_full_precision
def schroedinger(
    sde: SDE,
    means: tuple[Float[Array, " d"], Float[Array, " d"]],
    covs: tuple[Float[Array, "d d"], Float[Array, "d d"]],
) -> Pairs:
    """The pairs of the Schroedinger bridge of this process between two Gaussians: of all pairs with
    these ends, those with the least KL to those of the process. With e = sigma^2/alpha^2 at t_max,
    S_1 the covariance of x_1/alpha,

        Cov(x_0, x_1/alpha) = (S_0^(1/2) D S_0^(-1/2) - e I)/2,
        D = (4 S_0^(1/2) S_1 S_0^(1/2) + e^2 I)^(1/2)

    (Janati et al. 2020, arXiv:2006.02572). The off-diagonal block of their precision is -I/e: only
    there do they know of each other, and as the process does.
    """
    end = jnp.asarray(sde.t_max, covs[0].dtype)
    alpha = sde.alpha(end)
    e = (sde.sigma(end) / alpha) ** 2
    eye = jnp.eye(len(covs[0]), dtype=covs[0].dtype)
    root, inverse = _power(covs[0], 0.5), _power(covs[0], -0.5)
    middle = _power(4 * root @ covs[1] @ root / alpha**2 + e**2 * eye, 0.5)
    return gaussian(means, covs, alpha * (root @ middle @ inverse - e * eye) / 2)


@_full_precision
def markovian(sde: SDE, pairs: Pairs) -> Pairs:
    """The pairs that the reverse SDE draws with the denoiser of these: its start at x_1, and its
    end. A round of iterative Markovian fitting (Shi et al. 2023, arXiv:2303.16852): the bridges of
    these pairs are projected on Markov processes, and its ends are the next pairs.

    With S_t = Cov(x_t) and g = Cov(x_0, x_t) S_t^-1, M = Cov(x_t, x_1) obeys

        dM/d ln b = (I + (a' b/b' - a) g) M

    which is integrated from t_max to t_min, and ends with E[x_0 | x_t].

    Raises:
      ValueError: the pairs are no single Gaussian.
    """
    if len(pairs.weights) != 1:
        raise ValueError("pairs in closed form are of one Gaussian")
    d, cov = pairs.dims, pairs.covs[0]
    first, second, cross = cov[:d, :d], cov[d:, d:], cov[:d, d:]
    eye = jnp.eye(d, dtype=cov.dtype)

    def gain(t):
        a, b, c = between(sde, t)
        whole = a**2 * first + b**2 * second + a * b * (cross + cross.T) + c**2 * eye
        return jnp.linalg.solve(whole, (a * first + b * cross).T).T

    def rate(log_t, m):
        """dM/d ln t."""
        t = jnp.exp(log_t)
        a, b, _ = between(sde, t)
        a_rate, b_rate = (
            derivative(lambda t, i=i: between(sde, t)[i], t) for i in range(2)
        )  # fmt: skip
        return t * (b_rate / b * m + (a_rate - a * b_rate / b) * gain(t) @ m)

    ends = jnp.log(jnp.asarray([sde.t_max, sde.t_min], cov.dtype))
    h = (ends[1] - ends[0]) / _STEPS

    def step(m, i):
        log_t = ends[0] + i * h
        k1 = rate(log_t, m)
        k2 = rate(log_t + h / 2, m + h / 2 * k1)
        k3 = rate(log_t + h / 2, m + h / 2 * k2)
        k4 = rate(log_t + h, m + h * k3)
        return m + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    m, _ = jax.lax.scan(step, second, jnp.arange(_STEPS, dtype=cov.dtype))
    drawn = gain(jnp.exp(ends[1])) @ m
    means = pairs.means[0]
    return gaussian((means[:d], means[d:]), (first, second), drawn)


def _power(matrix: Float[Array, "d d"], power: float) -> Float[Array, "d d"]:
    """A power of a symmetric, positive matrix."""
    eigenvalues, basis = jnp.linalg.eigh(matrix)
    return (basis * eigenvalues[None] ** power) @ basis.T


def _of_each(t: Array, x: Array) -> Array:
    return jnp.broadcast_to(jnp.asarray(t, x.dtype), x.shape[:1])
