"""Latent consistency models: a consistency model of a guided denoiser, for a range of weights."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from score_sde.conditioning.conditioner import Conditioner, null
from score_sde.models.guidance import GUIDANCE, guide, in_one_batch
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
from score_sde.training.objectives.denoising import noise_error
from score_sde.training.teacher import Teacher, required, start_from
from score_sde.training.teacher_steps import check_asks_denoiser, solve
from score_sde.training.time_law import TimeLaw
from score_sde.types import Denoiser, Grid, Solver

__all__ = ["lcm"]  # what a config can name


def lcm(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    distance: Distance,
    solver: Solver,
    grid: Callable[[int], Grid],
    curriculum: Curriculum,
    skip: int = 20,
    weights: tuple[float, float] = (3.0, 15.0),
    gap_power: float = 0.0,
    teacher: Teacher | None = None,
) -> Objective:
    """Latent consistency distillation (Luo et al. 2023, arXiv:2310.04378, alg. 1), in any space and
    on any Gaussian process: consistency distillation of a teacher under classifier-free guidance,
    whose weight w the student reads as a number.

        E[ distance(X(x_t, t, c, w) - stop_gradient(X'(x_s, s, c, w))) ],    w ~ U(weights)
        x_s = solver(D(x, null) + w (D(x, c) - D(x, null)), x_t, t, s)

    s is `skip` times of the grid before t. D is the teacher, which must have learnt to do without
    its condition. The student needs net.numbers=("guidance",), unless the weights are one, and
    starts as the teacher. It samples with `sampling.guidance="conditioned(weight=...)"`,
    `flow_map(gamma=1.0)` and sampling.denoise=False.

    The paper: skip 20, fixed(levels=1000, rate=0.95), elementwise_huber(scale=0.001), the solver
    ddim. Its w is this one less 1. Its f has a boundary of its own in the time of the chain; here
    the jump to t_min has it.

    weights: the least and the greatest weight.

    Raises:
      ValueError: the solver asks for more than a denoiser; skip is below 1; the weights fall; the
        network does not read the weight; in training, there is no teacher, it has another network,
        or it has not learnt to do without its condition.
    """
    check_asks_denoiser(solver)
    if skip < 1:
        raise ValueError(f"skip must be at least 1, not {skip}")
    _check_weights(model, *weights)
    draw = neighbours(curriculum, grid, time_law, model.sde, skip)

    def losses(teacher, params, key, batch, training):
        keys = jax.random.split(key, 5)
        key_time, key_noise, key_weight, key_dropout, key_solver = keys
        x_0, cond = batch["x"], batch["cond"]
        t, s = draw(key_time, len(x_0), x_0.dtype, training)
        w = jax.random.uniform(key_weight, t.shape, t.dtype, *weights)
        x_t = model.sde.perturb(key_noise, x_0, t)
        guided = _guided(required(teacher), conditioner)
        x_s = solve(solver, guided, key_solver, x_t, jnp.stack([t, s]), (cond, w))
        dropout = None if training is None else key_dropout
        target, told = target_of(params, training), {**cond, GUIDANCE: w}
        points = Point(x_t, t), Point(x_s, s)
        return consistency_loss(model, distance, gap_power, params, target, told, dropout, *points)

    objective = of_jump(
        model,
        jax.tree_util.Partial(losses, teacher),
        curriculum.targets,
        None if teacher is None else start_from(teacher, model),
        _error_at_weight(model, weights[0]),
    )
    return objective._replace(teacher_drops=any(w != 1 for w in weights))


def _check_weights(model: Model, low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"weights=({low}, {high}) are not (least, greatest)")
    if low < high and GUIDANCE not in model.numbers:
        raise ValueError(
            f"the network {type(model.net).__name__} does not read the weight of guidance: set "
            f'net.numbers=("{GUIDANCE}",), or one weight, weights=({low}, {low})'
        )


def _guided(teacher: Teacher, conditioner: Conditioner) -> Callable[[tuple], Denoiser]:
    """`(cond, w [b]) -> Denoiser`, the teacher under classifier-free guidance."""

    def guided(given):
        cond, w = given
        return guide(in_one_batch(teacher, cond, null(conditioner, cond)), w)

    return guided


def _error_at_weight(model: Model, weight: float) -> Callable:
    """`noise_error` of a network that reads the weight."""
    error_at = noise_error(model)

    def at_weight(params, key, batch, t):
        told = jnp.full(len(batch["x"]), weight, batch["x"].dtype)
        return error_at(params, key, {**batch, "cond": {**batch["cond"], GUIDANCE: told}}, t)

    return at_weight
