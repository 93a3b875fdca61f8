"""What all objectives for consistency models share: two points of one path, and how far apart the
network sends them.

A consistency function X(x_t, t) is the end at t_min of the flow through x_t. Here it is the jump of
D (`processes.jump`), so X = x at t_min holds by construction, for every process and
parametrization. With rho = sigma/alpha and a later point (x_t, t), an earlier one (x_s, s),

    loss = (rho_t - rho_s)^-p distance(X(x_t, t) - stop_gradient(X'(x_s, s)))

X' is that of the target's parameters. Both have the same dropout mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from score_sde.models.flow_map import consistency
from score_sde.models.model import Model
from score_sde.processes import SDE, Time
from score_sde.training.curricula import Curriculum, increasing_times
from score_sde.training.distances import Distance
from score_sde.training.ema import Average
from score_sde.training.objective import Loss, Objective, Training
from score_sde.training.objectives.denoising import noise_error
from score_sde.training.time_law import TimeLaw
from score_sde.types import Cond, Grid, Key, PyTree


class Point(NamedTuple):
    """x [b, ...] at times t [b]."""

    x: Array
    t: Array


def consistency_loss(
    model: Model,
    distance: Distance,
    gap_power: float,
    params: PyTree,
    target: PyTree,
    cond: Cond | None,
    dropout: Key | None,
    later: Point,
    earlier: Point,
) -> Loss:
    """The loss above, p = gap_power. An example whose two times are equal has the loss 0.

    target: the parameters of X'. dropout: the key of both masks; None for no dropout.
    """

    def end(params, point):
        return consistency(model.sde, model.flow_map(params, cond, dropout))(*point)

    difference = end(params, later) - lax.stop_gradient(end(target, earlier))
    gap = noise_ratio(model.sde, later.t) - noise_ratio(model.sde, earlier.t)
    apart = gap > 0
    weight = jnp.where(apart, jnp.where(apart, gap, 1) ** -gap_power, 0)
    return Loss(weight * distance(difference), later.t)


def noise_ratio(sde: SDE, t: Time) -> Time:
    """sigma/alpha."""
    return sde.sigma(t) / sde.alpha(t)


def target_of(params: PyTree, training: Training | None) -> PyTree:
    """The parameters of the target: the average that the objective keeps, if it keeps one."""
    return params if training is None or not training.targets else training.targets[0]


def neighbours(
    curriculum: Curriculum, grid: Callable[[int], Grid], time_law: TimeLaw, sde: SDE, back: int = 1
) -> Callable[..., tuple[Float[Array, " b"], Float[Array, " b"]]]:
    """`(key, size, dtype, training) -> (t, s)`, times of the grid of the present stage.

    A time is drawn by the law. t is the next time of the grid above it, and s is `back` times of
    the grid below t, or t_min. So a step of the grid is drawn with its probability under the law:
    `karras` on the Karras grid of the same rho draws all steps equally often, and `log_normal`
    draws them as Song & Dhariwal 2023 (arXiv:2310.14189, eq. 10). Outside of training the stage is
    the last.

    grid: `n -> n + 1 decreasing times`.
    """
    table = increasing_times(curriculum, grid)

    def draw(key, size, dtype, training):
        stage = jnp.asarray(curriculum.last)
        if training is not None:
            stage = curriculum.stage(jnp.asarray(training.step))
        times = jnp.asarray(table, dtype)[stage]
        count = jnp.asarray(curriculum.levels, jnp.int32)[stage]
        drawn = time_law.sample(key, sde, size, dtype)
        above = jnp.clip(jnp.searchsorted(times, drawn, side="right"), 1, count - 1)
        return times[above], times[jnp.maximum(above - back, 0)]

    return draw


def of_jump(
    model: Model,
    losses: Any,
    targets: tuple[Average, ...] = (),
    init: Callable | None = None,
    error_at: Callable | None = None,
) -> Objective:
    """The objective of a consistency model, with the error of D taken as a denoiser."""
    error_at = noise_error(model) if error_at is None else error_at
    result = model.flow_map
    return Objective(
        losses, error_at, "noise_error", result, gives="jump", targets=targets, init=init
    )


def noised_pair(key: Key, sde: SDE, x_0: Array, t: Array, s: Array) -> tuple[Point, Point]:
    """x_0 with the same noise at both times."""
    z = jax.random.normal(key, x_0.shape, x_0.dtype)
    return Point(sde.noised(x_0, z, t), t), Point(sde.noised(x_0, z, s), s)
