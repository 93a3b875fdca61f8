"""Mixtures of Gaussians that are tilted by a quadratic reward, or multiplied: mixtures again.

With the laws p of x_0 and q = p e^r / Z, both with noise, E[e^r(x_0) | x_t] = Z q_t(x_t)/p_t(x_t).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.processes.exact import Gaussian, Mixture
from score_sde.processes.gaussian import SDE

_full_precision = jax.default_matmul_precision("highest")


@dataclass(frozen=True, eq=False)
class TiltedLaw:
    """The law p e^r / Z. log_z: ln Z, nats."""

    base: Mixture
    law: Mixture
    log_z: Float[Array, ""]

    def value(self, sde: SDE, x: Float[Array, "b d"], t: Array) -> Float[Array, " b"]:
        """V_t = ln E[e^r(x_0) | x_t] at x, nats."""
        return self.log_z + self.law.log_prob(sde, x, t) - self.base.log_prob(sde, x, t)


@_full_precision
def tilted(
    mixture: Mixture, linear: Float[Array, " d"], quadratic: Float[Array, "d d"]
) -> TiltedLaw:
    """p e^r with r(x) = c.x - x'Kx/2, c = linear and K = quadratic, symmetric. Component k has the
    precision C_k^-1 + K, the mean (C_k^-1 + K)^-1 (C_k^-1 m_k + c), and the weight w_k Z_k / Z with

        ln Z_k = c.m_k - m_k'K m_k/2 + u'S u/2 - ln det(I + C_k K)/2

    with u = c - K m_k and S = (C_k^-1 + K)^-1, about m_k. Where K is not positive, C_k^-1 + K must
    be.
    """

    def one(mean, cov):
        eye = jnp.eye(len(mean), dtype=cov.dtype)
        grown = eye + cov @ quadratic
        left = jnp.linalg.solve(grown, cov)
        left = (left + left.T) / 2
        away = linear - quadratic @ mean
        at_mean = linear @ mean - mean @ quadratic @ mean / 2
        log_z = at_mean + away @ left @ away / 2 - jnp.linalg.slogdet(grown)[1] / 2
        return mean + left @ away, left, log_z

    means, covs, log_zs = jax.vmap(one)(mixture.means, mixture.covs)
    joint = jnp.log(mixture.weights) + log_zs
    return TiltedLaw(mixture, Mixture(jax.nn.softmax(joint), means, covs), jax.nn.logsumexp(joint))


@_full_precision
def times(first: Mixture, second: Mixture) -> TiltedLaw:
    """The product of two densities, over Z. Every pair of components is one: N(m_i, C_i) N(m_j,
    C_j) = N(m_i; m_j, C_i + C_j) N(m, C) with C = (C_i^-1 + C_j^-1)^-1."""

    def one(mean, cov, other, other_cov):
        gain = jnp.linalg.solve(cov + other_cov, cov).T
        left = jnp.eye(len(mean), dtype=cov.dtype) - gain
        log_z = jax.scipy.stats.multivariate_normal.logpdf(
            other - mean, jnp.zeros_like(mean), cov + other_cov
        )
        # as a sum of squares, which stays symmetric and positive
        both = left @ cov @ left.T + gain @ other_cov @ gain.T
        return mean + gain @ (other - mean), both, log_z

    with_all = jax.vmap(jax.vmap(one, in_axes=(None, None, 0, 0)), in_axes=(0, 0, None, None))
    means, covs, log_zs = with_all(first.means, first.covs, second.means, second.covs)
    joint = (jnp.log(first.weights)[:, None] + jnp.log(second.weights)[None] + log_zs).reshape(-1)
    d = means.shape[-1]
    law = Mixture(jax.nn.softmax(joint), means.reshape(-1, d), covs.reshape(-1, d, d))
    return TiltedLaw(first, law, jax.nn.logsumexp(joint))


@_full_precision
def powers(laws: tuple[Gaussian, ...], exponents: tuple[float, ...]) -> tuple[Gaussian, Array]:
    """prod_i p_i^beta_i / Z of Gaussians, and ln Z: the precision is sum_i beta_i C_i^-1, which
    must be positive, and precision times mean is sum_i beta_i C_i^-1 m_i.

    Raises:
      ValueError: the precision is not positive, so that the product has no finite integral.
    """
    d = laws[0].means.shape[1]
    precision, pulled, log_z = jnp.zeros((d, d)), jnp.zeros(d), jnp.zeros(())
    for law, beta in zip(laws, exponents, strict=True):
        mean, own = law.means[0], jnp.linalg.inv(law.covs[0])
        precision, pulled = precision + beta * own, pulled + beta * own @ mean
        log_norm = d * math.log(2 * math.pi) + jnp.linalg.slogdet(law.covs[0])[1]
        log_z = log_z - beta * (mean @ own @ mean + log_norm) / 2
    with jax.ensure_compile_time_eval():
        if not jnp.all(jnp.linalg.eigvalsh(precision) > 0):
            raise ValueError(f"exponents {exponents}: the product has no finite integral")
    cov = jnp.linalg.inv(precision)
    mean = cov @ pulled
    log_norm = d * math.log(2 * math.pi) + jnp.linalg.slogdet(cov)[1]
    return Gaussian(mean, (cov + cov.T) / 2), log_z + (pulled @ mean + log_norm) / 2
