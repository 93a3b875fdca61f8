"""Alpha-flows: from flow matching to mean flows in one training."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.flow_map import slope, t_of_tau, tau
from score_sde.models.model import Model
from score_sde.training.distances import Distance
from score_sde.training.flow_maps import Draw, Guiding, along, drawing
from score_sde.training.objective import Loss, Objective
from score_sde.training.objectives.denoising import noise_error
from score_sde.training.time_law import TimeLaw
from score_sde.types import PyTree, expand

__all__ = ["alpha_flow"]  # what a config can name


def alpha_flow(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    distance: Distance,
    start: int,
    end: int,
    sharpness: float = 25.0,
    least: float = 0.005,
    equal: float = 0.25,
    drop_cond: float = 0.0,
    guidance: float = 1.0,
    mix: float = 0.0,
    guided_times: tuple[float, float] = (0.0, math.inf),
) -> Objective:
    """Alpha-flows (Zhang et al. 2025, arXiv:2510.20771, eq. 12), on any Gaussian process, in the
    words of `mean_flow`. With k the alpha of the paper, a step of h = k (tau_t - tau_s) goes from
    x_t along v to x' at t', and U is to be

        k v + (1 - k) stop_gradient(U(x', t', s))

    At k = 1 this is flow matching, at k = 1/2 it has the target of shortcut models with one half of
    the way by data, and the limit k = 0 is `mean_flow`, as which it is computed. k falls from 1 to
    0 in training.

    The error is divided by k, that is, the target is that of `mean_flow` with the difference
    quotient (1 - k)(U(x_t, t, s) - U(x', t', s))/h for dU/dtau. So the gradient of the square is
    that of the paper's, whose weight is 1/k. That of adaptive(power=1.0, constant=c) is the
    paper's, k/(err + c k^2): in the public code the constant is not multiplied by k^2, so that it
    stops learning where err is below it. A k between 0 and 1 has a bias of order k.

    start, end: the steps of training between which k falls.
    sharpness: of the fall, 1/(1 + exp(sharpness p)) with p from -1/2 to 1/2.
    least: k is 0 below it, and 1 where it is as near to 1.
    equal, drop_cond, guidance, mix, guided_times: as in `mean_flow`.

    Raises:
      ValueError: as `mean_flow`; end is not after start.
    """
    if not start < end:
        raise ValueError(f"start={start} must be before end={end}")
    guiding = Guiding(guidance, mix, guided_times)
    guiding.check(drop_cond)
    draw = drawing(model, conditioner, time_law, equal=equal, drop_cond=drop_cond)

    def losses(params, key, batch, training):
        drawn = draw(key, batch, training)
        v = guiding.velocity(model, conditioner, params, drawn)
        k = (
            jnp.zeros(())
            if training is None
            else share(training.step, start, end, sharpness, least)
        )
        return Loss(distance(residual(model, params, drawn, v, k)), drawn.t)

    return Objective(losses, noise_error(model), "noise_error", model.flow_map, gives="flow_map")


def share(step: Array, start: int, end: int, sharpness: float, least: float) -> Float[Array, "*b"]:
    """k at steps of training (`alpha_flow`)."""
    progress = (jnp.asarray(step, jnp.float32) - (start + end) / 2) / (end - start)
    k = jax.nn.sigmoid(-sharpness * progress)
    k = jnp.where((progress < -0.5) | (k > 1 - least), 1, k)
    return jnp.where((progress > 0.5) | (k < least), 0, k)


def residual(
    model: Model, params: PyTree, draw: Draw, v: Array, k: Float[Array, ""]
) -> Float[Array, "b ..."]:
    """U less what it should be, over k, at the velocity v."""
    sde, x_t, t, s = model.sde, draw.x_t, draw.t, draw.s
    mean = slope(model, params, draw.cond, draw.dropout)
    length = tau(sde, t) - tau(sde, s)
    k = k.astype(x_t.dtype)

    def derivative():
        return along(sde, lambda x, t: mean(x, t, s), x_t, t, v)

    def difference():
        h = k * length
        before = jnp.clip(t_of_tau(sde, tau(sde, t) - h), s, t)
        total, total_before = (sde.alpha(u) + sde.sigma(u) for u in (t, before))
        x_before = expand(total_before, v) * (x_t / expand(total, v) - expand(h, v) * v)
        u, u_before = mean(x_t, t, s), mean(x_before, before, s)
        far = length > 0  # else h is 0
        return u, expand(jnp.where(far, (1 - k) / jnp.where(far, h, 1), 0), v) * (u - u_before)

    u, change = lax.cond(k == 0, derivative, difference)
    return u - lax.stop_gradient(v - expand(length, v) * change)
