"""Signals: their spectrum is that of the two waves, by class, and the seed decides."""

import numpy as np
import pytest

from score_sde.config import build
from score_sde.errors import DataError


def test_the_spectrum_is_two_lines():
    """Of `a sin(2 pi k i / n + p)`, k whole, |rfft| is a n/2 at k and 0 elsewhere."""
    data = build("data", {"name": "signals", "num": 40, "test_fraction": 0.25})
    assert (len(data.train), len(data.test)) == (30, 10)
    for source in (data.train, data.test):
        for i in range(len(source)):
            example = source[i]
            truth = np.zeros(33)
            slow, fast = {0: (2, 5), 1: (3, 7)}[int(example["label"])]
            truth[slow], truth[fast] = 2.0 * 32, 1.0 * 32
            spectrum = np.abs(np.fft.rfft(example["signal"].astype(float)))
            # 64 values up to 3, each rounded to float32
            np.testing.assert_allclose(spectrum, truth, atol=64 * 3 * 2**-24)
    assert np.mean(data.train.parts["label"]) == np.mean(data.test.parts["label"]) == 0.5
    assert data.features["signal"].shape == data.train[0]["signal"].shape
    assert data.features["label"].values == 2


def test_phases_are_uniform_and_of_the_seed():
    first, again, other = (build("data", f"signals(num=4000, seed={s})") for s in (0, 0, 1))
    np.testing.assert_array_equal(first.train.parts["signal"], again.train.parts["signal"])
    assert not np.any(np.all(first.train.parts["signal"] == other.train.parts["signal"], axis=1))
    signal, label = first.train.parts["signal"].astype(float), first.train.parts["label"]
    for k, lines in enumerate(((2, 5), (3, 7))):
        phases = np.angle(np.fft.rfft(signal[label == k])[:, lines])
        for p in (phases[:, 0], phases[:, 1], phases[:, 0] - phases[:, 1]):
            # the mean of n unit vectors in the plane has squared length 1/n: five times that
            assert np.abs(np.mean(np.exp(1j * p))) ** 2 < 25 / len(p)


@pytest.mark.parametrize("num", [2, 5])
def test_wrong_numbers_are_named(num):
    with pytest.raises(DataError, match=f"num must be even and at least 4, got {num}"):
        build("data", f"signals(num={num})")
