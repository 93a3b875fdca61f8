"""Adapters: a trained network changed by a small tree of its own, over frozen parameters.

What a config can name are constructors `(workdir, **options) -> Adapter`. Training, its averages
and its checkpoints hold the small tree alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from score_sde.types import Key, PyTree

__all__ = ["low_rank"]  # what a config can name


class Adapter(NamedTuple):
    """workdir: of the trained network, the base.
    init: `(key, base) -> delta`, the small tree, with which `merge` changes nothing.
    merge: `(base, delta) -> params`, those of the changed network.
    """

    workdir: str
    init: Callable[[Key, PyTree], PyTree]
    merge: Callable[[PyTree, PyTree], PyTree]


def low_rank(workdir: str, rank: int = 4, scale: float = 1.0, layers: str = ".*") -> Adapter:
    """LoRA (Hu et al. 2021, arXiv:2106.09685, sec. 4.1): W + scale A B / rank for every kernel W
    [..., m], seen as a matrix [n, m]; A [n, rank] is normal of variance 1 / n at first, B [rank, m]
    is 0.

    layers: a regular expression that the path of a layer matches somewhere, such as "attn".

    Raises:
      ValueError: the rank is not positive, or no layer is chosen.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, not {rank}")

    def chosen(base):
        kernels = {
            path: leaf
            for path, leaf in flatten_dict(base).items()
            if path[-1] == "kernel" and re.search(layers, "/".join(path[:-1]))
        }
        if not kernels:
            raise ValueError(f"no layer of the base matches layers={layers!r}")
        return kernels

    def init(key, base):
        delta = {}
        for i, (path, kernel) in enumerate(chosen(base).items()):
            n, m = math.prod(kernel.shape[:-1]), kernel.shape[-1]
            a = jax.random.normal(jax.random.fold_in(key, i), (n, rank), kernel.dtype)
            delta[(*path[:-1], "a")] = a / math.sqrt(n)
            delta[(*path[:-1], "b")] = jnp.zeros((rank, m), kernel.dtype)
        return unflatten_dict(delta)

    def merge(base, delta):
        params, small = flatten_dict(base), flatten_dict(delta)
        for path, kernel in chosen(base).items():
            product = small[(*path[:-1], "a")] @ small[(*path[:-1], "b")]
            params[path] = kernel + scale / rank * product.reshape(kernel.shape)
        return unflatten_dict(params)

    return Adapter(workdir, init, merge)
