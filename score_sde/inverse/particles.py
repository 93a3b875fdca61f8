"""A particle filter, which draws from the posterior in the limit of many particles."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.inverse.guiding import isotropic, posterior, pull
from score_sde.inverse.method import Method
from score_sde.inverse.observation import Known, Observation, known
from score_sde.inverse.spectral import ddim_step
from score_sde.processes import SDE
from score_sde.solvers import exponential
from score_sde.solvers.particles import effective_size, systematic, take
from score_sde.types import Solver, keys_of

__all__ = ["twisted"]


class Particles(NamedTuple):
    """The state of the filter, with p particles for each of o observations.

    left: steps still to take. log_weights: without the twist at the current x_t, which the next
    evaluation gives. nfe: evaluations of a particle.
    """

    left: Int[Array, ""]
    log_weights: Float[Array, "o p"]
    nfe: Int[Array, ""]


def twisted(
    sde: SDE, observation: Observation, threshold: float = 0.5, data_std: float = 1.0
) -> Method:
    """The twisted diffusion sampler (Wu et al. 2023, "Practical and asymptotically exact
    conditional sampling in diffusion models", alg. 1, arXiv:2306.17775).

    x [o * p, ...] holds p particles for each of the o observations y [o, ...]; those of one
    observation are neighbours. The twist p~(y | x_t) is the p(y | x_t) of `pigdm`. A step proposes
    x_s by ancestral sampling with the guided estimate, and multiplies the weight by

        w = p(x_s | x_t) p~(y | x_s) / (q(x_s | x_t, y) p~(y | x_t))

    The particles of an observation are resampled, systematically, where their effective number
    1/sum w^2 (Kong, w normed) is less than `threshold` p, and at the end. So the result has equal
    weights, and some particles more than once. As p grows, the result tends to the ancestral
    sampler's x given y, whatever the twist; as the steps grow in number too, to the posterior. The
    paper's remedy for a bad twist is more particles.

    Brings its own solver; linear A. For networks that predict the noise see `pigdm`. A step costs
    one evaluation and one product with the Jacobian; the end costs one evaluation.

    Raises:
      ValueError: A has no SVD, threshold is not in [0, 1], or, at the start, the batch is no
        multiple of the observations.
    """
    seen = known(observation, "twisted")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a part of the particles, from 0 to 1, not {threshold}")
    groups = len(seen.mean)

    def init(x, times):
        if len(x) % groups:
            raise ValueError(
                f"{len(x)} particles for {groups} observations: take a multiple of {groups}"
            )
        weights = jnp.zeros((groups, len(x) // groups), x.dtype)
        return Particles(jnp.int32(len(times) - 1), weights, jnp.int32(0))

    own = Solver(init, _step(sde, seen, threshold, data_std), lambda state: state.nfe)
    return Method(solver=lambda solver: own)


def _step(sde: SDE, seen: Known, threshold: float, data_std: float) -> Callable:
    groups = len(seen.mean)

    def twist(x, t, mean):
        """The gradient of ln p~(y | x_t) by the mean, and its value [o, p]."""
        each = seen._replace(mean=jnp.repeat(seen.mean, len(x) // groups, axis=0))
        gradient, value = pull(each, mean, isotropic(sde, t, data_std))
        return gradient, value.reshape(groups, -1)

    def step(noise, denoiser, x, t, s, state):
        key_resample, key_end = (keys_of(noise.fold(i).at(t, s).key, 1)[0] for i in (1, 2))
        mean, covariance = posterior(sde, denoiser, x, t)
        gradient, value = twist(x, t, mean)
        log_weights = state.log_weights + value
        few = effective_size(log_weights) < threshold * log_weights.shape[1]
        arrays = (x, mean, covariance(gradient), value.reshape(-1))

        def resample():
            own = jnp.arange(log_weights.shape[1], dtype=jnp.int32)[None]
            places = jnp.where(few[:, None], systematic(key_resample, log_weights), own)
            return [take(places, a) for a in arrays], jnp.where(few[:, None], 0, log_weights)

        (x, mean, shift, value), log_weights = jax.lax.cond(
            jnp.any(few), resample, lambda: ([*arrays], log_weights)
        )

        now, _ = ddim_step(sde, t, s, exponential.eta(1.0))
        shift = now.weights[0] * shift
        z = noise(t, s, x.shape)
        x = now.linear * x + now.weights[0] * mean + shift + now.noise * z
        # ln p(x_s | x_t) - ln q(x_s | x_t, y): two normal densities, `shift` apart
        away = shift / now.noise
        ratio = -jnp.sum((away * (z + away / 2)).reshape(len(x), -1), axis=1)
        log_weights = log_weights + (ratio - value).reshape(groups, -1)

        def end():
            _, value = twist(x, s, denoiser(x, s))
            return take(systematic(key_end, log_weights + value), x), 1

        x, more = jax.lax.cond(state.left == 1, end, lambda: (x, 0))
        return x, Particles(state.left - 1, log_weights, state.nfe + 1 + more)

    return step
