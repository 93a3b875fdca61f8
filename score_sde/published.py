"""Import of other people's checkpoints into the parameters of our networks."""

from __future__ import annotations

from collections import Counter
from os import PathLike
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.serialization import msgpack_restore
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
_LEAVES = {"W": "kernel", "weight": "kernel", "b": "bias"}


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

    def init(key, x, noise):
        # rematerialised blocks have the same parameters but are of another class
        with nn.intercept_methods(record):
            return net.clone(remat=False).init(key, x, noise)["params"]

    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *image_shape)), jnp.ones(1))
    prefixes = {path[:n] for path in flatten_dict(shapes) for n in range(1, len(path))}
    return [(path, cls) for path, cls in calls if path in prefixes], shapes


def load_score_sde_jax(
    path: str | PathLike, net: NCSNpp, image_shape: tuple[int, int, int], ema: bool = True
) -> PyTree:
    """Parameters of `net` from a checkpoint of the JAX code of Song et al. (arXiv:2011.13456).

    Args:
        path: a msgpack file `checkpoint_N` of https://github.com/yang-song/score_sde.
        net: with the fields of that model's config.
        image_shape: (h, w, c) of its data, which decides where attention is.
        ema: the moving average of the parameters, or the parameters that were optimised.

    Raises:
        ValueError: the file is damaged or is no such checkpoint, or its parameters are not those of
            `net`; they are listed then.
    """
    source = _read(path, ema)
    calls, shapes = call_order(net, image_shape)
    names = _match(calls, source)
    theirs = {
        (*name, _LEAVES.get(leaf, leaf)): value
        for (*name, leaf), value in flatten_dict(source).items()
    }
    params, problems = {}, []
    for ours, spec in flatten_dict(shapes).items():
        name = (*names.get(ours[:-1], ()), ours[-1])
        value = theirs.pop(name, None)
        if value is None:
            problems.append(f"{'/'.join(ours)} is missing")
            continue
        if value.shape[:-1] == (1, 1, 1) and len(spec.shape) == 1:  # GroupNorm of that time
            value = value.reshape(-1)
        if value.shape != spec.shape:
            problems.append(f"{'/'.join(ours)} has shape {value.shape}, not {spec.shape}")
            continue
        params[ours] = jnp.asarray(value, spec.dtype)
    problems += [f"{'/'.join(name)} is left over" for name in theirs]
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(f"{path} does not fit the network: {'; '.join(problems[:10])}{more}")
    return unflatten_dict(params)


def _read(path: str | PathLike, ema: bool) -> dict[str, Any]:
    """The tree of parameters in a file. msgpack holds data alone: nothing in it is executed."""
    content = Path(path).read_bytes()
    try:
        state = msgpack_restore(content)
        params = state["params_ema"] if ema else state["optimizer"]["target"]
        if not all(isinstance(value, np.ndarray) for value in flatten_dict(params).values()):
            raise TypeError("a parameter is no array")
    except Exception as error:  # whatever a damaged file makes the parser run into
        raise ValueError(
            f"{path} is damaged or is no checkpoint of the JAX code of score_sde "
            f"({type(error).__name__}: {error})"
        ) from error
    return params


def _match(calls: list[tuple[Name, str]], source: dict[str, Any]) -> dict[Name, Name]:
    """The published path of each of our modules that has one.

    The n-th call of a class within a parent is the n-th published name of that class there. The
    numbers themselves may have gaps, left by modules without parameters.
    """
    names, nodes, seen = {(): ()}, {(): source}, Counter()
    for path, cls in calls:
        parent = path[:-1]
        siblings = sorted(
            (int(number), name)
            for name in nodes.get(parent, {})
            for stem, _, number in [name.rpartition("_")]
            if _CLASSES.get(stem) == cls and number.isdigit()
        )
        n = seen[parent, cls]
        seen[parent, cls] += 1
        if n < len(siblings):
            name = siblings[n][1]
            names[path] = (*names[parent], name)
            nodes[path] = nodes[parent][name]
    return names
