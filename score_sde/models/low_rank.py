"""Changes of low rank: kernels as matrices, and the call of `adapters.lora` that has given
factors."""

from __future__ import annotations

import re
from collections.abc import Mapping

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from score_sde.config import call
from score_sde.types import Factors, PyTree

Name = tuple[str, ...]


def kernels_of(base: PyTree) -> dict[Name, Array]:
    """The kernels by the path of their layer."""
    return {path[:-1]: leaf for path, leaf in flatten_dict(base).items() if path[-1] == "kernel"}


def spec_of(workdir: str, kernels: Mapping[Name, Array], found: Mapping[Name, Factors]) -> str:
    """The call of `lora` that has these factors, as a config names it.

    kernels: all those of the base, by the path of their layer.
    """
    ranks = {path: factors.a.shape[-1] for path, factors in found.items()}
    alphas = {path: float(factors.alpha) for path, factors in found.items()}
    options = {"workdir": workdir, "rank": _by_pattern(kernels, ranks)}
    if alphas != ranks:
        options["alpha"] = _by_pattern(kernels, alphas)
    if not isinstance(options["rank"], dict):
        options["layers"] = pattern_of(kernels, found)
    if any(factors.magnitude is not None for factors in found.values()):
        options["dora"] = True
    return call("lora", options)


def delta_of(kernels: Mapping[Name, Array], found: Mapping[Name, Factors]) -> PyTree:
    """The small tree of these factors, for the adapter of `spec_of`."""
    delta = {}
    dora = any(factors.magnitude is not None for factors in found.values())
    for path, (a, b, alpha, magnitude) in found.items():
        delta[(*path, "a")], delta[(*path, "b")] = a, b
        if dora:
            w = matrices(path, kernels[path])
            if magnitude is None:  # that with which the norm changes nothing
                magnitude = column_norms(w + alpha / a.shape[-1] * (a @ b))
            delta[(*path, "magnitude")] = magnitude - column_norms(w)
    return unflatten_dict(delta)


def pattern_of(kernels: Mapping[Name, Array], chosen: Mapping[Name, object]) -> str:
    """A short regular expression that chooses these layers of all kernels, and no others."""
    for length in (1, 2):
        ends = sorted({path[-length:] for path in chosen})
        if {path for path in kernels if path[-length:] in ends} == set(chosen):
            return f"(?:^|/){_one_of(ends)}$"
    return f"^{_one_of(sorted(chosen))}$"


def matrices(path: Name, kernel: Array) -> Float[Array, "*s n m"]:
    """The kernel of a layer as a matrix from inputs to outputs, or as several where a network
    stacks the layers of its blocks."""
    stacked = any(name.endswith("blocks") for name in path)  # as our networks call them
    return kernel.reshape(*kernel.shape[:stacked], -1, kernel.shape[-1])


def column_norms(matrix: Float[Array, "*s n m"]) -> Float[Array, "*s m"]:
    """The norm of each column."""
    return jnp.sqrt(jnp.sum(jnp.square(matrix), axis=-2))


def _by_pattern(kernels, numbers):
    """One number, or `{pattern: number}`."""
    values = sorted(set(numbers.values()))
    if len(values) == 1:
        return values[0]
    groups = [{path: n for path, n in numbers.items() if n == value} for value in values]
    return {pattern_of(kernels, group): value for group, value in zip(groups, values, strict=True)}


def _one_of(paths):
    names = ["/".join(map(re.escape, path)) for path in paths]
    return names[0] if len(names) == 1 else f"(?:{'|'.join(names)})"
