"""Improved mean flows: the velocity that a mean velocity implies, by regression."""

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

__all__ = ["improved_mean_flow"]  # what a config can name


def improved_mean_flow(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    distance: Distance,
    equal: float = 0.5,
    drop_cond: float = 0.0,
    guidance: float = 1.0,
    guided_times: tuple[float, float] = (0.0, math.inf),
) -> Objective:
    """Improved mean flows (Geng et al. 2025, arXiv:2512.02012), on any Gaussian process, in the
    words of `mean_flow`:

        V = U(x_t, t, s) + (tau_t - tau_s) stop_gradient(dU/dtau)        E[ distance(V - v) ]

    The derivative is along the network's own velocity U(x_t, t, t), not along v. So V is a function
    of x_t, and the loss is a regression of v on x_t: its target does not depend on the network, and
    its least value is that of flow matching. One evaluation more than `mean_flow`.

    equal, drop_cond: as in `mean_flow`.
    guidance, guided_times: as in `mean_flow`, with the mix 1 - 1/guidance, where v_g is
        v + (1 - 1/guidance)(U_c - U_0). (The paper draws the weight and tells the network; here it
        is fixed. The paper also has a second head for U(x_t, t, t); here the network itself says
        it.)

    Raises:
      ValueError: as `mean_flow`; guidance below 1.
    """
    if guidance < 1:
        raise ValueError(f"guidance={guidance} is below 1")
    guiding = Guiding(guidance, 1 - 1 / guidance, guided_times)
    guiding.check(drop_cond)
    draw = drawing(model, conditioner, time_law, equal=equal, drop_cond=drop_cond)

    def losses(params, key, batch, training):
        drawn = draw(key, batch, training)
        v = guiding.velocity(model, conditioner, params, drawn)
        return Loss(distance(implied(model, params, drawn) - v), drawn.t)

    return Objective(losses, noise_error(model), "noise_error", model.flow_map, gives="flow_map")


def implied(model: Model, params: PyTree, draw: Draw) -> Float[Array, "b ..."]:
    """V, the velocity at x_t that the mean velocity implies."""
    own = lax.stop_gradient(slope(model, params, draw.cond)(draw.x_t, draw.t))
    mean = slope(model, params, draw.cond, draw.dropout)
    u, change = along(model.sde, lambda x, t: mean(x, t, draw.s), draw.x_t, draw.t, own)
    length: Array = tau(model.sde, draw.t) - tau(model.sde, draw.s)
    return u + expand(length, u) * lax.stop_gradient(change)
