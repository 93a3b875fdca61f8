"""Bounds of likelihoods, in the place of the ODE's: constructors
`(**options) -> ((keys [b], process, denoiser, x) -> Bound)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.sampling import token_likelihood
from score_sde.types import Denoiser, Keys

__all__ = ["elbo"]  # what a config can name


class Bound(NamedTuple):
    """log_prob: an estimate of a lower bound, nats. nfe: evaluations of the denoiser."""

    log_prob: Float[Array, " b"]
    nfe: Int[Array, " b"]


Estimate = Callable[[Keys, Any, Denoiser, Array], Bound]


def elbo(draws: int = 1, importance: bool = False) -> Estimate:
    """The evidence lower bound of tokens (`token_likelihood.elbo`)."""

    def estimate(keys, process, denoiser, x):
        log_prob = token_likelihood.elbo(
            keys, process, denoiser, x, draws=draws, importance=importance
        )
        calls = token_likelihood.evaluations(process, x.shape[1], draws)
        return Bound(log_prob, jnp.full(len(x), calls, jnp.int32))

    return estimate
