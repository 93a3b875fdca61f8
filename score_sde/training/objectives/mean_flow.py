"""Mean flows: the mean velocity from one time to another, by its own derivative."""

from __future__ import annotations

import math

from jax import lax
from jaxtyping import Array, Float

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.flow_map import slope, tau
from score_sde.models.model import Model
from score_sde.training.distances import Distance
from score_sde.training.flow_maps import Draw, Guiding, along, drawing
from score_sde.training.objective import Loss, Objective
from score_sde.training.objectives.denoising import noise_error
from score_sde.training.time_law import TimeLaw
from score_sde.types import PyTree, expand

__all__ = ["mean_flow"]  # what a config can name


def mean_flow(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    distance: Distance,
    equal: float = 0.75,
    drop_cond: float = 0.0,
    guidance: float = 1.0,
    mix: float = 0.0,
    guided_times: tuple[float, float] = (0.0, math.inf),
) -> Objective:
    """Mean flows (Geng et al. 2025, arXiv:2505.13447, alg. 1), on any Gaussian process. With U the
    slope of a step from t to s and tau the time of the rectified flow (`models.flow_map`),

        E[ distance(U(x_t, t, s) - stop_gradient(v - (tau_t - tau_s) dU/dtau)) ],    v = z - x_0

    where dU/dtau is the derivative along the line through x_0 and z at fixed s. The later time t
    and the earlier s are two draws of the law of t. The network must read "jump", and its change
    with t must be moderate: take a `c_noise` such as time(scale=1.0) or quarter_log_sigma.

    equal: how often s = t, where the loss is that of flow matching.
    drop_cond: as in `denoising`.
    guidance, mix, guided_times: the weight of classifier-free guidance that the network learns
        (`training.flow_maps.Guiding`): v and the line's direction become v_g. One more evaluation,
        and another one with a mix. Sample without guidance then. (The public code drops the
        conditions of the first examples of a batch, which also are those with s = t. So it never
        learns an unconditional jump. Here both are independent.)

    Raises:
      ValueError: the network does not read "jump"; equal or drop_cond is no probability; mix is not
        in [0, 1); guidance without drop_cond.
    """
    guiding = Guiding(guidance, mix, guided_times)
    guiding.check(drop_cond)
    draw = drawing(model, conditioner, time_law, equal=equal, drop_cond=drop_cond)

    def losses(params, key, batch, training):
        drawn = draw(key, batch, training)
        v = guiding.velocity(model, conditioner, params, drawn)
        return Loss(distance(residual(model, params, drawn, v)), drawn.t)

    return Objective(losses, noise_error(model), "noise_error", model.flow_map, gives="flow_map")


def residual(model: Model, params: PyTree, draw: Draw, v: Array) -> Float[Array, "b ..."]:
    """U less what it should be, at the velocity v."""
    mean = slope(model, params, draw.cond, draw.dropout)
    u, change = along(model.sde, lambda x, t: mean(x, t, draw.s), draw.x_t, draw.t, v)
    length = expand(tau(model.sde, draw.t) - tau(model.sde, draw.s), u)
    return u - lax.stop_gradient(v - length * change)
