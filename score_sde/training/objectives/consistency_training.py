"""Consistency training: a consistency model without a teacher."""

from __future__ import annotations

from collections.abc import Callable

import jax

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.model import Model
from score_sde.training.consistency import (
    consistency_loss,
    neighbours,
    noised_pair,
    of_jump,
    target_of,
)
from score_sde.training.curricula import Curriculum
from score_sde.training.distances import Distance
from score_sde.training.objective import Objective
from score_sde.training.teacher import Teacher, start_from
from score_sde.training.time_law import TimeLaw
from score_sde.types import Grid

__all__ = ["consistency_training"]  # what a config can name


def consistency_training(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    distance: Distance,
    curriculum: Curriculum,
    grid: Callable[[int], Grid],
    gap_power: float = 0.0,
    teacher: Teacher | None = None,
) -> Objective:
    """Consistency training (Song et al. 2023, arXiv:2303.01469, alg. 3), on any Gaussian process.
    For neighbouring times t > s of a grid with N points, and x_t, x_s of the same noise z,

        E[ (rho_t - rho_s)^-p distance(X(x_t, t) - stop_gradient(X'(x_s, s))) ]

    (`training.consistency`). Its two published forms:

                        Song et al. 2023            Song & Dhariwal 2023 (iCT, arXiv:2310.14189)
        curriculum      progressive                 doubling
        time_law        karras (equally often)      log_normal(mean=-1.1, std=2.0)
        distance        squared, or LPIPS           huber(scale=0.00054)
        gap_power       0                           1

    both on the grid `karras(rho=7.0)`. At finite N the optimum is biased: of N(0, 1/4) on EDM's
    times one step gives a standard deviation .753, .846, .981 and .998 of the right one for N = 11,
    18, 151 and 1281. Every distance but the square moves it too (`training.distances`).

    Sample with `flow_map(gamma=1.0)` and sampling.denoise=False.

    teacher: a trained network from whose parameters this one starts, if there is one.
    """
    draw = neighbours(curriculum, grid, time_law, model.sde)

    def losses(params, key, batch, training):
        key_time, key_noise, key_dropout = jax.random.split(key, 3)
        x_0 = batch["x"]
        t, s = draw(key_time, len(x_0), x_0.dtype, training)
        later, earlier = noised_pair(key_noise, model.sde, x_0, t, s)
        dropout = None if training is None else key_dropout
        target, cond = target_of(params, training), batch.get("cond")
        return consistency_loss(
            model, distance, gap_power, params, target, cond, dropout, later, earlier
        )

    init = None if teacher is None else start_from(teacher, model)
    return of_jump(model, losses, curriculum.targets, init)
