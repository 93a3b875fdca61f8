"""The optimiser, its learning rate, and what its state tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from score_sde.types import PyTree

NORM_DECAY = 0.999  # of the mean square of gradient norms, which tells what a spike is


def warmed_up(rest: optax.Schedule, peak: float, warmup: int) -> optax.Schedule:
    """The learning rate of step 1, 2, ...: rises linearly to `peak` over `warmup` steps, then
    follows `rest`."""
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), rest], [warmup])


def from_one(rate: optax.Schedule) -> optax.Schedule:
    """The schedule for optax, which counts from 0: its first update has the rate of step 1."""
    return lambda count: rate(count + 1)


def matrices(params: PyTree) -> PyTree:
    """True for parameters whose weights decay. Those of one dimension do not: biases, norms and the
    fixed frequencies of Fourier features; nor do biases and norms that are stacked."""

    def decays(path, a):
        return a.ndim > 1 and getattr(path[-1], "key", None) not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(decays, params)


def clipped(
    optimizer: optax.GradientTransformation, clip: float, remember_norm: bool = False
) -> optax.GradientTransformation:
    """The optimiser of gradients whose global norm is clipped; clip 0 for no clipping.

    remember_norm: whether the state keeps what `recent_norm` reads.
    """
    return optax.chain(
        optax.clip_by_global_norm(clip) if clip else optax.identity(),
        *([_remember_norm()] if remember_norm else []),
        optimizer,
    )


def at_rates(
    optimizer: optax.GradientTransformation, rates: Mapping[str, float]
) -> optax.GradientTransformation:
    """The optimiser whose updates of parts of the parameters, by name, are so many times as large.
    Its state is the same."""

    def update(updates, state, params=None):
        found: Any
        found, state = optimizer.update(updates, state, params)
        scaled = {
            name: jax.tree.map(lambda a, rate=rate: rate * a, found[name])
            for name, rate in rates.items()
        }
        return {**found, **scaled}, state

    return optax.GradientTransformation(optimizer.init, update) if rates else optimizer


def updates(opt_state: optax.OptState) -> Array:
    """How many updates the optimiser has made [], which sets its learning rate. After an import, or
    with skipped steps, it is below the step of the parameters."""
    return optax.tree_utils.tree_get_all_with_path(opt_state, "count")[0][1]


def last_rate(rate: optax.Schedule, opt_state: optax.OptState) -> Array:
    """The learning rate of the last update [], left on the device."""
    with jax.numpy_dtype_promotion("standard"):  # optax mixes floats and integer counts
        return jnp.asarray(rate(updates(opt_state)))


class NormState(NamedTuple):
    """norms: the number of updates. mean_square: the decaying mean of squared gradient norms, which
    starts from 0."""

    norms: Int[Array, ""]
    mean_square: Float[Array, ""]


def recent_norm(opt_state: optax.OptState) -> tuple[Array, Array]:
    """The root mean square of the clipped gradients' norms over about the last 1,000 updates, and
    the number of updates so far. If all gradients are clipped, it is the clip."""
    count = optax.tree_utils.tree_get(opt_state, "norms").astype(jnp.float32)
    weight = 1 - NORM_DECAY**count  # 0 before the first
    return jnp.sqrt(optax.tree_utils.tree_get(opt_state, "mean_square") / weight), count


def _remember_norm() -> optax.GradientTransformation:
    def init(params):
        return NormState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32))

    def update(updates, state, params=None):
        square = optax.tree.norm(updates).astype(jnp.float32) ** 2
        mean_square = NORM_DECAY * state.mean_square + (1 - NORM_DECAY) * square
        return updates, NormState(state.norms + 1, mean_square)

    return optax.GradientTransformation(init, update)
