"""From a config to likelihoods of raw examples."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from score_sde.config import at, build
from score_sde.errors import ConfigError
from score_sde.experiment.build import Experiment
from score_sde.runtime import mesh
from score_sde.sampling.bounds import ESTIMATE, EXACT, LOWER, Bound, Estimator
from score_sde.sampling.likelihood import log_likelihood
from score_sde.types import Key, PyTree, as_pytree


class Scores(NamedTuple):
    """nats [b], the log-density of the dequantised example, or its log-probability where that is
    what is estimated; bits_per_dim [b], or None where the codec has none; nfe [b], evaluations of
    the denoiser or of the ODE's right side."""

    nats: Float[Array, " b"]
    bits_per_dim: Float[Array, " b"] | None
    nfe: Int[Array, " b"]

    @property
    def best(self) -> tuple[str, Float[Array, " b"]]:
        """What tells most, and its name: bits per dimension, or else nats."""
        if self.bits_per_dim is None:
            return "nats", self.nats
        return "bits_per_dim", self.bits_per_dim


def build_likelihood(
    config: ConfigDict, experiment: Experiment
) -> Callable[[PyTree, Key, dict[str, Any]], Scores]:
    """A compiled `(params, root key, batch) -> Scores`. A batch is one of `Experiment.batches`: the
    dequantisation and the probes of an example depend on its number.

    Raises:
      ConfigError: the network is not a denoiser, or its codec has no density of raw examples.
    """
    experiment.check_denoises()
    codec, estimator = experiment.codec, _estimator(config, experiment)
    with at("likelihood"):
        jax.eval_shape(codec.dequantize, jax.random.key(0), codec.feature.abstract())

    @functools.partial(jax.jit, out_shardings=mesh.whole(experiment.mesh))
    def scores(result, codec, conditioner, params, root, batch):
        keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(root, i)))(batch["number"])
        raw = batch[codec.part]
        if estimator.of_levels:
            x = codec.middle(raw)
        else:
            x = jax.vmap(codec.dequantize)(keys[:, 0], raw)
        denoiser = result(params, conditioner.encode(batch))
        out = estimator.estimate(keys[:, 1], experiment.model.sde, denoiser, x)
        bits = -out.log_prob / (math.prod(codec.shape) * math.log(2))
        if not estimator.of_levels:
            bits = codec.bits_per_dim(out.log_prob)
        return Scores(out.log_prob, bits, out.nfe)

    result = as_pytree(experiment.objective.result)
    return functools.partial(scores, result, experiment.codec, experiment.conditioner)


def kind(config: ConfigDict, experiment: Experiment) -> str:
    """What the numbers of `build_likelihood` are of the model's log-likelihood
    (`bounds.Estimator.kind`)."""
    return _estimator(config, experiment).kind


def _estimator(config: ConfigDict, experiment: Experiment) -> Estimator:
    """`likelihood.bound`, or the probability-flow ODE.

    Raises:
      ConfigError: the process has no ODE.
    """
    options = config.likelihood
    if options.bound is not None:
        return build("sampling.bounds", options.bound, experiment.codec.levels)
    if experiment.model.sde.discrete:
        raise ConfigError(f"sde={config.sde} has no ODE: set likelihood.bound='elbo(draws=1)'")

    def by_ode(keys, sde, denoiser, x):
        out = log_likelihood(
            keys,
            sde,
            denoiser,
            x,
            probes=options.probes or None,
            rtol=options.rtol,
            atol=options.atol,
            method=options.method,
        )
        return Bound(out.log_prob, out.nfe)

    if experiment.codec.feature.values is not None:
        return Estimator(by_ode, LOWER)  # by dequantisation: Theis et al. 2016
    return Estimator(by_ode, ESTIMATE if options.probes else EXACT)
