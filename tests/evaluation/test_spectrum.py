"""The spectrum of data whose spectrum is known."""

import numpy as np
import pytest
import scipy.fft

from score_sde.evaluation import spectrum

pytestmark = pytest.mark.usefixtures("x64")


def test_a_known_spectrum_is_found():
    """Waves of known means and standard deviations, in two channels; five standard errors."""
    random, n = np.random.default_rng(0), 4000
    std = random.uniform(0.2, 2.0, size=(4, 3, 2))
    mean = random.normal(size=(4, 3, 2))
    waves = mean + std * random.normal(size=(n, 4, 3, 2))
    x = scipy.fft.idctn(waves, axes=(1, 2), norm="ortho")
    found = spectrum.measured(np.split(x, [1000, 1001, 2500]))
    assert np.all(np.abs(found.law.mean - mean.ravel()) < 5 * std.ravel() / np.sqrt(n))
    assert np.all(np.abs(found.law.variance / std.ravel() ** 2 - 1) < 5 * np.sqrt(2 / n))
    # exactly those of the waves that were drawn, however they are cut into batches
    assert found.law.mean == pytest.approx(waves.mean(axis=0).ravel(), rel=1e-12)
    assert found.law.variance == pytest.approx(waves.var(axis=0).ravel(), rel=1e-12)


def test_a_wave_has_its_frequency():
    """A cosine of three half waves on eight steps is one coefficient, of 3/16 cycles a step."""
    wave = np.cos(np.pi * 3 * (np.arange(8) + 0.5) / 8)[:, None]
    found = spectrum.measured([np.stack([wave, -wave])])
    (place,) = np.flatnonzero(np.asarray(found.law.variance) > 1e-12)
    assert found.frequency[place] == pytest.approx(3 / 16)
    assert found.law.variance[place] == pytest.approx(4)  # the square of the norm of the wave


def test_every_coefficient_is_in_one_band():
    found = spectrum.measured([np.random.default_rng(0).normal(size=(2, 8, 8, 3))])
    bands = found.bands(5)
    assert sorted(np.concatenate(bands)) == list(range(192))
    assert list(bands[0]) == [0, 1, 2]  # the constant of each channel
    edges = [found.frequency[band].max() for band in bands]
    assert edges == sorted(edges)


def test_bands_are_equally_wide():
    """Of 9 steps the frequencies are 0, 1/18, ..., 8/18: beside the constant two halves, whose
    border belongs to the lower."""
    found = spectrum.measured([np.random.default_rng(0).normal(size=(2, 9, 1))])
    assert found.frequency * 18 == pytest.approx(range(9))
    assert [list(band) for band in found.bands(3)] == [[0], [1, 2, 3, 4], [5, 6, 7, 8]]


def test_one_example_has_no_spectrum():
    with pytest.raises(ValueError, match="at least two"):
        spectrum.measured([np.zeros((1, 8, 1))])


def test_noise_of_a_width_adds_its_variance():
    """Uniform noise of width w has the variance w^2/12 in every coefficient."""
    x = [np.random.default_rng(1).normal(size=(5, 4, 1))]
    plain, wide = spectrum.measured(x), spectrum.measured(x, noise_width=0.5)
    added = np.asarray(wide.law.variance) - np.asarray(plain.law.variance)
    assert added == pytest.approx(np.full(4, 0.25 / 12), rel=1e-9)


def test_records_have_no_frequency():
    """x [b, d] is channels alone: its mean and variance as they are."""
    x = np.random.default_rng(2).normal(size=(6, 3))
    found = spectrum.measured([x])
    assert found.law.mean == pytest.approx(x.mean(axis=0))
    assert found.law.variance == pytest.approx(x.var(axis=0))
    assert list(found.frequency) == [0, 0, 0]


def test_two_axes_have_the_norm_of_their_frequencies():
    """Of coefficient (j, k) of n x m: the norm of j/(2 n) and k/(2 m) cycles a step."""
    found = spectrum.measured([np.random.default_rng(3).normal(size=(2, 3, 4, 1))])
    j, k = np.arange(3)[:, None] / 6, np.arange(4)[None] / 8
    assert found.frequency == pytest.approx(np.sqrt(j**2 + k**2).ravel())
