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
from score_sde.training.objective import TOLD, Batch, Training
from score_sde.training.time_law import Learning
from score_sde.types import Key, PyTree

Gradient = Callable[[PyTree, Key, Batch, Training], tuple[PyTree, dict[str, Array]]]
"""`(params, key, batch, training) -> (gradient, metrics)`: `jax.grad(objective, has_aux=True)`."""


class TrainState(flax.struct.PyTreeNode):
    """step, params, one averaged copy of them for every `Average` (the last are the targets of the
    objective), and the optimiser's state.

    It holds no random key: a step's key is `fold_in(root, step)`. So an interrupted run goes on as
    if nothing had happened.
    """

    step: Any  # int32 []
    params: PyTree
    ema: tuple[PyTree, ...]
    opt_state: PyTree

    law = ()  # no field: checkpoints of other states have none


class LearningState(TrainState):
    """A TrainState with the state of a law of t that learns."""

    law: PyTree = ()


def create(
    params: PyTree,
    optimizer: optax.GradientTransformation,
    num_ema: int = 1,
    learning: Learning | None = None,
) -> TrainState:
    """The state before the first step. The averages are copies: the step donates its input.

    learning: of the law of t, if it learns.
    """
    ema = tuple(jax.tree.map(jnp.copy, params) for _ in range(num_ema))
    start = (jnp.zeros((), jnp.int32), params, ema, optimizer.init(params))
    return TrainState(*start) if learning is None else LearningState(*start, learning.init())


def train_step(
    gradient: Gradient,
    optimizer: optax.GradientTransformation,
    averages: tuple[Average, ...],
    prepare: Callable[[Key, dict[str, Any]], dict[str, Any]],
    targets: tuple[Average, ...] = (),
    learning: Learning | None = None,
) -> Callable[[Key, TrainState, dict[str, Any]], tuple[TrainState, dict[str, Array]]]:
    """Makes the pure step `(root key, state, batch) -> (state, metrics)`.

    The metrics are those of the gradient, and `gradient_norm` before clipping.

    gradient: of the mean loss of a batch, and metrics (`Gradient`).
    optimizer: its updates are added to the parameters.
    averages, targets: of the parameters, together one for each copy in `state.ema`. The gradient
        sees the copies of the targets.
    prepare: `(key, raw batch) -> batch`, from raw values to x on the device.
    learning: of the law of t, if it learns. The metrics of the gradient then hold TOLD.
    """

    def step(root, state, raw):
        key_prepare, key_objective = jax.random.split(jax.random.fold_in(root, state.step))
        batch = prepare(key_prepare, raw)
        training = Training(state.step, state.ema[len(averages) :], state.law)
        slope, metrics = gradient(state.params, key_objective, batch, training)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes floats and integer counts
            updates, opt_state = optimizer.update(slope, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        ema = _updated(averages + targets, state.ema, params, state.step)
        state = state.replace(step=state.step + 1, params=params, ema=ema, opt_state=opt_state)
        if learning is not None:
            state = state.replace(law=learning.update(state.law, metrics[TOLD]))
        told = {name: value for name, value in metrics.items() if name != TOLD}
        return state, {**told, "gradient_norm": optax.tree.norm(slope)}

    return step


def _updated(
    averages: tuple[Average, ...], copies: tuple[PyTree, ...], params: PyTree, step: Array
) -> tuple[PyTree, ...]:
    """The averaged copies, with the share of the parameters that each takes after this step."""
    return tuple(
        optax.incremental_update(params, old, share(step))
        for share, old in zip(averages, copies, strict=True)
    )


def accumulated(gradient: Gradient, parts: int) -> Gradient:
    """The mean of the gradients, and of the metrics, of equal parts of a batch. The parts are
    computed one after the other, in the memory of one. Each has its own key.

    It is the gradient of the whole batch if the objective is a mean over examples that draw
    independently. A stratified law of t is stratified within each part. Part i has the examples
    i, i + parts, ..., so that each device cuts its own share of a batch.
    """

    def mean(params, key, batch, training):
        def add(total, inputs):
            # without this tie to the part's key XLA gathers split parameters before the loop, and
            # keeps them whole to its end
            own, key = jax.lax.optimization_barrier((params, inputs[0]))
            found, metrics = gradient(own, key, inputs[1], training)
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
"""`(state before a step, its metrics) -> bool []`: whether to skip the step."""


def not_finite(state: TrainState, metrics: dict[str, Array]) -> Array:
    """Whether a metric is infinite or NaN."""
    return ~jnp.all(jnp.array([jnp.all(jnp.isfinite(value)) for value in metrics.values()]))


def spike(factor: float, after: int, typical: Callable[[optax.OptState], tuple]) -> Unfit:
    """Whether the gradient's norm is more than `factor` times the recent one.

    typical: `optimiser's state -> (recent norm, number of updates)`.
    after: how many updates pass before anything is a spike.
    """

    def unfit(state, metrics):
        norm, updates = typical(state.opt_state)
        return (updates >= after) & (metrics["gradient_norm"] > factor * norm)

    return unfit


def skipping(step: Callable, *reasons: Unfit, targets: tuple[Average, ...] = ()) -> Callable:
    """The step, which changes nothing but the count of steps and the targets where there is a
    reason; it adds the metric `skipped` [], 1 or 0. Without reasons to look for, it is the step
    itself.

    targets: of the objective. They go by the count of steps, so they take their share of the
        parameters as these stay: a copy that is due after a skipped step is made.

    (`optax.apply_if_finite` would move the averages, and lets NaNs through in the end.)
    """

    def guarded(root, state, raw):
        after, metrics = step(root, state, raw)
        unfit = jnp.any(jnp.array([reason(state, metrics) for reason in reasons]))
        first = len(state.ema) - len(targets)
        moved = _updated(targets, state.ema[first:], state.params, state.step)
        before = state.replace(ema=state.ema[:first] + moved)
        kept = jax.tree.map(functools.partial(jnp.where, unfit), before, after)
        metrics = {**metrics, "skipped": unfit.astype(jnp.float32)}
        return kept.replace(step=after.step), metrics

    return guarded if reasons else step


def several(step: Callable, count: int) -> Callable:
    """`count` steps in one call: of batches [count, b, ...], with metrics [count]."""

    def steps(root, state, batches):
        return jax.lax.scan(functools.partial(step, root), state, batches)

    def one(root, state, batches):
        # not a scan of length 1, in whose body XLA optimises less
        state, metrics = step(root, state, jax.tree.map(lambda a: a[0], batches))
        return state, jax.tree.map(lambda a: a[None], metrics)

    return one if count == 1 else steps
