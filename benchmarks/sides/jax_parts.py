"""What the sides in JAX share; it imports nothing of score_sde, whose side uses it too."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax.extend import core

from sides.serve import Side, versions


def drawn(shapes: Any, seed: int = 0) -> Any:
    """Small parameters of these shapes, as a file would give them: nothing is compiled."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        values = 0.02 * rng.standard_normal(leaf.shape, np.float32)
        return values.astype(leaf.dtype)

    return jax.tree.map(draw, shapes)


def size(params: Any) -> int:
    """Numbers in all leaves."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def operations(function: Callable, *arguments: Any) -> int:
    """Those of products of matrices and of convolutions, two for a product and its sum, as
    PyTorch's counter has it. A scan counts as often as it runs."""
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        values, parameters = [v.aval for v in equation.invars], equation.params
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            summed = math.prod(values[0].shape[i] for i in contracted)
            total += 2 * summed * math.prod(equation.outvars[0].aval.shape)
        elif equation.primitive.name == "conv_general_dilated":
            out = parameters["dimension_numbers"].rhs_spec[0]
            summed = math.prod(values[1].shape) // values[1].shape[out]
            total += 2 * summed * math.prod(equation.outvars[0].aval.shape)
        elif equation.primitive.name == "convolution":  # of score_sde.nets, with [i, j, c, d]
            total += 2 * math.prod(values[1].shape[:3]) * math.prod(equation.outvars[0].aval.shape)
        else:
            inner = [x for p in parameters.values() for x in (p if isinstance(p, tuple) else (p,))]
            found = [getattr(x, "jaxpr", x) for x in inner]
            found = [x for x in found if isinstance(x, core.Jaxpr)]
            total += parameters.get("length", 1) * sum(map(_count, found))
    return total


def optimizer() -> optax.GradientTransformation:
    """Adam after a clip of the gradient's norm, as every side has it."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-4))


def device_peak() -> int | None:
    """Bytes that the accelerator held at most."""
    stats = jax.local_devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else None


def side(
    settings: Any,
    params: Any,
    sample: Callable[[Any, jax.Array, jax.Array], jax.Array],
    loss: Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array],
    forward: Callable[[Any, jax.Array], jax.Array],
    packages: tuple[str, ...],
) -> Side:
    """The side of a library whose trainings are loops of the user's: a step of optax over its loss.

    sample: `(params, key, label [b]) -> x [b, ...]`; where it is not compiled already, compiled by
        the caller. loss: `(params, key, x [b, ...], label [b]) -> []`. forward: `(params, x)`, for
        the count of operations.
    """
    batch, shape = settings.batch, tuple(settings.shape)
    held: dict[str, Any] = {"params": jax.device_put(params)}
    label = np.zeros(batch, np.int32)
    x = np.random.default_rng(1).standard_normal((batch, *shape), np.float32)
    rule = optimizer()

    def update(params, average, state, key, x, label):
        value, gradient = jax.value_and_grad(loss)(params, key, x, label)
        change, state = rule.update(gradient, state, params)
        params = optax.apply_updates(params, change)
        average = jax.tree.map(lambda a, p: a + 1e-4 * (p - a), average, params)
        return params, average, state, value

    step = jax.jit(update, donate_argnums=(0, 1, 2))

    def prepare():
        for name in ("trained", "average"):
            held[name] = jax.tree.map(jax.numpy.copy, held["params"])
        held["state"] = rule.init(held["params"])
        return 1

    def train():
        names = ("trained", "average", "state")
        key = jax.random.key(0)
        *new, value = step(*(held[name] for name in names), key, x, label)
        held.update(zip(names, new, strict=True))
        jax.block_until_ready(value)
        return 1

    def draw():
        jax.block_until_ready(sample(held["params"], jax.random.key(1), label))
        return 1

    def facts() -> dict[str, Any]:
        return {
            "parameters": size(params),
            "operations": operations(forward, params, x) // batch,
            "versions": versions(*packages, "jax"),
        }

    runs = {"sampler": draw, "preparation": prepare, "training step": train}
    return Side(runs, facts, device_peak)
