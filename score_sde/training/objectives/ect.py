"""Easy consistency tuning: a denoiser becomes a consistency model as two times draw together."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.model import Model
from score_sde.processes import SDE, Time
from score_sde.training.consistency import (
    consistency_loss,
    noise_ratio,
    noised_pair,
    of_jump,
)
from score_sde.training.distances import Distance
from score_sde.training.objective import Objective
from score_sde.training.teacher import Teacher, start_from
from score_sde.training.time_law import TimeLaw

__all__ = ["ect"]  # what a config can name


def ect(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    distance: Distance,
    q: float = 2.0,
    k: float = 8.0,
    b: float = 1.0,
    stages: int = 8,
    stage_length: int = 1000,
    gap_power: float = 1.0,
    teacher: Teacher | None = None,
) -> Objective:
    """Easy consistency tuning (Geng et al. 2024, arXiv:2406.14548), on any Gaussian process. With
    rho = sigma/alpha, which is the paper's t, and x_t, x_s of the same noise,

        E[ (rho_t - rho_s)^-p distance(X(x_t, t) - stop_gradient(X(x_s, s))) ]
        rho_s = rho_t max(0, 1 - (1 + k sigmoid(-b rho_t)) / q^(stage + 1))

    (`training.consistency`). In the first stages small t have s at the end of the flow, where the
    target is the data and the loss is that of denoising. There the paper's s is 0 and its target
    x_0. Here s is t_min and the target is x_0 with the noise of t_min, the same z. The two agree as
    t_min goes to 0.

    The paper: time_law log_normal(mean=-1.1, std=2.0), which ours cuts off at the ends of the
    process, and the distance norm. Start from a trained denoiser (teacher), or from random
    parameters, for which the first stages are the pre-training. Sample with `flow_map(gamma=1.0)`
    and sampling.denoise=False; the paper's second step starts at rho = .821.

    stages, stage_length: how many stages, and the steps of training of each; the last one goes on.
    teacher: a trained network from whose parameters this one starts, if there is one.

    Raises:
      ValueError: q is not above 1, k or b is negative, or there is no stage.
    """
    if not q > 1 or k < 0 or b < 0:
        raise ValueError(f"q must be above 1, k and b at least 0, not q={q}, k={k}, b={b}")
    if stages < 1 or stage_length < 1:
        raise ValueError(f"stages={stages} and stage_length={stage_length} must be at least 1")

    def losses(params, key, batch, training):
        key_time, key_noise, key_dropout = jax.random.split(key, 3)
        x_0, sde = batch["x"], model.sde
        stage, dropout = jnp.asarray(stages - 1), None
        if training is not None:
            stage, dropout = jnp.minimum(training.step // stage_length, stage), key_dropout
        t = time_law.sample(key_time, sde, len(x_0), x_0.dtype)
        s = earlier_time(sde, t, q ** -(stage.astype(t.dtype) + 1), k, b)
        points = noised_pair(key_noise, sde, x_0, t, s)
        cond = batch.get("cond")
        return consistency_loss(model, distance, gap_power, params, params, cond, dropout, *points)

    init = None if teacher is None else start_from(teacher, model)
    return of_jump(model, losses, init=init)


def earlier_time(sde: SDE, t: Time, share: float | Array, k: float, b: float) -> Time:
    """The s of `ect`, not below t_min. share: q^-(stage + 1)."""
    ratio = noise_ratio(sde, t)
    wanted = ratio * (1 - share * (1 + k * jax.nn.sigmoid(-b * ratio)))
    least = noise_ratio(sde, jnp.asarray(sde.t_min, t.dtype))
    inside = wanted > least
    found = sde.t_of_log_snr(-2 * jnp.log(jnp.where(inside, wanted, 1)))
    return jnp.where(inside, jnp.minimum(found, t), sde.t_min)
