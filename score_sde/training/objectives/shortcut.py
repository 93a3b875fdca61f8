"""Shortcut models: a long step is two steps of half the length, and the shortest is the ODE's.

Most examples of a batch learn the slope at s = t by flow matching. For a share of it the step from
t to s is one of 1, 2, 4, ..., n/2, all at the quantiles of a law of t. Two steps of half the length
with an average of the parameters, by m, lead where it should. A step of 1/n is one of Euler's
method: its slope is that at s = t. So a longer step has the bias of n Euler steps.

The network reads "jump", c_noise(t) - c_noise(s), and that of the public code of Frans et al. 2024
log2 of the number of steps. In that code both kinds of examples share their noise and times, as
many images as the share are never used, targets are clipped to +-4, and of long steps only the
shortest are guided. Here every example is used, with a noise and a time of its own, and nothing is
clipped or guided.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.flow_map import OfTwoTimes, slope, tau
from score_sde.models.model import Model
from score_sde.processes import SDE, Time
from score_sde.training import ema
from score_sde.training.distances import Distance
from score_sde.training.flow_maps import check_reads_jump
from score_sde.training.objective import Loss, Objective
from score_sde.training.objectives.denoising import dropping, noise_error
from score_sde.training.steps import check_spans, step_times
from score_sde.training.time_law import TimeLaw
from score_sde.types import expand

__all__ = ["shortcut"]  # what a config can name


def shortcut(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    distance: Distance,
    steps: int = 128,
    share: float = 0.125,
    decay: float = 0.999,
    drop_cond: float = 0.0,
) -> Objective:
    """Shortcut models (Frans et al. 2024, arXiv:2410.12557, alg. 1), on any Gaussian process. With
    U the slope of a step from t to s and tau the time of the rectified flow (`models.flow_map`),

        E[ distance(U(x_t, t, s) - stop_gradient(target)) ]
        s = t:  target = z - x_0
        s < t:  target = ((tau_t - tau_m) U'(x_t, t, m) + (tau_m - tau_s) U'(x_m, m, s))
                         / (tau_t - tau_s)

    with U' of an average of the parameters. On the rectified flow with the uniform law the second
    is the mean of two slopes, as in the paper. Sample with `flow_map(gamma=0.0)` in 1, 2, 4, ...
    steps on the grid of the law (`uniform` of uniform, `log_snr` of log_snr_uniform).

    steps: n, of the finest grid, a power of two.
    share: of a batch, for long steps; each costs two evaluations more.
    decay: of the average that gives the targets. It is less in the beginning (`ema.constant`).
    drop_cond: as in `denoising`.

    Raises:
      ValueError: the network does not read "jump"; steps is no power of two above 1; share,
        decay or drop_cond is not between 0 and 1; the quantiles of the law do not reach the ends of
        the process.
    """
    check_reads_jump(model)
    if steps < 2 or steps & (steps - 1):
        raise ValueError(f"steps={steps} is no power of two above 1")
    for name, value in (("share", share), ("decay", decay)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value} is not between 0 and 1")
    check_spans(time_law, model.sde)
    dropped = dropping(conditioner, drop_cond)
    return Objective(
        _losses(model, dropped, time_law, distance, Lengths(steps, share)),
        noise_error(model),
        "noise_error",
        model.flow_map,
        gives="flow_map",
        targets=(ema.constant(decay, warmup=True),),
    )


class Lengths(NamedTuple):
    """steps: of the finest grid. share: of a batch, for steps that are longer than one of it."""

    steps: int
    share: float


def _losses(model: Model, dropped, time_law: TimeLaw, distance: Distance, lengths: Lengths):
    sde, shortest = model.sde, lengths.steps.bit_length() - 2  # a step of 2/steps is 2^-shortest

    def losses(params, key, batch, training):
        dropout, average = None, params
        if training is not None:
            key, batch = dropped(key, batch)
            key, dropout = jax.random.split(key)
            (average,) = training.targets
        key_time, key_noise, key_length, key_step = jax.random.split(key, 4)
        x_0, cond = batch["x"], batch.get("cond")
        size, dtype = len(x_0), x_0.dtype
        chosen = spread(size, lengths.share)

        halved = jax.random.randint(key_length, chosen.shape, 0, shortest + 1)
        count = 2.0 ** halved.astype(dtype)
        index = jnp.floor(jax.random.uniform(key_step, chosen.shape, dtype) * count)
        start, middle, end = step_times(time_law, sde, index, count)
        s = time_law.sample(key_time, sde, size, dtype)
        t, s = s.at[chosen].set(start), s.at[chosen].set(end)
        z = jax.random.normal(key_noise, x_0.shape, dtype)
        x_t = sde.noised(x_0, z, t)

        of_average = slope(model, average, jax.tree.map(lambda a: a[chosen], cond))
        halves = euler_where(halved == shortest, of_average)
        target = (z - x_0).at[chosen].set(two_slopes(sde, halves, x_t[chosen], start, middle, end))
        found = slope(model, params, cond, dropout)(x_t, t, s)
        return Loss(distance(found - lax.stop_gradient(target)), t)

    return losses


def two_slopes(sde: SDE, slope: OfTwoTimes, x_t: Array, t: Time, m: Time, s: Time) -> Array:
    """The slope of one step from t to s that leads where two steps, to m and to s, lead."""
    first, second = tau(sde, t) - tau(sde, m), tau(sde, m) - tau(sde, s)
    u = slope(x_t, t, m)
    total_t, total_m = (sde.alpha(a) + sde.sigma(a) for a in (t, m))
    x_m = expand(total_m, x_t) * (x_t / expand(total_t, x_t) - expand(first, x_t) * u)
    mean = expand(first, x_t) * u + expand(second, x_t) * slope(x_m, m, s)
    return mean / expand(first + second, x_t)


def euler_where(where: Array, slope: OfTwoTimes) -> OfTwoTimes:
    """The slope, which is that at s = t for some examples, bool [b]."""
    return lambda x_t, t, s: slope(x_t, t, jnp.where(where, t, s))


def spread(size: int, share: float) -> np.ndarray:
    """Which of `size` examples are the share, evenly over them, so that each device has some."""
    count = round(size * share)
    return np.arange(count) * size // max(count, 1)
