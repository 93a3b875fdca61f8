"""Consistency trajectory models: a jump agrees with a teacher's steps and a jump from there."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.model import Model
from score_sde.processes import Time, flow
from score_sde.training import ema
from score_sde.training.distances import Distance
from score_sde.training.flow_maps import check_reads_jump
from score_sde.training.objective import Loss, Objective
from score_sde.training.objectives.denoising import denoising, noise_error
from score_sde.training.teacher import Teacher, required, start_from
from score_sde.training.teacher_steps import solve
from score_sde.training.time_law import TimeLaw
from score_sde.training.weighting import Weighting
from score_sde.types import Cond, Key, PyTree, Solver

__all__ = ["ctm"]  # what a config can name


def ctm(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    weighting: Weighting,
    distance: Distance,
    solver: Solver,
    teacher: Teacher | None = None,
    steps: int = 1,
    levels: int = 18,
    denoising_weight: float = 1.0,
    target_rate: float = 0.999,
) -> Objective:
    """CTM (Kim et al. 2024, arXiv:2310.02279, alg. 1) without its discriminator, on any Gaussian
    process. Its G(x_t, t, s) = (s/t) x_t + (1 - s/t) g(x_t, t, s) is the step of DDIM with D = g,
    the flow along a FlowMap (`processes.flow`).

    From x_t a solver leads to x_u with the teacher, and the network from there to s, where it must
    lead from x_t at once. Both ends are compared where they lead at t_min:

        E[ distance( G'(G(x_t, t, s), s, t_min) - stop_gradient(G'(G'(x_u, u, s), s, t_min)) ) ]
          + denoising_weight (the loss of `denoising`)

    G' is of averaged parameters, without gradients by them. The times t, u, s are quantiles of the
    law: t and s two draws, and u between them, so near to t that a step of the solver, of equally
    spaced quantiles, is at most 1/levels of all: its error is that of the network at its best. (The
    paper draws from a grid of 18 times, and balances the two terms by their gradients.)

    steps: of the solver, from t to u.
    levels: how many steps of the largest size lead through all times.
    target_rate: the decay of the averaged parameters; 0 takes the present ones.

    Raises:
      ValueError: the network does not read "jump"; steps or levels is below 1; target_rate is not
        in [0, 1); in training, there is no teacher, or it has another network.
    """
    check_reads_jump(model)
    if min(steps, levels) < 1 or not 0 <= target_rate < 1:
        raise ValueError(f"{steps=} or {levels=} is below 1, or {target_rate=} not in [0, 1)")
    plain = denoising(model, conditioner, time_law=time_law, weighting=weighting)

    def losses(teacher, params, key, batch, training):
        key_times, key_noise, key_solver, key_dropout, key_plain = jax.random.split(key, 5)
        x_0, cond = batch["x"], batch.get("cond")
        dropout, target = None, params
        if training is not None:
            dropout, target = key_dropout, (*training.targets, params)[0]
        times = draw_times(key_times, model, time_law, x_0, steps, levels)
        x_t = model.sde.perturb(key_noise, x_0, times[0])
        x_u = solve(solver, required(teacher), key_solver, x_t, times[:-1], cond)
        ends = x_t, times[0], x_u, times[-2], times[-1]
        difference = residual(model, params, target, *ends, cond, dropout)
        other = plain.losses(params, key_plain, batch, training)
        return Loss(distance(difference) + denoising_weight * other.value, times[0])

    return Objective(
        jax.tree_util.Partial(losses, teacher),
        noise_error(model),
        "noise_error",
        model.flow_map,
        gives="flow_map",
        targets=(ema.constant(target_rate, warmup=False),) if target_rate else (),
        init=None if teacher is None else start_from(teacher, model),
    )


def draw_times(
    key: Key, model: Model, time_law: TimeLaw, like: Array, steps: int, levels: int
) -> Float[Array, "steps_plus_2 b"]:
    """The times from t to u, and s, falling. like: an array of the batch's size and dtype."""
    first, second, part = jax.random.uniform(key, (3, len(like)), like.dtype)
    low, high = jnp.minimum(first, second), jnp.maximum(first, second)
    way = part * jnp.minimum(high - low, steps / levels)
    parts = jnp.linspace(0, 1, steps + 1, dtype=like.dtype)[:, None]
    quantiles = jnp.concatenate([high[None] - parts * way[None], low[None]])
    return jnp.clip(time_law.quantile(model.sde, quantiles), model.sde.t_min, model.sde.t_max)


def residual(
    model: Model,
    params: PyTree,
    target: PyTree,
    x_t: Array,
    t: Time,
    x_u: Array,
    u: Time,
    s: Time,
    cond: Cond | None = None,
    dropout: Key | None = None,
) -> Float[Array, "b ..."]:
    """How far the ends are apart at t_min, of the jump from x_t to s and of that from x_u."""
    student = flow(model.sde, model.flow_map(params, cond, dropout))
    frozen = flow(model.sde, model.flow_map(lax.stop_gradient(target), cond))
    end = jnp.full_like(s, model.sde.t_min)
    goal = lax.stop_gradient(frozen(frozen(x_u, u, s), s, end))
    return frozen(student(x_t, t, s), s, end) - goal
