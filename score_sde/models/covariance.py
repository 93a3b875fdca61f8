"""The best variance of a step, from the posterior covariance of a denoiser.

    Cov(x_0 | x_t) = (sigma_t^2/alpha_t) dD/dx_t

A step from t to s adds the noise of q(x_s | x_t, x_0), and with it what is not known of x_0:

    Var(x_s | x_t) = Var(x_s | x_t, x_0) + c^2 Var(x_0 | x_t),    c = alpha_s G^2/sigma_t^2

(Bao et al. 2022, arXiv:2201.06503, eq. 7, and 2206.07309; c is `Posterior.from_x0`). With it for
each number, `ancestral(variance="learned")` is exact at any number of steps where the data are
normal and their dimensions independent. The objective `hybrid` learns it; here it is made of any
denoiser.

A config names one in `sampling.variance`: `(sde, **options) -> (Denoiser -> Moments)`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from score_sde.errors import DataError
from score_sde.processes import SDE, posterior
from score_sde.runtime import json_file
from score_sde.types import Denoiser, Moments, Noise, expand

__all__ = ["by_level", "diagonal", "hutchinson", "measured"]  # what a config can name

Known = Callable[[Denoiser, Array, Array, Array], tuple[Array, Array]]
"""`(denoiser, x_t [b, ...], t, s) -> (D, Var(x_0 | x_t))`, both of the shape of x_t."""


def diagonal(sde: SDE) -> Callable[[Denoiser], Moments]:
    """The exact variance of each number, from one product with the Jacobian for each dimension of
    x: for few dimensions."""

    def known(denoiser, x, t, s):
        x_0, product = jax.linearize(lambda x: denoiser(x, t), x)
        size = math.prod(x.shape[1:])

        def add(total, i):
            unit = jnp.zeros(size, x.dtype).at[i].set(1).reshape(1, *x.shape[1:])
            return total + unit * product(jnp.broadcast_to(unit, x.shape)), None

        of_jacobian, _ = jax.lax.scan(add, jnp.zeros_like(x_0), jnp.arange(size))
        return x_0, _scale(sde, t, x) * of_jacobian

    return _moments(sde, known)


def hutchinson(sde: SDE, probes: int = 4) -> Callable[[Denoiser], Moments]:
    """The variance of each number as the mean of v (J v) over Rademacher probes v (Bekas et al.
    2007). It has no bias before it is cut off at 0; its spread is that of the other entries of a
    row of J. All examples have the same probes, and each step others. Each costs about one
    evaluation.

    Raises:
      ValueError: there are no probes.
    """
    if probes < 1:
        raise ValueError(f"probes must be at least 1, not {probes}")

    def known(denoiser, x, t, s):
        x_0, product = jax.linearize(lambda x: denoiser(x, t), x)
        keys = jax.random.split(Noise(jax.random.key(0)).at(t, s).key, probes)

        def add(total, key):
            v = jax.random.rademacher(key, (1, *x.shape[1:]), x.dtype)
            return total + v * product(jnp.broadcast_to(v, x.shape)), None

        of_jacobian, _ = jax.lax.scan(add, jnp.zeros_like(x_0), keys)
        return x_0, _scale(sde, t, x) / probes * of_jacobian

    return _moments(sde, known)


def by_level(
    sde: SDE, log_snr: Sequence[float], noise_error: Sequence[float]
) -> Callable[[Denoiser], Moments]:
    """One variance at each noise level, `(sigma/alpha)^2 |z - z^|^2` with the noise error of the
    network there, a mean over examples and dimensions: Analytic-DPM (arXiv:2201.06503). Measured on
    data, it counts the error of the network too, which is then the best (Bao et al. 2022,
    arXiv:2206.07309, sec. 3.2). It costs nothing.

    log_snr: increasing. Between two of them the error is interpolated.

    Raises:
      ValueError: the levels do not increase, or there are not as many errors.
    """
    rising = all(a < b for a, b in itertools.pairwise(log_snr))
    if len(log_snr) != len(noise_error) or not rising:
        raise ValueError("log_snr must increase, and there must be a noise_error for each")

    def known(denoiser, x, t, s):
        x_0 = denoiser(x, t)
        level = sde.log_snr(jnp.asarray(t, x_0.dtype))
        at = (jnp.asarray(a, level.dtype) for a in (log_snr, noise_error))
        of_level = jnp.exp(-level) * jnp.interp(level, *at)
        return x_0, jnp.broadcast_to(expand(of_level, x_0), x_0.shape)

    return _moments(sde, known)


def measured(sde: SDE, file: str) -> Callable[[Denoiser], Moments]:
    """`by_level` of the noise error that `--mode evaluate` with the part "loss" measured.

    file: DIR/evaluate.json.

    Raises:
      DataError: the file is not there, or has no noise error.
    """
    try:
        found: Any = json_file.read(file)["loss"]["noise_error"]
        log_snr, noise_error = (tuple(map(float, found[key])) for key in ("log_snr", "value"))
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError) as error:
        raise DataError(
            f"sampling.variance: {file} has no noise error: run --mode evaluate with "
            "evaluate.parts=('loss',), which writes it"
        ) from error
    try:
        return by_level(sde, log_snr, noise_error)
    except ValueError as error:
        raise DataError(f"sampling.variance: {file}: {error}") from error


def _moments(sde: SDE, known: Known) -> Callable[[Denoiser], Moments]:
    def with_variance(denoiser: Denoiser) -> Moments:
        def moments(x_t, t, *ends):
            if not ends:
                return denoiser(x_t, t)
            (s,) = ends
            x_0, variance = known(denoiser, x_t, t, s)
            step = posterior(sde, t, s)
            of_noise = expand(jnp.exp(step.log_variance), x_0)
            whole = of_noise + expand(step.from_x0, x_0) ** 2 * jnp.maximum(variance, 0)
            return jnp.concatenate([x_0, jnp.log(whole)], axis=-1)

        return moments

    return with_variance


def _scale(sde: SDE, t: Array, x: Array) -> Array:
    """sigma^2/alpha."""
    return expand(sde.sigma(t) ** 2 / sde.alpha(t), x)
