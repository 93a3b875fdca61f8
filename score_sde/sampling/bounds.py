"""Bounds of likelihoods, in the place of the ODE's: constructors
`(levels, **options) -> Estimator`, levels those of the codec's x, or None."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.config import build
from score_sde.processes import SDE
from score_sde.sampling import dequantisation, token_likelihood
from score_sde.sampling import information as by_information
from score_sde.sampling import variational as terms
from score_sde.solvers.exponential import check_ends
from score_sde.types import Denoiser, Keys, Levels, each_with, normal

__all__ = ["dequantised", "elbo", "information", "variational"]  # what a config can name

LOWER, EXACT, ESTIMATE = "lower bound", "exact", "estimate"


class Bound(NamedTuple):
    """log_prob: nats. nfe: evaluations of the denoiser, or of the ODE's right side."""

    log_prob: Float[Array, " b"]
    nfe: Int[Array, " b"]


Estimate = Callable[[Keys, Any, Denoiser, Array], Bound]


class Estimator(NamedTuple):
    """How log-likelihoods are estimated.

    estimate: `(keys [b], process, denoiser, x) -> Bound`.
    kind: what its log_prob is of the model's log-likelihood: LOWER, an unbiased estimate of a lower
        bound; EXACT, to the tolerance of the ODE; ESTIMATE, which can be on either side.
    of_levels: whether x is at its levels and log_prob its log-probability. Otherwise x is what the
        codec's `dequantize` gives, and log_prob a density if that has one.
    """

    estimate: Estimate
    kind: str = LOWER
    of_levels: bool = False


def elbo(levels: Levels | None, draws: int = 1, importance: bool = False) -> Estimator:
    """The evidence lower bound of tokens (`token_likelihood.elbo`)."""

    def estimate(keys, process, denoiser, x):
        log_prob = token_likelihood.elbo(
            keys, process, denoiser, x, draws=draws, importance=importance
        )
        return _bound(log_prob, token_likelihood.evaluations(process, x.shape[1], draws))

    return Estimator(estimate)


def information(
    levels: Levels | None, draws: int = 16, location: float = 2.0, scale: float = 2.0
) -> Estimator:
    """The bound of the log-density that the denoiser's errors give (`information.information`)."""

    def estimate(keys, process, denoiser, x):
        _check_gaussian(process)
        log_prob = by_information.information(
            keys, process, denoiser, x, draws=draws, location=location, scale=scale
        )
        return _bound(log_prob, draws)

    return Estimator(estimate)


def variational(
    levels: Levels | None,
    steps: int | None = None,
    draws: int = 16,
    samples: int = 1,
    grid: str = "log_snr",
    tau: float | None = None,
) -> Estimator:
    """The bound with a decoder over the levels at t_min (`sampling.variational`).

    steps: of the model's way back, all of them evaluated, along this grid; None for continuous
        time, estimated by as many evaluations as draws. With the exact denoiser, continuous time
        and a tau at which the decoder is sure, the bound is ln P(x) = -1/2 int E|x - D|^2 ds.
    samples: paths whose weights are averaged before the logarithm, a tighter bound; of steps alone.
    tau: the decoder is at the time at which half a cell is tau standard deviations of the noise;
        None for t_min. Where half a cell is many of them, as with few levels, 1.5 is a good start.

    Raises:
      ValueError: x has no levels, or steps, draws or samples do not fit.
    """
    known = _known(levels, "variational")
    for name, value in (("steps", steps or 1), ("draws", draws), ("samples", samples)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if samples > 1 and steps is None:
        raise ValueError("samples are paths of a model with steps: set steps too")

    def estimate(keys, process, denoiser, x):
        process = _begun(process, known, tau)
        key_noise, key_rest = each_with(keys, jax.random.split, 2)
        if steps is None:
            inside, calls = terms.diffusion(key_rest, process, denoiser, x, draws), draws
        else:
            times = build("sampling.grids", grid, process, steps)
            if samples > 1:

                def path(keys):
                    return terms.path_weight(keys, process, known, denoiser, x, times)

                weights = jax.lax.map(path, each_with(key_rest, jax.random.split, samples))
                return _bound(terms.log_mean_exp(weights), samples * steps)
            inside = terms.diffusion_of_steps(key_rest, process, denoiser, x, times)
            calls = steps
        noise = normal(key_noise, x.shape, x.dtype)
        ends = terms.prior_divergence(process, x) + terms.reconstruction(process, known, x, noise)
        return _bound(-ends - inside, calls)

    return Estimator(estimate, of_levels=True)


def dequantised(
    levels: Levels | None,
    law: str = "truncated_normal",
    samples: int = 1,
    tau: float | None = None,
    probes: int = 1,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str = "Dopri5",
) -> Estimator:
    """The bound of the mass that the density of the ODE has in the cell of x (`dequantisation`).

    law: of the noise within the cell, "uniform" or "truncated_normal".
    samples: points of the cell whose weights are averaged before the logarithm.
    tau: the ODE begins at the time at which half a cell is tau standard deviations of the noise;
        None for t_min.
    probes, rtol, atol, method: as the fields of `config.likelihood`. Of several samples the bound
        needs the exact trace, probes=0: the spread of probes raises the mean of exponentials, and
        the result is an estimate.

    Raises:
      ValueError: x has no levels, samples is less than 1, or the law is unknown.
    """
    known = _known(levels, "dequantised")
    if law not in dequantisation.LAWS:
        raise ValueError(f"unknown law {law!r}: one of {', '.join(dequantisation.LAWS)}")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}")

    def estimate(keys, process, denoiser, x):
        process = _begun(process, known, tau)
        density = dequantisation.density_of_ode(
            process, denoiser, probes=probes or None, rtol=rtol, atol=atol, method=method
        )
        noise = dequantisation.LAWS[law](process, known)
        return Bound(*dequantisation.log_mass(keys, density, noise, x, samples))

    return Estimator(estimate, ESTIMATE if probes and samples > 1 else LOWER, of_levels=True)


def _bound(log_prob: Float[Array, " b"], calls: int) -> Bound:
    return Bound(log_prob, jnp.full(len(log_prob), calls, jnp.int32))


def _known(levels: Levels | None, user: str) -> Levels:
    if levels is None:
        raise ValueError(
            f"{user} is for x of evenly spaced levels, such as images, and the codec's x has none"
        )
    return levels


def _check_gaussian(process: Any) -> None:
    if process.discrete:
        raise ValueError(f"{process} has no Gaussian noise: take the bound elbo")


def _begun(process: SDE, levels: Levels, tau: float | None) -> SDE:
    """The process from the time that tau says."""
    _check_gaussian(process)
    check_ends(process, "this bound", by_information.INWARDS)
    return terms.ended(process, levels, tau)
