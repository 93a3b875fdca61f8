"""Data sets with missing pixels."""

import numpy as np
import pytest

from score_sde.config import build
from score_sde.data import Arrays, Data, gather, labelled_images
from score_sde.data.mixture import mixture
from score_sde.errors import ConfigError, DataError
from score_sde.types import Feature


def whole(n=200, shape=(6, 5, 3)):
    rng = np.random.default_rng(0)
    train, test = (
        Arrays(image=rng.integers(1, 17, (n, *shape)).astype(np.uint8), label=np.arange(n) % 4)
        for _ in range(2)
    )
    return Data("whole", train, test, labelled_images(shape, 17, 4))


def all_of(source):
    return gather(source, np.arange(len(source)))


def test_known_pixels_stay_and_others_are_gone():
    data = build("data", {"name": "corrupted", "of": (whole(),), "missing": 0.3})
    assert data.features["known"] == Feature((6, 5, 1), 2)
    assert data.name == "whole without 30 %"
    masks = []
    for split in ("train", "test"):
        found, truth = all_of(getattr(data, split)), all_of(getattr(whole(), split))
        known = found["known"].astype(bool)
        np.testing.assert_array_equal(found["image"], np.where(known, truth["image"], 0))
        np.testing.assert_array_equal(found["label"], truth["label"])
        # 6,000 draws of probability 0.3: a standard deviation of 0.006
        assert abs(1 - known.mean() - 0.3) < 0.02
        # other ones in each example, and at each place as often
        assert len(np.unique(known.reshape(200, -1), axis=0)) == 200
        assert np.all(np.abs(1 - known.mean(axis=0) - 0.3) < 5 * np.sqrt(0.21 / 200))
        masks.append(known)
    assert np.any(masks[0] != masks[1])


def test_what_is_missing_is_always_the_same():
    """Of an example by itself, too, and counted from the end; another seed has other pixels."""
    data, again, other = (
        build("data", {"name": "corrupted", "of": (whole(),), "seed": seed}) for seed in (0, 0, 1)
    )
    found = all_of(data.train)
    for index in (7, -1):
        for name, part in again.train[index].items():
            np.testing.assert_array_equal(part, found[name][index])
    assert np.any(all_of(other.train)["known"] != found["known"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"missing": 1.0}, "from 0 to below 1"),
        ({"part": "label"}, "has no such 'label'"),
        ({"of": ()}, "takes one data set"),
    ],
)
def test_what_cannot_be_is_told(options, message):
    with pytest.raises((DataError, ConfigError), match=message):
        build("data", {"name": "corrupted", "of": (whole(),), **options})


def test_nothing_missing_is_the_data_set():
    data = build("data", {"name": "corrupted", "of": (mixture([whole()]),), "missing": 0})
    assert all_of(data.train)["known"].all()
    np.testing.assert_array_equal(all_of(data.train)["image"], all_of(whole().train)["image"])
