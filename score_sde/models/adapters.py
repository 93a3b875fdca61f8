"""Adapters: a trained network changed by a small tree of its own, over frozen parameters.

What a config can name are constructors `(workdir, **options) -> Adapter`. Training, its averages
and its checkpoints hold the small tree alone.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from score_sde.models.extending import begin, extend, larger
from score_sde.models.low_rank import Name, column_norms, kernels_of, matrices
from score_sde.nets.controlnet import Controlled, begun, control_of
from score_sde.types import Factors, PyTree

__all__ = ["controlnet", "extended", "full", "lora", "rows"]  # what a config can name

_TABLES = ("embedding", "tokens")  # what networks, and text encoders, call an embedding
_Number = TypeVar("_Number", int, float)


class Adapter(NamedTuple):
    """workdir: of the trained network, the base.
    init: `(key, base, fresh) -> delta`, the small tree, with which `merge` changes nothing;
        `fresh()` makes new parameters of the changed network.
    merge: `(base, delta) -> params`, those of the changed network.
    factors: `(base, delta) -> {path of a layer: Factors}`, if the change is of low rank.
    rows: `(base, delta) -> {path of an embedding: [n, d]}`, its learnt rows, if it has any.
    control: `net -> ControlNet`, if the small tree is that of a ControlNet, and the base stays.
    fields: those of the network that differ from the base's.
    text_encoders: whether it changes the text encoders of the conditioner too. Base and changed
        network are then those of a `TextReading`.
    """

    workdir: str
    init: Callable[..., PyTree]
    merge: Callable[[PyTree, PyTree], PyTree]
    factors: Callable[[PyTree, PyTree], dict[Name, Factors]] | None = None
    rows: Callable[[PyTree, PyTree], dict[Name, Array]] | None = None
    control: Callable[[nn.Module], nn.Module] | None = None
    fields: Mapping[str, int] = MappingProxyType({})
    text_encoders: bool = False

    def changed(self, net: nn.Module) -> nn.Module:
        """The network with the changed fields, and with the ControlNet over it if there is one.

        Raises:
          ValueError: it cannot have these fields.
        """
        net = larger(net, self.fields)
        return net if self.control is None else Controlled(net, (self.control(net),))


def lora(
    workdir: str,
    rank: int | Mapping[str, int] = 4,
    alpha: float | Mapping[str, float] | None = None,
    layers: str = ".*",
    rslora: bool = False,
    dora: bool = False,
    text_encoders: bool = False,
) -> Adapter:
    """LoRA (Hu et al. 2021, arXiv:2106.09685, sec. 4.1): W + alpha / rank A B for every kernel W
    [..., m], seen as a matrix [n, m]; A [n, rank] is normal of variance 1 / n at first, B [rank, m]
    is 0. Layers that a network stacks, for a loop through its blocks, have an A and a B each.

    rank, alpha: one number for all layers; or `{pattern: number}`, and a layer takes the number of
        the first pattern that matches. A layer without a rank stays as it is. The alpha of a layer
        without one is its rank.
    layers: a regular expression that the path of a layer matches somewhere, such as "attn".
    rslora: divide alpha by sqrt(rank) instead (Kalajdzievski 2023, arXiv:2312.03732, theorem 3.2).
    dora: DoRA (Liu et al. 2024, arXiv:2402.09353, eq. 5): every column of the changed W has a
        learnt norm, at first that of W; the gradient takes the norm it divides by for a constant
        (eq. 11). The columns of a convolution are its output channels.
    text_encoders: choose from text encoders too; paths begin with "encoders_0/" or "net/".

    Raises:
      ValueError: a rank or an alpha is not positive, a pattern cannot be read, or no layer is
        chosen.
    """
    _check_numbers("rank", rank)
    _check_numbers("alpha", alpha)
    _check_pattern(layers)
    chosen = functools.partial(_chosen, rank, alpha, layers)

    def init(key, base, fresh=None):
        delta = {}
        for i, (path, (kernel, r, _)) in enumerate(chosen(base).items()):
            *stack, n, m = matrices(path, kernel).shape
            a = jax.random.normal(jax.random.fold_in(key, i), (*stack, n, r), kernel.dtype)
            delta[(*path, "a")] = a / math.sqrt(n)
            delta[(*path, "b")] = jnp.zeros((*stack, r, m), kernel.dtype)
            if dora:
                delta[(*path, "magnitude")] = jnp.zeros((*stack, m), kernel.dtype)
        return unflatten_dict(delta)

    def merge(base, delta):
        params, small = flatten_dict(base), flatten_dict(delta)
        for path, (kernel, r, of_layer) in chosen(base).items():
            scale = of_layer / (math.sqrt(r) if rslora else r)
            w = matrices(path, kernel)
            changed = w + scale * (small[(*path, "a")] @ small[(*path, "b")])
            if dora:
                changed = _with_norm(changed, w, small[(*path, "magnitude")])
            params[(*path, "kernel")] = changed.reshape(kernel.shape)
        return unflatten_dict(params)

    def factors(base, delta):
        found, small = {}, flatten_dict(delta)
        for path, (kernel, r, of_layer) in chosen(base).items():
            a, b = small[(*path, "a")], small[(*path, "b")]
            norm = None
            if dora:
                norm = column_norms(matrices(path, kernel)) + small[(*path, "magnitude")]
            found[path] = Factors(a, b, of_layer * (math.sqrt(r) if rslora else 1), norm)
        return found

    return Adapter(workdir, init, merge, factors, text_encoders=text_encoders)


def _chosen(rank, alpha, layers, base):
    """By layer: the kernel, the rank and alpha."""
    found, kernels = {}, kernels_of(base)
    for path, kernel in kernels.items():
        name = "/".join(path)
        of_layer = _at(rank, name)
        if re.search(layers, name) and of_layer is not None:
            found[path] = (kernel, of_layer, _at(alpha, name) or of_layer)
    if not found:
        names = ["/".join(path) for path in kernels]
        raise ValueError(
            f"no layer of the base matches layers={layers!r} and rank={rank!r}; it has "
            f"{len(names)}, such as {', '.join(names[:: max(1, len(names) // 5)])}"
        )
    return found


def full(workdir: str, layers: str = ".*") -> Adapter:
    """Full fine-tuning: the small tree is the whole difference to the base, at first 0.

    layers: a regular expression that the path of a parameter matches somewhere; others stay.

    Raises:
      ValueError: the pattern cannot be read, or no parameter is chosen.
    """
    _check_pattern(layers)

    def init(key, base, fresh=None):
        delta = {
            path: jnp.zeros_like(leaf)
            for path, leaf in flatten_dict(base).items()
            if re.search(layers, "/".join(path))
        }
        if not delta:
            raise ValueError(f"no parameter of the base matches layers={layers!r}")
        return unflatten_dict(delta)

    def merge(base, delta):
        params = flatten_dict(base)
        for path, change in flatten_dict(delta).items():
            params[path] = params[path] + change
        return unflatten_dict(params)

    return Adapter(workdir, init, merge)


def extended(
    workdir: str, cond_channels: int = 0, vocabulary: int = 0, text_depth: int = 0
) -> Adapter:
    """Full fine-tuning of a network that reads more than its base: an image beside x, as Brooks et
    al. 2023 (arXiv:2211.09800, sec. 3.2) made an editor of Stable Diffusion, more words, or both.
    At first rows of kernels for the image are 0, and so is what new blocks for text add: whatever
    the image is, the output is that of the base. Rows of new words are those of a new network.

    cond_channels: those of cond["image"].
    vocabulary: how many words there are. The words of the base come first.
    text_depth: blocks that read the words; the base has none.
        Each is a field of the network; 0 leaves it as it is in the base.

    Raises:
      ValueError: none is given; the base has such a part already, or knows more words.
    """
    given = {"cond_channels": cond_channels, "vocabulary": vocabulary, "text_depth": text_depth}
    fields = {name: value for name, value in given.items() if value}
    if not fields or min(fields.values()) < 0:
        raise ValueError(f"cond_channels, vocabulary or text_depth must be positive, not {given}")

    def init(key, base, fresh):
        return begin(base, fresh(), cond_channels)

    def merge(base, delta):
        wide = extend(base, delta, cond_channels)
        return jax.tree.map(jnp.add, wide, delta)

    return Adapter(workdir, init, merge, fields=MappingProxyType(fields))


def rows(
    workdir: str, numbers: Sequence[int], layers: str = "text", text_encoders: bool = False
) -> Adapter:
    """Textual inversion (Gal et al. 2022, arXiv:2208.01618, sec. 3): rows of an embedding are
    learnt, such as that of one word, and nothing else.

    numbers: of the rows, such as the number of a word in a vocabulary.
    layers: a regular expression that the path of an embedding matches somewhere: "text" for words,
        "embed_label" for classes, "encoders_" for the words of text encoders.
    text_encoders: as that of `lora`.

    Raises:
      ValueError: no embedding is chosen, or it has no such row; the pattern cannot be read.
    """
    _check_pattern(layers)
    index = jnp.asarray(numbers, jnp.int32)

    def init(key, base, fresh=None):
        tables = {path: leaf for path, leaf in flatten_dict(base).items() if path[-1] in _TABLES}
        chosen = {path: a for path, a in tables.items() if re.search(layers, "/".join(path[:-1]))}
        if not chosen:
            names = ", ".join("/".join(path[:-1]) for path in tables) or "none"
            raise ValueError(f"no embedding of the base matches layers={layers!r}; it has {names}")
        for path, table in chosen.items():
            if not numbers or min(numbers) < 0 or max(numbers) >= len(table):
                raise ValueError(
                    f"numbers={tuple(numbers)} are not rows of {'/'.join(path)}, which has "
                    f"0 to {len(table) - 1}"
                )
        return unflatten_dict(
            {path: jnp.zeros((len(index), *a.shape[1:]), a.dtype) for path, a in chosen.items()}
        )

    def merge(base, delta):
        params = flatten_dict(base)
        for path, change in flatten_dict(delta).items():
            params[path] = params[path].at[index].add(change)
        return unflatten_dict(params)

    def learnt(base, delta):
        tables = flatten_dict(base)
        return {
            path[:-1]: tables[path][index] + change for path, change in flatten_dict(delta).items()
        }

    return Adapter(workdir, init, merge, rows=learnt, text_encoders=text_encoders)


def controlnet(
    workdir: str,
    hint: str = "outline",
    hint_features: int = 1,
    hint_channels: tuple[int, ...] | None = None,
    hint_factor: int | None = None,
    depth: int | None = None,
) -> Adapter:
    """A ControlNet (Zhang et al. 2023, arXiv:2302.05543, sec. 3.1): a copy of the first half of the
    network, which also sees a hint.

    hint: the part of the condition with it, which the conditioner `hints` makes.
    hint_features: its channels.
    hint_channels: of a U-Net's: channels of the convolutions that bring the hint to the size of x,
        each of half the size of the one before; None is (16, 32, 96, 256), for latents of 1/8, and
        (16,) over an `NCSNpp`, for hints as large as x.
    hint_factor: of a transformer's: how many times as large as x the hint is; None is 1.
    depth: of a transformer's: the blocks that are copied, the first ones; None is all.

    Raises:
      ValueError: there is none of such networks, or it has no such option.
    """
    given = {"hint_channels": hint_channels, "hint_factor": hint_factor, "depth": depth}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    control = functools.partial(control_of, hint=hint, hint_features=hint_features, **options)

    def init(key, base, fresh):
        return begun(fresh()["controls_0"], base)

    def merge(base, delta):
        return {"net": base, "controls_0": delta}

    return Adapter(workdir, init, merge, control=control)


def add_change(params: PyTree, base: PyTree, changed: PyTree, weight: float | Array) -> PyTree:
    """`params + weight (changed - base)`: the sum over several LoRAs of one base is
    `W + sum_i weight_i scale_i A_i B_i`, in any order."""
    return jax.tree.map(lambda p, w, v: p + weight * (v - w), params, base, changed)


def _with_norm(changed, w, more):
    """The columns of `changed` with the norms of those of w, plus `more`."""
    now = jax.lax.stop_gradient(column_norms(changed))
    # at first all terms of the difference are 0, so that the product adds nothing to w
    difference = column_norms(w) + more - now
    relative = difference / jnp.where(now == 0, 1, now)
    return changed + changed * relative[..., None, :]


def _at(given: _Number | Mapping[str, _Number] | None, name: str) -> _Number | None:
    """The number of a layer."""
    if not isinstance(given, Mapping):
        return given
    return next((number for pattern, number in given.items() if re.search(pattern, name)), None)


def _check_numbers(name, given):
    by_layer = given if isinstance(given, Mapping) else {".*": given}
    for pattern, number in by_layer.items():
        _check_pattern(pattern)
        if number is not None and number <= 0:
            raise ValueError(f"{name} must be positive, not {number}")


def _check_pattern(pattern):
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression ({error})") from error
