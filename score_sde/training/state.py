"""The state of training, and the one step that advances it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from score_sde.training.ema import Average
from score_sde.training.objective import Batch
from score_sde.types import Key, PyTree

Gradient = Callable[[PyTree, Key, Batch], tuple[PyTree, dict[str, Array]]]
"""`(params, key, batch) -> (gradient, metrics)`: `jax.grad(objective, has_aux=True)`."""


class TrainState(flax.struct.PyTreeNode):
    """step, params, one averaged copy of them for every `Average`, and the optimiser's state.

    There is no random key in it: a step's key is `fold_in(root, step)`, so that a run that was
    interrupted goes on as the one that was not.
    """

    step: Any  # int32 []
    params: PyTree
    ema: tuple[PyTree, ...]
    opt_state: PyTree


def create(params: PyTree, optimizer: optax.GradientTransformation, num_ema: int = 1) -> TrainState:
    """The state before the first step. The averages are copies: the step donates its input."""
    ema = tuple(jax.tree.map(jnp.copy, params) for _ in range(num_ema))
    return TrainState(jnp.zeros((), jnp.int32), params, ema, optimizer.init(params))


def train_step(
    gradient: Gradient,
    optimizer: optax.GradientTransformation,
    averages: tuple[Average, ...],
    prepare: Callable[[Key, dict[str, Any]], dict[str, Any]],
) -> Callable[[Key, TrainState, dict[str, Any]], tuple[TrainState, dict[str, Array]]]:
    """Makes the pure step `(root key, state, batch) -> (state, metrics)`.

    prepare: `(key, raw batch) -> batch`, integers to real numbers on the device.

    metrics: those of the gradient, and `gradient_norm` before clipping.
    """

    def step(root, state, raw):
        key_prepare, key_objective = jax.random.split(jax.random.fold_in(root, state.step))
        batch = prepare(key_prepare, raw)
        slope, metrics = gradient(state.params, key_objective, batch)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes floats and integer counts
            updates, opt_state = optimizer.update(slope, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        ema = tuple(
            optax.incremental_update(params, old, share(state.step))
            for share, old in zip(averages, state.ema, strict=True)
        )
        metrics = {**metrics, "gradient_norm": optax.global_norm(slope)}
        return TrainState(state.step + 1, params, ema, opt_state), metrics

    return step


def accumulated(gradient: Gradient, parts: int) -> Gradient:
    """The mean of the gradients, and of the metrics, of so many equal parts of a batch, one after
    the other: the memory of one part. Each part has a key of its own.

    Where the objective is a mean over examples that draw independently, it is the gradient of the
    whole batch; a law of t that is stratified is so within each part. Part i has the examples
    i, i + parts, ...: a batch that is spread over devices is cut on each of them.
    """

    def mean(params, key, batch):
        def add(total, inputs):
            # tied to the part's key, or XLA would gather split parameters before the loop and keep
            # them whole to its end
            own, key = jax.lax.optimization_barrier((params, inputs[0]))
            found, metrics = gradient(own, key, inputs[1])
            return jax.tree.map(jnp.add, total, found), metrics

        cut = jax.tree.map(lambda a: jnp.swapaxes(a.reshape(-1, parts, *a.shape[1:]), 0, 1), batch)
        zero = jax.tree.map(jnp.zeros_like, params)
        total, metrics = jax.lax.scan(add, zero, (jax.random.split(key, parts), cut))
        return (
            jax.tree.map(lambda a: a / parts, total),
            jax.tree.map(lambda a: jnp.mean(a, axis=0), metrics),
        )

    return mean if parts > 1 else gradient


Unfit = Callable[[TrainState, dict[str, Array]], Array]
"""`(state before a step, its metrics) -> bool []`: whether the step is better not made."""


def not_finite(state: TrainState, metrics: dict[str, Array]) -> Array:
    """Whether a metric is infinite or NaN."""
    return ~jnp.all(jnp.array([jnp.all(jnp.isfinite(value)) for value in metrics.values()]))


def spike(factor: float, after: int, typical: Callable[[optax.OptState], tuple]) -> Unfit:
    """Whether the gradient's norm is more than `factor` times that of late.

    typical: of the optimiser's state, the norm of late and the number of updates that it is of;
        below `after` of these nothing is a spike.
    """

    def unfit(state, metrics):
        norm, updates = typical(state.opt_state)
        return (updates >= after) & (metrics["gradient_norm"] > factor * norm)

    return unfit


def skipping(step: Callable, *reasons: Unfit) -> Callable:
    """A step that leaves all but the count of steps as it was wherever there is a reason to; and
    the metric `skipped` [], 1 or 0. Without any reasons, the step itself.

    So it is as if the batch had not been there, except that its key is used up. (Not
    `optax.apply_if_finite`: the averages would move, and it gives way to the NaNs in the end.)
    """

    def guarded(root, state, raw):
        after, metrics = step(root, state, raw)
        unfit = jnp.any(jnp.array([reason(state, metrics) for reason in reasons]))
        kept = jax.tree.map(functools.partial(jnp.where, unfit), state, after)
        metrics = {**metrics, "skipped": unfit.astype(jnp.float32)}
        return kept.replace(step=after.step), metrics

    return guarded if reasons else step


def several(step: Callable, count: int) -> Callable:
    """Runs `count` steps in one call, on batches stacked in front; metrics come stacked too."""

    def steps(root, state, batches):
        return jax.lax.scan(functools.partial(step, root), state, batches)

    def one(root, state, batches):
        # not a scan of length 1, in whose body XLA optimises less
        state, metrics = step(root, state, jax.tree.map(lambda a: a[0], batches))
        return state, jax.tree.map(lambda a: a[None], metrics)

    return one if count == 1 else steps
