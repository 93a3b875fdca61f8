"""Parameters of a network that reads more than the one that was trained: an image beside x, more
words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from score_sde.nets.checks import fields_of
from score_sde.types import PyTree

_LAST = "out"  # the last layer of a residual branch of `nets.text`


def larger(net: nn.Module, fields: Mapping[str, int]) -> nn.Module:
    """The network with these fields.

    Raises:
      ValueError: it has no such field, or has such a part already; only words can be added to
        others.
    """
    there = fields_of(net)
    for name, value in fields.items():
        if name not in there:
            raise ValueError(f"the network {type(net).__name__} has no field {name}")
        if there[name] and (name != "vocabulary" or there[name] > value):
            raise ValueError(f"the base has {name}={there[name]}, and cannot be given {value}")
    given: dict[str, Any] = {**fields}
    return net.clone(**given)


def extend(base: PyTree, like: PyTree, channels: int) -> PyTree:
    """The parameters of the base in the shapes of `like`, those of the larger network; 0 where the
    base has none.

    channels: how many more x has in the larger network. The rows of a kernel on patches are in the
        order of `nets.positions.patchify`: channels change fastest.

    Raises:
      ValueError: the base is no part of that network.
    """
    small, large = flatten_dict(base), flatten_dict(like)
    if missing := small.keys() - large.keys():
        raise ValueError(f"the larger network has no {'/'.join(min(missing))}")
    return unflatten_dict(
        {
            path: _padded(path, small[path], leaf.shape, channels)
            if path in small
            else jnp.zeros_like(leaf)
            for path, leaf in large.items()
        }
    )


def begin(base: PyTree, new: PyTree, channels: int) -> PyTree:
    """What is added to the base in the shapes of `new` (`extend`) at the start of training: the new
    rows of embeddings, and new layers but for the last of each branch; all else is 0.

    new: parameters of the larger network.

    Raises:
      ValueError: as `extend`.
    """
    extend(base, new, channels)  # which raises if it cannot
    small, begun = flatten_dict(base), {}
    for path, leaf in flatten_dict(new).items():
        begun[path] = jnp.zeros_like(leaf)
        if path not in small and path[-2] != _LAST:
            begun[path] = leaf
        elif path in small and path[-1] == "embedding":
            begun[path] = leaf.at[: len(small[path])].set(0)
    return unflatten_dict(begun)


def _padded(path: tuple[str, ...], leaf: Array, shape: tuple[int, ...], channels: int) -> Array:
    """The leaf with zeros along the axis that is longer in `shape`."""
    longer = [i for i, (n, m) in enumerate(zip(leaf.shape, shape, strict=False)) if n < m]
    if not longer:
        if leaf.shape != shape:
            name = "/".join(path)
            raise ValueError(f"{name} of the base, {leaf.shape}, does not fit into {shape}")
        return leaf
    (axis,) = longer
    more = shape[axis] - leaf.shape[axis]
    parts = more // channels if path[-1] != "embedding" else 1  # each has as many channels
    split = leaf.reshape(*leaf.shape[:axis], parts, -1, *leaf.shape[axis + 1 :])
    widths = [(0, more // parts if i == axis + 1 else 0) for i in range(split.ndim)]
    return jnp.pad(split, widths).reshape(shape)
