"""Terminal velocity matching: a flow map moves with its end as the flow does there."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.flow_map import slope, tau
from score_sde.models.model import Model
from score_sde.processes import derivative
from score_sde.training import ema
from score_sde.training.distances import Distance
from score_sde.training.flow_maps import Draw, drawing
from score_sde.training.objective import Loss, Objective
from score_sde.training.objectives.denoising import noise_error
from score_sde.training.time_law import TimeLaw
from score_sde.types import PyTree, expand

__all__ = ["terminal_velocity"]  # what a config can name


def terminal_velocity(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    distance: Distance,
    equal: float = 0.0,
    drop_cond: float = 0.0,
    target_rate: float = 0.0,
) -> Objective:
    """Terminal velocity matching (Zhou et al. 2025, arXiv:2511.19797), on any Gaussian process, in
    the words of `mean_flow`. With y_s = y_t - (tau_t - tau_s) U(x_t, t, s) where the flow map ends,

        E[ distance(dy_s/dtau_s - stop_gradient(U(x_s, s, s))) + distance(U(x_s', s, s) - v) ]

    The first is the Lagrangian identity, `dy_s/dtau_s = U - (tau_t - tau_s) dU/dtau_s`, whose
    gradient flows through the derivative too; x_t and t are fixed. The second is flow matching, at
    the noised example x_s' of the same time s. (The paper draws that time anew, and guides.)

    equal, drop_cond: as in `mean_flow`; the first term says nothing where s = t.
    target_rate: U(x_s, s, s) is that of averaged parameters, of this decay; 0 takes the present
        ones.

    Raises:
      ValueError: the network does not read "jump"; equal or drop_cond is no probability;
        target_rate is not in [0, 1).
    """
    if not 0 <= target_rate < 1:
        raise ValueError(f"target_rate={target_rate} is not in [0, 1)")
    draw = drawing(model, conditioner, time_law, equal=equal, drop_cond=drop_cond)

    def losses(params, key, batch, training):
        drawn = draw(key, batch, training)
        target = params if training is None or not target_rate else training.targets[0]
        end, here = residuals(model, params, target, drawn)
        return Loss(distance(end) + distance(here), drawn.t)

    targets = (ema.constant(target_rate, warmup=False),) if target_rate else ()
    return Objective(
        losses, noise_error(model), "noise_error", model.flow_map, "flow_map", targets=targets
    )


def residuals(
    model: Model, params: PyTree, target: PyTree, draw: Draw
) -> tuple[Float[Array, "b ..."], Float[Array, "b ..."]]:
    """How far the end of the flow map moves otherwise than the flow, and U(x_s', s, s) - v."""
    sde, x_t, t, s = model.sde, draw.x_t, draw.t, draw.s
    mean = slope(model, params, draw.cond, draw.dropout)
    u, change = jax.jvp(lambda s: mean(x_t, t, s), (s,), (jnp.ones_like(s),))
    rate: Array = derivative(lambda s: tau(sde, s), s)
    length = expand(tau(sde, t) - tau(sde, s), x_t)
    moves = u - length / expand(rate, x_t) * change

    total_t, total_s = (expand(sde.alpha(a) + sde.sigma(a), x_t) for a in (t, s))
    x_s = lax.stop_gradient(total_s * (x_t / total_t - length * u))
    flows = lax.stop_gradient(slope(model, target, draw.cond)(x_s, s))

    here = mean(sde.noised(draw.x_0, draw.z, s), s)
    # at s = t both terms would be of one network, the first the network less itself
    return jnp.where(length > 0, moves - flows, 0), here - draw.v
