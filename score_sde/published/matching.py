"""What all sources share: finding the names that belong together, and what does not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from score_sde.nets.ncsnpp import NCSNpp
from score_sde.types import PyTree

Name = tuple[str, ...]

# Class names of the 2021 code, which numbers its modules per parent and class in order of call.
_CLASSES = {
    "AttnBlock": "AttnBlock",
    "AttnBlockpp": "AttnBlock",
    "Combine": "Combine",
    "Conv": "Conv",
    "Conv2d": "Conv",
    "Dense": "Dense",
    "Downsample": "DownConv",
    "GaussianFourierProjection": "FourierFeatures",
    "GroupNorm": "GroupNorm",
    "NIN": "NIN",
    "ResnetBlockBigGANpp": "ResBlock",
    "ResnetBlockDDPM": "ResBlock",
    "ResnetBlockDDPMpp": "ResBlock",
    "Upsample": "UpConv",
}


class Imported(NamedTuple):
    """A checkpoint that was read.

    kind: what it is, in words. file: the one that held the parameters. params: as optimised. ema:
    their moving average, None where the file has one set of parameters. step: of training; 0 where
    the file does not tell.
    """

    kind: str
    file: Path
    params: PyTree
    ema: PyTree | None
    step: int


def step_of(value: Any) -> int:
    """The step that a file tells.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, int) or not 0 <= value < 2**31:
        raise ValueError("its step is no whole number from 0 to 2^31 - 1")
    return value


def call_order(
    net: NCSNpp, image_shape: tuple[int, int, int]
) -> tuple[list[tuple[Name, str]], PyTree]:
    """The modules of a network with parameters, as (path, class name), in the order of their call.

    Parents come before their children. Also returns the shapes of the parameters. Nothing is
    computed.
    """
    calls = []

    def record(call, args, kwargs, context):
        if context.method_name == "__call__":
            calls.append((context.module.path, type(context.module).__name__))
        return call(*args, **kwargs)

    def init(key):
        # rematerialised blocks have the same parameters but are of another class
        with nn.intercept_methods(record):
            image = jnp.zeros((1, *image_shape))
            return net.clone(remat="none").init(key, image, jnp.ones(1))["params"]

    shapes = jax.eval_shape(init, jax.random.key(0))
    prefixes = {path[:n] for path in flatten_dict(shapes) for n in range(1, len(path))}
    return [(path, cls) for path, cls in calls if path in prefixes], shapes


def match(
    calls: list[tuple[Name, str]], source: dict[str, Any], known: Mapping[Name, Name]
) -> dict[Name, Name]:
    """The path in `source`, a tree of the 2021 code, of each of our modules that has one.

    The n-th call of a class within a parent is the n-th published name of that class there. The
    numbers themselves may have gaps, left by modules without parameters.

    known: those that are known already, of the network itself, `()`, at least.
    """
    names, seen = dict(known), Counter()
    for path, cls in calls:
        parent = path[:-1]
        if path in names or parent not in names:
            continue
        siblings = sorted(
            (int(number), name)
            for name in _node(source, names[parent])
            for stem, _, number in [name.rpartition("_")]
            if _CLASSES.get(stem) == cls and is_number(number)
        )
        n = seen[parent, cls]
        seen[parent, cls] += 1
        if n < len(siblings):
            names[path] = (*names[parent], siblings[n][1])
    return names


def fit(
    path: Path, shapes: PyTree, names: Mapping[Name, str], given: Mapping[str, np.ndarray]
) -> PyTree:
    """Parameters of these shapes from the arrays of a file, already in our layout.

    names: which array each of our leaves is.

    Raises:
        ValueError: arrays are missing, left over, of another shape or of other than real numbers;
            the first ten are listed.
    """
    given, params, problems = dict(given), {}, []
    for ours, spec in flatten_dict(shapes).items():
        value = given.pop(names.get(ours), None)
        if value is None:
            problems.append(f"{'/'.join(ours)} is missing")
        elif value.shape != spec.shape:
            problems.append(f"{'/'.join(ours)} has shape {value.shape}, not {spec.shape}")
        elif not (jnp.issubdtype(value.dtype, jnp.floating) or value.dtype.kind in "iu"):
            problems.append(f"{'/'.join(ours)} holds {value.dtype}, not real numbers")
        else:
            params[ours] = jnp.asarray(value, spec.dtype)
    problems += [f"{name} is left over" for name in given]
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(f"{path} does not fit the network: {'; '.join(problems[:10])}{more}")
    return unflatten_dict(params)


def is_number(text: str) -> bool:
    """Whether a text is a number that a module may have."""
    return text.isascii() and text.isdigit() and len(text) < 10


def _node(tree: dict[str, Any], path: Name) -> dict[str, Any]:
    for name in path:
        tree = tree[name]
    return tree if isinstance(tree, dict) else {}
