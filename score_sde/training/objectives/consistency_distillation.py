"""Consistency distillation: a consistency model of a trained denoiser."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.model import Model
from score_sde.training.consistency import (
    Point,
    consistency_loss,
    neighbours,
    of_jump,
    target_of,
)
from score_sde.training.curricula import Curriculum
from score_sde.training.distances import Distance
from score_sde.training.objective import Objective
from score_sde.training.teacher import Teacher, required, start_from
from score_sde.training.teacher_steps import check_asks_denoiser, solve
from score_sde.training.time_law import TimeLaw
from score_sde.types import Grid, Solver

__all__ = ["consistency_distillation"]  # what a config can name


def consistency_distillation(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    distance: Distance,
    solver: Solver,
    grid: Callable[[int], Grid],
    curriculum: Curriculum,
    gap_power: float = 0.0,
    teacher: Teacher | None = None,
) -> Objective:
    """Consistency distillation (Song et al. 2023, arXiv:2303.01469, alg. 2), on any Gaussian
    process. For neighbouring times t > s of a grid and one step of a solver with the teacher,

        E[ (rho_t - rho_s)^-p distance(X(x_t, t) - stop_gradient(X'(x_s, s))) ],
        x_s = solver(teacher, x_t, t, s)

    (`training.consistency`). The student starts as the teacher.

    The paper: the solver heun on the grid `karras(rho=7.0)` of 18 points (40 for ImageNet-64),
    which `karras` draws equally often; gap_power 0. The solver `ddim` is its Euler. What the
    student is at its best has the solver's error: of N(0, 1/4) on EDM's times one step gives a
    standard deviation 1.175, 1.055 and 1.0006 of the right one for Heun with 11, 18 and 151 points.

    Sample with `flow_map(gamma=1.0)` and sampling.denoise=False.

    curriculum: `fixed(levels=N, rate=mu)`, mu the decay of the target's average; 0 for the
        student's own parameters.

    Raises:
      ValueError: the solver asks for more than a denoiser; in training, there is no teacher, or it
        has another network.
    """
    check_asks_denoiser(solver)
    draw = neighbours(curriculum, grid, time_law, model.sde)

    def losses(teacher, params, key, batch, training):
        key_time, key_noise, key_dropout, key_solver = jax.random.split(key, 4)
        x_0, cond = batch["x"], batch.get("cond")
        t, s = draw(key_time, len(x_0), x_0.dtype, training)
        x_t = model.sde.perturb(key_noise, x_0, t)
        x_s = solve(solver, required(teacher), key_solver, x_t, jnp.stack([t, s]), cond)
        dropout = None if training is None else key_dropout
        target = target_of(params, training)
        points = Point(x_t, t), Point(x_s, s)
        return consistency_loss(model, distance, gap_power, params, target, cond, dropout, *points)

    init = None if teacher is None else start_from(teacher, model)
    return of_jump(model, jax.tree_util.Partial(losses, teacher), curriculum.targets, init)
