"""Matching the names of a checkpoint to those of a network, for all kinds of checkpoints."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from score_sde.errors import one_line
from score_sde.nets.ncsnpp import NCSNpp
from score_sde.types import PyTree

Name = tuple[str, ...]

# Our class for each class of the 2021 code. That code numbers the modules of a class within their
# parent, in the order of their calls.
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

    kind: in words. file: where the parameters were. params: as optimised. ema: their moving
    average, or None if the file has one set of parameters. step: of training, or 0 if the file does
    not tell. scheduler: what a folder of diffusers samples with, in its words.
    """

    kind: str
    file: Path
    params: PyTree
    ema: PyTree | None
    step: int
    scheduler: str | None = None


def step_of(value: Any) -> int:
    """The training step in a file, as a Python integer.

    Raises:
        ValueError: it is no step.
    """
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, int) or not 0 <= value < 2**31:
        raise ValueError("its step is no whole number from 0 to 2^31 - 1")
    return value


def call_order(net: NCSNpp, shape: tuple[int, ...]) -> tuple[list[tuple[Name, str]], PyTree]:
    """The modules with parameters, as (path, class name) in the order of their calls, parents
    before children; and the shapes of the parameters. Nothing is computed."""
    calls = []

    def record(call, args, kwargs, context):
        if context.method_name == "__call__":
            calls.append((context.module.path, type(context.module).__name__))
        return call(*args, **kwargs)

    def init(key):
        # with remat the blocks have the same parameters, but are of another class
        with nn.intercept_methods(record):
            x = jnp.zeros((1, *shape))
            return net.clone(remat="none").init(key, x, jnp.ones(1))["params"]

    shapes = jax.eval_shape(init, jax.random.key(0))
    prefixes = {path[:n] for path in flatten_dict(shapes) for n in range(1, len(path))}
    return [(path, cls) for path, cls in calls if path in prefixes], shapes


def match(
    calls: list[tuple[Name, str]], source: dict[str, Any], known: Mapping[Name, Name]
) -> dict[Name, Name]:
    """Our path -> the path in `source`, a tree of the 2021 code, for each module found there.

    The n-th call of a class within a parent is the module of that class there with the n-th
    smallest number. The numbers may have gaps, which modules without parameters leave.

    known: the paths that are known already; at least that of the network itself, `()`.
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
    path: Path,
    shapes: PyTree,
    names: Mapping[Name, str],
    given: Mapping[str, Any],
    ours_of: Callable[[Name, Any], np.ndarray] = lambda name, value: value,
) -> PyTree:
    """Parameters of these shapes from the arrays of a file.

    names: our name -> the name of its array.
    ours_of: `(our name, what is given) -> array`, in our layout. Each is asked for once, one
        after another.

    Raises:
        ValueError: arrays are missing, left over, of another shape or not of real numbers; the
            message lists the first ten.
    """
    left: dict[Any, Any] = dict(given)
    params, problems = {}, []
    for ours, spec in flatten_dict(shapes).items():
        found = left.pop(names.get(ours), None)
        if found is None:
            problems.append(f"{'/'.join(ours)} is missing")
            continue
        value = ours_of(ours, found)
        if value.shape != spec.shape:
            problems.append(f"{'/'.join(ours)} has shape {value.shape}, not {spec.shape}")
        elif not (jnp.issubdtype(value.dtype, jnp.floating) or value.dtype.kind in "iu"):
            problems.append(f"{'/'.join(ours)} holds {value.dtype}, not real numbers")
        else:
            params[ours] = jnp.asarray(value, spec.dtype)
    problems += [f"{name} is left over" for name in left]
    if problems:
        raise ValueError(f"{path} {misfit(problems)}")
    return unflatten_dict(params)


def parameter_shapes(net: nn.Module, shape: tuple[int, ...]) -> PyTree:
    """The shapes of the parameters of a network that may read labels. Nothing is computed."""

    def init(key):
        x, cond = jnp.zeros((1, *shape)), {"label": jnp.zeros(1, jnp.int32)}
        return net.init(key, x, jnp.ones(1), cond)["params"]

    return jax.eval_shape(init, jax.random.key(0))


# Fields that no output of a trained network depends on.
_WITHOUT_MEANING = ("dropout", "init_scale", "dtype", "remat", "parent", "name")


def difference(
    net: nn.Module, other: nn.Module, ignored: Collection[str] = ()
) -> tuple[str, Any, Any] | None:
    """The first field in which two networks of one class give different outputs, and both values;
    None if there is none.

    ignored: fields that may differ.
    """
    for field in dataclasses.fields(net):
        ours, theirs = getattr(net, field.name), getattr(other, field.name)
        if ours != theirs and field.name not in (*_WITHOUT_MEANING, *ignored):
            return field.name, ours, theirs
    return None


def require_same(
    path: Path, net: nn.Module, theirs: nn.Module, config: str, ignored: Collection[str] = ()
) -> None:
    """Checks the fields of `net` against those that a source has, as `difference` does.

    config: the file in configs/ that reads them from such a source; "" if there is none.

    Raises:
        ValueError: a field differs.
    """
    if found := difference(net, theirs, ignored):
        field, ours, value = found
        hint = f"; --config configs/{config}.py:{path} sets every field" if config else ""
        raise ValueError(
            f"{path} does not fit the network: net.{field} is {ours!r}, and {value!r} there{hint}"
        )


def from_torch(value: np.ndarray, ndim: int | None = None) -> np.ndarray:
    """From PyTorch's layout to ours: convolutions [out, in, h, w] become [h, w, in, out], and dense
    layers [out, in] become [in, out].

    ndim: that of ours, if known. With 2, a convolution of one pixel becomes a dense layer.
    """
    if ndim == 2 and value.shape[2:] == (1, 1):
        value = value[:, :, 0, 0]
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value.T if value.ndim == 2 else value


def to_torch(value: np.ndarray) -> np.ndarray:
    """From our layout to PyTorch's, as `from_torch` reads it."""
    if value.ndim == 4:
        value = value.transpose(3, 2, 0, 1)
    elif value.ndim == 2:
        value = value.T
    return np.ascontiguousarray(value)


def swap_halves(kernel: np.ndarray) -> np.ndarray:
    """A kernel for features [sin, cos] from one for [cos, sin], and back."""
    half = len(kernel) // 2
    return np.concatenate([kernel[half:], kernel[:half]])


def misfit(problems: list[str]) -> str:
    """A line with the first problems: at most ten, and about 400 letters. Names in them may come
    from a foreign file."""
    told = [one_line(problem) for problem in problems[:10]]
    while len(told) > 1 and len("; ".join(told)) > 400:
        told.pop()
    more = f"; and {len(problems) - len(told)} more" if len(problems) > len(told) else ""
    return f"does not fit the network: {'; '.join(told)}{more}"


def is_number(text: str) -> bool:
    """Whether a text is the number of a module."""
    return text.isascii() and text.isdigit() and len(text) < 10


def _node(tree: dict[str, Any], path: Name) -> dict[str, Any]:
    for name in path:
        tree = tree[name]
    return tree if isinstance(tree, dict) else {}
