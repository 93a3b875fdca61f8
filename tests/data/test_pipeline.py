"""The pipeline: every example once, flips, shards, and resumed to the bit."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from score_sde.data import eval_batches, train_iterator
from score_sde.data.augment import flip
from score_sde.data.source import Arrays
from score_sde.errors import DataError
from score_sde.types import Feature

FLIP = flip({"image": Feature((2, 2, 1), 256)})


def numbered(n: int, size: int = 2) -> Arrays:
    """Images that tell their own number (label) and whether they were mirrored (column 0 is 0)."""
    columns = np.arange(size, dtype=np.uint8)
    image = np.broadcast_to(columns[None, None, :, None], (n, size, size, 1))
    return Arrays(image=image.copy(), label=np.arange(n, dtype=np.int32))


def labels(iterator, num_batches):
    return np.concatenate([next(iterator)["label"] for _ in range(num_batches)])


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], strict=True)


def test_each_epoch_holds_every_example_once_in_a_new_order():
    n, b = 30, 7
    iterator = train_iterator(numbered(n), batch_size=b, seed=0)
    epochs = labels(iterator, 4 * n // b + 1)[: 4 * n].reshape(4, n)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(n))
    for a, b in itertools.combinations(epochs, 2):
        assert (a != b).any()


def test_neighbouring_seeds_share_no_order():
    n = 50
    first, second = (labels(train_iterator(numbered(n), batch_size=n, seed=s), 3) for s in (0, 1))
    for a, b in itertools.product(first.reshape(3, n), second.reshape(3, n)):
        assert (a != b).mean() > 0.8


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_an_epoch_without_overlap(count):
    n, b = 31, 4  # n is no multiple of either count
    source = numbered(n)

    def batches(size, shard):
        iterator = train_iterator(source, batch_size=size, seed=3, augment=FLIP, shard=shard)
        return [next(iterator) for _ in range(20)]

    shards = [batches(b, (i, count)) for i in range(count)]
    together = [
        {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        for parts in zip(*shards, strict=True)
    ]
    whole = batches(count * b, (0, 1))
    for ours, truth in zip(together, whole, strict=True):  # in the same order, and so are flips
        assert_same(ours, truth)
    order = np.concatenate([batch["label"] for batch in whole])
    np.testing.assert_array_equal(np.sort(order[:n]), np.arange(n))
    coins = np.concatenate([batch["image"][:, 0, 0, 0] != 0 for batch in whole])
    assert 0 < coins.mean() < 1


def test_flip_mirrors_half_the_images_left_to_right():
    before = np.random.default_rng(0).integers(0, 256, (40, 3, 5, 3), dtype=np.uint8)
    source = Arrays(image=before.copy(), label=np.arange(40, dtype=np.int32))
    iterator = train_iterator(source, batch_size=40, seed=0, augment=FLIP)
    mirrored = []
    for _ in range(50):
        batch = next(iterator)
        for image, label in zip(batch["image"], batch["label"], strict=True):
            same = (image == before[label]).all()
            mirrored.append(not same)
            assert same or (image == before[label][:, ::-1]).all()
    assert abs(np.mean(mirrored) - 0.5) < 5 * 0.5 / np.sqrt(2000)
    np.testing.assert_array_equal(source.parts["image"], before)  # the source itself is left alone


@pytest.mark.parametrize("stop", [1, 3, 6])  # mid-epoch, and on either side of an epoch's end
def test_resume_is_equal_to_the_bit(stop):
    n, b = 22, 5

    def fresh():
        return train_iterator(numbered(n, 4), batch_size=b, seed=7, augment=FLIP, shard=(1, 2))

    undisturbed = fresh()
    batches = [next(undisturbed) for _ in range(12)]
    assert any((x["image"][:, 0, 0] != 0).any() for x in batches)
    first = fresh()
    for _ in range(stop):
        next(first)
    state = json.loads(json.dumps(first.get_state()))
    resumed = fresh()
    next(resumed)  # an iterator that has already prefetched goes back too
    resumed.set_state(state)
    for expected in batches[stop:]:
        assert_same(next(resumed), expected)


def test_threads_do_not_change_the_stream():
    one, many = (
        train_iterator(numbered(50), batch_size=8, seed=1, augment=FLIP, threads=t, prefetch=2 * t)
        for t in (1, 8)
    )
    for _ in range(20):
        assert_same(next(one), next(many))


def test_a_batch_may_be_larger_than_the_source():
    batch = next(train_iterator(numbered(3), batch_size=9, seed=0))
    np.testing.assert_array_equal(np.sort(batch["label"]), np.repeat(np.arange(3), 3))
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32


@pytest.mark.parametrize(("n", "b", "count"), [(10, 4, 1), (8, 4, 1), (10, 4, 3), (1, 4, 2)])
def test_eval_batches_give_every_example_once_in_order(n, b, count):
    source = numbered(n)
    shards = [list(eval_batches(source, b, (i, count))) for i in range(count)]
    assert {len(shard) for shard in shards} == {-(-n // (b * count))}
    in_order = [batch for step in zip(*shards, strict=True) for batch in step]
    for batch in in_order:
        assert batch["image"].shape == (b, 2, 2, 1)
        assert batch["mask"].dtype == bool
    label, mask = (np.concatenate([batch[key] for batch in in_order]) for key in ("label", "mask"))
    np.testing.assert_array_equal(label[mask], np.arange(n))


def test_pipeline_errors():
    with pytest.raises(DataError, match="the training split is empty"):
        train_iterator(numbered(0), batch_size=2, seed=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        eval_batches(numbered(2), 0)
    with pytest.raises(ValueError, match=r"0 <= index < count, got \(2, 2\)"):
        train_iterator(numbered(2), batch_size=1, seed=0, shard=(2, 2))
