"""The probability-flow ODE (Song et al. 2021, sec. 4.3): log-likelihood, and inversion to noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.processes import SDE
from score_sde.sampling.token_likelihood import elbo as elbo
from score_sde.solvers.exponential import check_ends
from score_sde.solvers.ode import SAMPLES, integrate, together, velocity
from score_sde.types import Denoiser, Keys, expand, keys_of

INWARDS = "move that end of the process a little inwards"


class Likelihood(NamedTuple):
    """log_prob: nats. standard_error: that of each log_prob, nats; 0 with the exact trace, NaN with
    one probe, which cannot tell it. nfe: evaluations of the ODE's right side. noise: x at t_max."""

    log_prob: Float[Array, " b"]
    standard_error: Float[Array, " b"]
    nfe: Int[Array, " b"]
    noise: Float[Array, "b ..."]


def log_likelihood(
    key: Keys,
    sde: SDE,
    denoiser: Denoiser,
    x: Float[Array, "b ..."],
    *,
    probes: int | None = None,
    prior: Callable[[Array], Array] | None = None,
    **options,
) -> Likelihood:
    """log p(x) in nats of data x at t_min: `log p(x_T) + int div v dt` along the ODE dx = v dt.

    key: for the probes; one, or a typed one for each sample.
    probes: None for the exact trace of the Jacobian, which costs a directional derivative for each
        dimension of x; k for k Rademacher probes a sample, drawn once for the whole path (Skilling
        1989, Hutchinson 1990). Their spread gives the standard error.
    prior: log-density at t_max, `[b, ...] -> [b]`; default `sde.prior_log_prob`. The default
        ignores that x_T still depends on the data. The error is about alpha E[x_0] . z / sigma, a
        hundredth of a nat where the data is far from centred. An exact distribution can pass its
        own.
    options: rtol, atol, method, max_steps of `solvers.ode.integrate`. A sample that fails becomes
        NaN.

    Each sample has its own steps. With a key for each sample, the other samples of the batch change
    its result by rounding alone. In float32 rounding can refuse a step, which moves the result
    within rtol.

    Raises:
      ValueError: probes is less than 1, method is unknown, or the log-SNR of the process is
        infinite at an end.
    """
    check_ends(sde, "a likelihood", INWARDS)
    if probes is not None and probes < 1:
        raise ValueError(f"probes must be None (exact trace) or at least 1, not {probes}")
    t_min, t_max = (jnp.asarray(t, x.dtype) for t in (sde.t_min, sde.t_max))
    field = velocity(sde, together(denoiser))

    def solve(x, key):
        if probes is None:
            directions = jnp.eye(x.size, dtype=x.dtype).reshape(-1, *x.shape)
        else:
            directions = jax.random.rademacher(key, (probes, *x.shape), x.dtype)
        augmented = _with_divergence(field, directions, exact=probes is None)
        log_det = jnp.zeros((probes or 1,), x.dtype)
        return integrate(sde, augmented, (x, log_det), t_min, t_max, **options)

    (noise, log_dets), nfe = jax.vmap(solve, axis_name=SAMPLES)(x, keys_of(key, len(x)))
    if probes is None:
        error = jnp.zeros_like(log_dets[:, 0])
    else:
        error = jnp.std(log_dets, axis=1, ddof=1) / jnp.sqrt(probes)
    log_prob = (prior or sde.prior_log_prob)(noise) + jnp.mean(log_dets, axis=1)
    return Likelihood(log_prob, error, nfe, noise)


def _with_divergence(field: Callable, directions: Float[Array, "k ..."], exact: bool) -> Callable:
    """The field of (x, log-determinants), of one example: `(t, y) -> (dx/dt, u . J u)` for each
    direction u, with J the Jacobian; if exact, their sum, the trace."""

    def augmented(t, y):
        x, _ = y

        def along(direction):
            dx, tangent = jax.jvp(lambda x: field(t, x), (x,), (direction,))
            return dx, jnp.sum(direction * tangent)

        dx, traces = jax.vmap(along, out_axes=(None, 0))(directions)
        return dx, (jnp.sum(traces)[None] if exact else traces)

    return augmented


def invert(
    sde: SDE, denoiser: Denoiser, x: Float[Array, "b ..."], **options
) -> Float[Array, "b ..."]:
    """The noise at t_max from which the probability-flow ODE generates data x at t_min.

    options: as for `log_likelihood`.

    Raises:
      ValueError: method is unknown, or the log-SNR of the process is infinite at an end.
    """
    return _transport(sde, denoiser, x, sde.t_min, sde.t_max, options)


def generate(
    sde: SDE, denoiser: Denoiser, noise: Float[Array, "b ..."], **options
) -> Float[Array, "b ..."]:
    """The data at t_min from noise at t_max: the inverse of `invert`."""
    return _transport(sde, denoiser, noise, sde.t_max, sde.t_min, options)


def interpolate(
    a: Float[Array, "b ..."], b: Float[Array, "b ..."], weights: Float[Array, " n"]
) -> Float[Array, "n b ..."]:
    """Points on the great circle through two noises (Shoemake 1985; Song et al. 2021, app. D.5):
    `sin((1 - w) theta) / sin(theta) a + sin(w theta) / sin(theta) b`, theta the angle between them.
    w = 0 is a, 1 is b.

    Noise of many dimensions lies near a sphere, and so do these points; a straight line leaves it.
    """
    flat_a, flat_b = (x.reshape(len(x), -1) for x in (a, b))
    norms = jnp.linalg.norm(flat_a, axis=1) * jnp.linalg.norm(flat_b, axis=1)
    cosine = jnp.clip(jnp.sum(flat_a * flat_b, axis=1) / norms, -1, 1)
    angle = jnp.arccos(cosine)

    def one(w):
        # sin(w theta) / sin(theta), finite also where the angle is 0
        of_a, of_b = (
            u * jnp.sinc(u * angle / jnp.pi) / jnp.sinc(angle / jnp.pi) for u in (1 - w, w)
        )
        return expand(of_a, a) * a + expand(of_b, b) * b

    return jax.vmap(one)(weights)


def _transport(
    sde: SDE, denoiser: Denoiser, x: Array, start: Any, end: Any, options: dict
) -> Array:
    check_ends(sde, "the probability-flow ODE", INWARDS)
    start, end = jnp.asarray(start, x.dtype), jnp.asarray(end, x.dtype)
    field = velocity(sde, together(denoiser))

    def solve(x):
        return integrate(sde, field, x, start, end, **options)[0]

    return jax.vmap(solve, axis_name=SAMPLES)(x)
