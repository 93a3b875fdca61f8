"""Real numbers: scaled to unit variance, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.codecs.codec import Codec
from score_sde.codecs.reals import reals
from score_sde.types import Feature

FEATURES = {"signal": Feature((5,)), "label": Feature((), 2)}


def test_scales_to_unit_variance_and_back():
    codec = reals(FEATURES, mean=3.0, std=2.0)
    assert isinstance(codec, Codec)
    raw = np.random.default_rng(0).normal(3.0, 2.0, (1000, 5)).astype(np.float32)
    x = codec.encode(jax.random.key(0), raw)
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(x, (raw - 3.0) / 2.0, rtol=1e-6, atol=1e-6)
    assert abs(np.mean(x)) < 4 / np.sqrt(raw.size)
    assert abs(np.mean(x**2) - 1) < 4 * np.sqrt(2 / raw.size)
    for same in (codec.dequantize(jax.random.key(1), raw), codec.middle(raw), codec.locate(raw)):
        np.testing.assert_array_equal(same, x)
    # two roundings of numbers up to 11
    np.testing.assert_allclose(codec.quantize(codec.decode(x)), raw, rtol=0, atol=2 * 11 * 2**-23)


def test_what_is_shown_is_the_raw_number():
    codec, raw = reals(FEATURES, std=2.0), np.linspace(-3, 3, 5, dtype=np.float32)
    for same in (codec.show_raw(raw), codec.raw_of(codec.show_raw(raw)), codec.show(raw)):
        np.testing.assert_array_equal(same, raw)
        assert same.dtype == jnp.float32
    assert codec.bits_per_dim(jnp.zeros(3)) is None


def test_decode_keeps_float64_and_has_its_slope(x64):
    codec = reals(FEATURES, mean=1.0, std=0.5)
    x = jnp.linspace(-2, 2, 9)
    assert codec.decode(x).dtype == jnp.float64
    np.testing.assert_array_equal(codec.decode(x), 1 + x / 2)  # exact in binary
    np.testing.assert_array_equal(jax.vmap(jax.grad(codec.decode))(x), 0.5)


def test_what_are_no_reals():
    with pytest.raises(ValueError, match="label has 2 values, and reals are real numbers"):
        reals(FEATURES, part="label")
    with pytest.raises(ValueError, match=r"std must be above 0, not 0\.0"):
        reals(FEATURES, std=0.0)
    with pytest.raises(ValueError, match="no part 'image', only signal, label"):
        reals(FEATURES, part="image")
