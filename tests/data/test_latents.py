"""Latents on the disk, and their pictures."""

import numpy as np
import pytest

from score_sde.data import gather
from score_sde.data.latents import latents
from score_sde.errors import DataError
from score_sde.types import Feature


def written(folder, latent, label):
    np.save(folder / "latents.npy", latent)
    np.save(folder / "labels.npy", label)
    return folder


def test_latents_are_read_as_they_lie(tmp_path):
    latent = np.random.default_rng(0).normal(size=(20, 4, 4, 2)).astype(np.float16)
    data = latents(written(tmp_path, latent, np.arange(20)), test_fraction=0.1, num_classes=20)
    assert data.features["latent"] == Feature((4, 4, 2))
    assert data.features["label"].values == 20
    assert (len(data.train), len(data.test)) == (18, 2)
    batch = gather(data.test, np.arange(2))
    np.testing.assert_array_equal(batch["latent"], latent[::10].astype(np.float32))
    assert batch["latent"].dtype == np.float32
    assert batch["label"].tolist() == [0, 10]


def test_a_missing_folder_is_described(tmp_path):
    data = latents(tmp_path / "none")
    assert data.features["latent"].shape == (64, 64, 4)
    with pytest.raises(DataError, match="none is not a folder"):
        len(data.train)


@pytest.mark.parametrize(
    ("latent", "label", "message"),
    [
        (np.zeros((4, 2, 2)), np.zeros(4, int), "holds float64"),
        (np.zeros((4, 2, 2, 1), np.float32), np.zeros(3, int), r"holds int64 \[3\]"),
        (np.zeros((4, 2, 2, 1), np.float32), np.full(4, 7), "labels are 0 to 4"),
        (np.array([{}], object), np.zeros(4, int), "damaged or is no .npy"),
    ],
)
def test_other_arrays_are_refused(tmp_path, latent, label, message):
    with pytest.raises(DataError, match=message):
        latents(written(tmp_path, latent, label), num_classes=5)
