"""A summary of a set of examples, whose size does not grow with the set.

Summaries are a monoid: `empty`, `update` with a batch, `merge` of two disjoint sets. The order of
the examples, the batches, the tree of merges, the number of devices and a pause on the disk do not
matter: the reservoir is the same to the bit, and sums to the rounding of float64.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from os import PathLike
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, Bool, Float, Float32, Float64, Int, Num, UInt64

from score_sde.errors import reason
from score_sde.runtime import npz_file
from score_sde.runtime.atomic import replacing


class Features(NamedTuple):
    """What an extractor gives for a batch."""

    pool: Float[Array, "b d"]
    """float32"""
    probs: Float[Array, "b k"]
    """class probabilities; k = 0 where the extractor has no classes"""


Extractor = Callable[[Num[Array, "b ..."]], Features]
"""Examples to features, each example by itself; one compiled program for a batch."""


class Moments(NamedTuple):
    """The mean, and the sum of outer products about it. The unbiased covariance is
    `scatter / (count - 1)`."""

    count: Float64[Array, ""]
    mean: Float64[Array, " d"]
    scatter: Float64[Array, "d d"]


class Scores(NamedTuple):
    """What the Inception Score needs of each split. Example i belongs to split i mod splits. If the
    examples are in random order, this is as good as splits of consecutive examples."""

    count: Float64[Array, " splits"]
    probs: Float64[Array, "splits k"]
    """sum of p"""
    negentropy: Float64[Array, " splits"]
    """sum of p ln p over examples and classes"""


class Reservoir(NamedTuple):
    """A uniform sample of at most m examples, without replacement: bottom-k sampling.

    The priority of an example is a hash of its number. The m smallest are kept, in ascending order.
    Empty slots come last, with priority EMPTY and features 0.
    """

    priority: UInt64[Array, " m"]
    features: Float32[Array, "m d"]


class Summary(NamedTuple):
    """The summary of a set. Outside of this module its float64 arrays are to be read by NumPy."""

    moments: Moments
    scores: Scores
    reservoir: Reservoir


EMPTY = np.uint64(2**64 - 1)


def features_dim(extractor: Extractor, shown: jax.ShapeDtypeStruct) -> tuple[int, int]:
    """(d, k) of the features of examples of this shape [b, ...] and dtype; nothing is computed."""
    out = jax.eval_shape(extractor, shown)
    return out.pool.shape[1], out.probs.shape[1]


def empty(dim: int, num_classes: int = 0, splits: int = 10, capacity: int = 10_000) -> Summary:
    """The summary of the empty set. `capacity` is the m of the reservoir."""
    zeros: Any = np.zeros  # the fields are arrays of the host or of devices
    full: Any = np.full
    return Summary(
        Moments(zeros(()), zeros(dim), zeros((dim, dim))),
        Scores(zeros(splits), zeros((splits, num_classes)), zeros(splits)),
        Reservoir(full(capacity, EMPTY), zeros((capacity, dim), np.float32)),
    )


def update(
    summary: Summary,
    features: Features,
    index: Int[Array | np.ndarray, " b"],
    mask: Bool[Array | np.ndarray, " b"],
) -> Summary:
    """Adds a batch, whose rows may be spread over devices. On a mesh, also of several hosts, every
    device then has the whole summary.

    index: the number of each example, which is unique in the set.
    mask: where it is false the example does not count, whatever its features and index are.

    Raises:
      ValueError: the features are of other sizes than the summary.
    """
    ours = summary.moments.mean.shape[0], summary.scores.probs.shape[1]
    theirs = features.pool.shape[1], features.probs.shape[1]
    if ours != theirs:
        raise ValueError(
            f"the summary has {ours[0]} features and {ours[1]} classes, the batch {theirs[0]} and "
            f"{theirs[1]}: another extractor?"
        )
    with jax.enable_x64(True):
        return _compiled(everywhere(features.pool))(summary, features, index, mask)


def merge(a: Summary, b: Summary) -> Summary:
    """The summary of the union of two disjoint sets.

    Raises:
      ValueError: the summaries are of different sizes, or an example is in both reservoirs.
    """
    a, b = jax.device_get((a, b))
    if _shapes(a) != _shapes(b):
        raise ValueError(f"summaries of two kinds: {_shapes(a)} and {_shapes(b)}")
    common = np.intersect1d(a.reservoir.priority, b.reservoir.priority)
    if np.any(common != EMPTY):
        raise ValueError("the two sets have examples in common: give each example its own index")
    with jax.enable_x64(True):
        return _merge_compiled(a, b)


def gather(summary: Summary) -> Summary:
    """The union of the summaries of all hosts. Each host summarised its own part."""
    with jax.enable_x64(True):
        parts = multihost_utils.process_allgather(jax.device_get(summary))
    arrays, structure = jax.tree.flatten(parts)
    return functools.reduce(
        merge, (structure.unflatten(host) for host in zip(*arrays, strict=True))
    )


def everywhere(x: Array | np.ndarray) -> Sharding | None:
    """If x lies on a mesh, the sharding that gives each of its devices the whole array; else
    None."""
    if isinstance(x, Tracer) or not getattr(x, "committed", False):
        return None  # it has no place yet
    mesh = getattr(getattr(x, "sharding", None), "mesh", None)
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def kept(summary: Summary) -> Float32[np.ndarray, "n d"]:
    """The features in the reservoir, in random order: those of all examples if they are at most
    m."""
    priority, features = jax.device_get(summary.reservoir)
    return features[: np.sum(priority != EMPTY)]


def save(path: str | PathLike, summary: Summary, about: dict[str, Any]) -> None:
    """Writes an .npz file, whole or not at all. about: JSON, such as the name of the data."""
    with replacing(path) as file:
        np.savez(file, about=np.array(json.dumps(about)), **_named(jax.device_get(summary)))


def load(path: str | PathLike) -> tuple[Summary, dict[str, Any]]:
    """The summary and the `about` that `save` wrote.

    Raises:
      FileNotFoundError. ValueError: the file is damaged or is no summary.
    """
    try:
        file = npz_file.read(path)
        about = json.loads(str(file["about"]))
        arrays = [file[name] for name in _named(_NONE)]
        summary = jax.tree.unflatten(jax.tree.structure(_NONE), arrays)
        (capacity, dim), (splits, k) = summary.reservoir.features.shape, summary.scores.probs.shape
        # an empty array can claim a huge shape: compare with the others before any is allocated
        if summary.moments.scatter.shape != (dim, dim) or len(summary.reservoir.priority) != (
            capacity
        ):
            raise ValueError(f"arrays of {_shapes(summary)}")
        if _shapes(summary) != _shapes(empty(dim, k, splits, capacity)):
            raise ValueError(f"arrays of {_shapes(summary)}")
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a damaged file makes NumPy raise
        raise ValueError(
            f"{path} is damaged or is no summary of examples ({reason(error)}): remove it, and it "
            "is made anew"
        ) from error
    return summary, about


_NONE = empty(0, 0, 0, 0)


def _named(summary: Summary) -> dict[str, Any]:
    """The arrays by names such as "moments.mean"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): array
        for path, array in jax.tree_util.tree_leaves_with_path(summary)
    }


def _shapes(summary: Summary) -> dict[str, str]:
    return {name: f"{a.dtype}{list(a.shape)}" for name, a in _named(summary).items()}


@functools.cache
def _compiled(sharding: Sharding | None) -> Callable[..., Summary]:
    def step(summary, features, index, mask):
        splits = summary.scores.count.shape[0]
        return _merge(summary, _of_batch(features, index.astype(jnp.uint64), mask, splits))

    return jax.jit(step, out_shardings=sharding)


def _of_batch(features: Features, index: Array, mask: Array, splits: int) -> Summary:
    """The summary of a batch, with a reservoir of its size."""
    pool, probs = (jnp.where(mask[:, None], x, 0).astype(jnp.float64) for x in features)
    weight = mask.astype(jnp.float64)
    count = jnp.sum(weight)
    mean = jnp.sum(pool, axis=0) / jnp.maximum(count, 1)
    centred = (pool - mean[None]) * weight[:, None]
    split = index[:, None] % jnp.uint64(splits) == jnp.arange(splits, dtype=jnp.uint64)[None]
    split = (split & mask[:, None]).astype(jnp.float64)
    negentropy = jnp.sum(jax.scipy.special.xlogy(probs, probs), axis=1)
    return Summary(
        Moments(count, mean, _dot(centred.T, centred)),
        Scores(jnp.sum(split, axis=0), _dot(split.T, probs), _dot(split.T, negentropy)),
        Reservoir(jnp.where(mask, _hash(index), EMPTY), pool.astype(jnp.float32)),
    )


def _merge(a: Summary, b: Summary) -> Summary:
    """The union of disjoint sets, with a reservoir of the size of a's."""
    m, n = a.moments, b.moments
    count = m.count + n.count
    share = n.count / jnp.maximum(count, 1)
    shift = n.mean - m.mean
    # Chan, Golub & LeVeque 1983: squares are summed about the means, which loses no digits
    moments = Moments(
        count,
        m.mean + shift * share,
        m.scatter + n.scatter + shift[:, None] * shift[None] * (m.count * share),
    )
    priority = jnp.concatenate([a.reservoir.priority, b.reservoir.priority])
    features = jnp.concatenate([a.reservoir.features, b.reservoir.features])
    order = jnp.argsort(priority)[: a.reservoir.priority.shape[0]]
    return Summary(
        moments,
        jax.tree.map(jnp.add, a.scores, b.scores),
        Reservoir(priority[order], features[order]),
    )


_merge_compiled = jax.jit(_merge)


def _hash(index: UInt64[Array, " b"]) -> UInt64[Array, " b"]:
    """The output function of SplitMix64 (Steele, Lea & Flood 2014), after one step of its counter.

    It is a bijection of 64 bits, so two examples never tie.
    """
    z = index + jnp.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> jnp.uint64(30))) * jnp.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> jnp.uint64(27))) * jnp.uint64(0x94D049BB133111EB)
    return z ^ (z >> jnp.uint64(31))


_dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
