"""From a source to batches: shuffled without end for training, once in order for evaluation."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from score_sde.data.augment import Augmentation
from score_sde.data.source import Example, Source, gather
from score_sde.errors import DataError


def train_iterator(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    augment: Augmentation | None = None,
    shard: tuple[int, int] = (0, 1),
    threads: int = 2,
    prefetch: int = 8,
) -> Any:
    """An endless iterator of batches.

    The processes take batches in turn from one endless shuffled stream. Every len(source)
    consecutive examples of the stream are an epoch, in an order of its own. Nothing is dropped: a
    batch may span two epochs. The batches k of all processes, one after another, are the global
    batch k. Its examples, order and augmentation depend on the seed and k alone.

    Batch k is a pure function of (seed, shard, k), so the state is only k: `get_state()` gives a
    dict for JSON, and after `set_state` the iterator goes on with equal bits. The returned object
    is grain's `DatasetIterator`.

    batch_size: of this process.
    augment: changes the batches (`data.augment`).
    shard: (index of this process, number of processes).
    threads, prefetch: how many threads make batches, and how many batches ahead.

    Raises DataError for an empty source and ValueError for a batch size or shard out of range.
    """
    import grain

    index, count = _check(batch_size, shard)
    if not len(source):
        raise DataError("the training split is empty")
    # Grain seeds the augmentation of batch k by (seed, k).
    shuffle_seed, augment_seed = np.random.SeedSequence(seed).generate_state(2).tolist()
    order = _orders(len(source), shuffle_seed)

    def batch(k: int) -> Example:
        return gather(source, order((k * count + index) * batch_size + np.arange(batch_size)))

    batches = grain.MapDataset.range(sys.maxsize // (batch_size * count)).map(batch)
    if augment is not None:
        change = functools.partial(_augmented, augment, shard)
        batches = batches.random_map(change, seed=augment_seed)
    return iter(_prefetched(batches, threads, prefetch))


def eval_batches(
    source: Source,
    batch_size: int,
    shard: tuple[int, int] = (0, 1),
    *,
    threads: int = 2,
    prefetch: int = 8,
) -> Iterator[Example]:
    """Every example exactly once, in order, in batches of one size with a `mask` bool [b].

    The last batch is filled up with copies of the last example, where the mask is False, so one
    compiled program serves all. Each process gets the same number of batches; some may be all
    filling. The batches of the processes, one after another, are in the order of the source.

    batch_size: of this process. shard, threads, prefetch: as in `train_iterator`.

    Raises ValueError for a batch size or shard out of range.
    """
    import grain

    index, count = _check(batch_size, shard)
    size = len(source)

    def batch(k: int) -> Example:
        positions = (k * count + index) * batch_size + np.arange(batch_size)
        return gather(source, np.minimum(positions, size - 1)) | {"mask": positions < size}

    num_batches = math.ceil(size / (batch_size * count))
    return iter(_prefetched(grain.MapDataset.range(num_batches).map(batch), threads, prefetch))


def _orders(size: int, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """`ascending positions in the endless stream -> numbers of examples`.

    (Grain's own shuffle needs no array of an epoch, but runs Python for every example: it takes
    twice as long as all the rest.)
    """

    @functools.lru_cache(maxsize=4)  # batches are made ahead, and span epochs
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(size)

    def numbers(positions):
        epochs, places = np.divmod(positions, size)
        parts = [order(int(e))[places[epochs == e]] for e in np.unique(epochs)]
        return np.concatenate(parts)

    return numbers


def _augmented(
    augment: Augmentation, shard: tuple[int, int], batch: Example, rng: np.random.Generator
) -> Example:
    """rng: seeded by the number of the global batch, so it draws for the whole of that."""
    index, count = shard
    size = len(next(iter(batch.values())))
    return augment(batch, np.split(rng.random(count * size), count)[index])


def _prefetched(batches: Any, threads: int, prefetch: int) -> Any:
    import grain

    return batches.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    )


def _check(batch_size: int, shard: tuple[int, int]) -> tuple[int, int]:
    index, count = shard
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if not 0 <= index < count:
        raise ValueError(f"shard must be (index, count) with 0 <= index < count, got {shard}")
    return index, count
