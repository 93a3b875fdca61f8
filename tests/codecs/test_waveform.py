"""Waves: scaled and back, clipped where they are shown; a stationary one is denoised by Wiener."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from score_sde.codecs.codec import Codec
from score_sde.config import build
from score_sde.processes import EDM, VP
from score_sde.processes.exact import Gaussian
from score_sde.types import Feature

FEATURES = {"sound": Feature((256, 2)), "label": Feature((), 2), "curve": Feature((5,))}


def codec(**options):
    return build("codecs", {"name": "waveform", "rate": 8000, **options}, FEATURES)


def test_scales_both_channels_and_back():
    wave = codec(std=0.25)
    assert isinstance(wave, Codec)
    raw = np.random.default_rng(0).uniform(-1, 1, (3, 256, 2)).astype(np.float32)
    x = wave.encode(jax.random.key(0), raw)
    np.testing.assert_array_equal(x, 4 * raw)  # exact in binary
    for same in (wave.quantize(wave.decode(x)), wave.show_raw(raw), wave.show(wave.decode(x))):
        np.testing.assert_array_equal(same, raw)
    assert wave.bounds == (-4, 4)
    assert wave.medium == "sounds(rate=8000)"


def test_what_is_shown_is_clipped_and_the_slope_is_not():
    wave = codec(std=0.5)
    x = jnp.array([-3.0, -1.0, 0.0, 1.0, 3.0])
    np.testing.assert_array_equal(wave.show(wave.decode(x)), [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_array_equal(jax.vmap(jax.grad(wave.decode))(x), 0.5)


def test_cosines_are_those_of_scipy_and_keep_lengths(x64):
    """So a log-density of x is that of the wave over std."""
    wave, cosines = codec(std=0.5), codec(std=0.5, cosines=True)
    assert isinstance(cosines, Codec)
    raw = np.random.default_rng(0).uniform(-1, 1, (3, 256, 2)).astype(np.float32)
    x = cosines.encode(jax.random.key(0), raw)
    assert x.dtype == jnp.float32
    truth = scipy.fft.dct(raw.astype(float) / 0.5, axis=1, norm="ortho")
    np.testing.assert_allclose(x, truth, atol=2e-5)  # sums of 256 products in float32
    assert float(jnp.sum(x**2)) == pytest.approx(float(jnp.sum(wave.middle(raw) ** 2)), rel=1e-5)
    np.testing.assert_allclose(cosines.decode(truth), raw, atol=1e-12)
    assert cosines.decode(truth).dtype == jnp.float64
    np.testing.assert_allclose(cosines.show(cosines.decode(x)), raw, atol=1e-5)
    np.testing.assert_array_equal(cosines.decode(x[0]), cosines.decode(x)[0])
    assert cosines.bounds is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0}, "rate must be at least 1 number a second, not 0"),
        ({"std": 0.0}, r"std must be above 0, not 0\.0"),
        ({"part": "curve"}, r"a sound is \[n, channels\], and curve has the shape \(5,\)"),
        ({"part": "label"}, "label has 2 values, and reals are real numbers"),
    ],
)
def test_what_is_no_sound(options, message):
    with pytest.raises(ValueError, match=message):
        codec(**options)


@pytest.mark.parametrize("sde", [VP(), EDM()], ids=["VP", "EDM"])
def test_the_denoiser_of_a_stationary_sound_is_the_filter_of_wiener(x64, sde):
    """A Gaussian whose covariance c(i - j) is circulant has independent frequencies, each of the
    variance S(f) = sum_i c(i) e^{-2 pi i f}. Its denoiser multiplies each by

        alpha S / (alpha^2 S + sigma^2)

    (Wiener 1949): two peaks above a floor here, as of a voice."""
    n = 64
    f = np.minimum(np.arange(n), n - np.arange(n))
    spectrum = 0.01 + np.exp(-(((f - 5) / 2) ** 2)) + 0.5 * np.exp(-(((f - 17) / 3) ** 2))
    covariance = np.fft.ifft(spectrum).real[(np.arange(n)[:, None] - np.arange(n)) % n]
    law = Gaussian(jnp.zeros(n), jnp.asarray(covariance))
    x_t = sde.prior_sample(jax.random.key(0), (4, n, 1), jnp.float64)
    for t in np.linspace(sde.t_min, sde.t_max, 7):
        alpha, sigma = (np.asarray(a(jnp.asarray(t))) for a in (sde.alpha, sde.sigma))
        gain = alpha * spectrum / (alpha**2 * spectrum + sigma**2)
        truth = np.fft.ifft(np.fft.fft(np.asarray(x_t), axis=1) * gain[None, :, None], axis=1).real
        found = law.denoiser(sde)(x_t, jnp.asarray(t))
        np.testing.assert_allclose(found, truth, rtol=0, atol=1e-6 * np.abs(truth).max())
