"""Pixels: exact levels, uniform dequantisation, and the bits of a dimension."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from score_sde.data import Pixels


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("bits", [0, 2**16 - 1, None])
def test_decode_undoes_dequantize_at_the_ends_of_every_level(monkeypatch, centered, bits):
    if bits is not None:  # u as near to 0 and to 1 as it comes
        monkeypatch.setattr(
            jax.random, "bits", lambda key, shape, dtype: jnp.full(shape, bits, dtype)
        )
    for levels in range(2, 257):
        pixels = Pixels(levels, centered)
        image = (np.arange(256) % levels).astype(np.uint8)  # of one shape, to compile once
        x = pixels.dequantize(jax.random.key(levels), image)
        assert x.dtype == jnp.float32
        assert x.min() > (-1 if centered else 0)
        assert x.max() < 1
        np.testing.assert_array_equal(pixels.decode(x, dequantized=True), image)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("centered", [True, False])
def test_pixels_round_trips_compiled(levels, centered):
    pixels = Pixels(levels, centered)
    image = np.tile(np.arange(levels, dtype=np.uint8), 64)
    x = jax.jit(pixels.encode)(image)
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(x[jnp.array([0, levels - 1])], [-1 if centered else 0, 1], atol=1e-6)
    np.testing.assert_array_equal(pixels.decode(x), image)

    def there_and_back(key, image):
        return pixels.decode(pixels.dequantize(key, image), dequantized=True)

    for seed in range(20):
        np.testing.assert_array_equal(jax.jit(there_and_back)(jax.random.key(seed), image), image)


def test_dequantisation_is_uniform():
    u = (
        Pixels(4, centered=False).dequantize(jax.random.key(0), np.full(200_000, 2, np.uint8)) * 4
        - 2
    )
    # Moments of U(0, 1), to 5 standard errors.
    for power in range(1, 5):
        error = np.sqrt(1 / (2 * power + 1) - 1 / (power + 1) ** 2) / np.sqrt(u.size)
        assert abs(np.mean(np.asarray(u, np.float64) ** power) - 1 / (power + 1)) < 5 * error
    # Kolmogorov and Smirnov see a distance of 2^-8 in 200,000 draws; that of 2^12 cells is 2^-13
    assert stats.kstest(u, "uniform").pvalue > 1e-3


def test_pixels_in_float64_and_bfloat16():
    pixels = Pixels(17)
    image = np.arange(17, dtype=np.uint8)
    with jax.enable_x64(True):
        assert pixels.encode(image).dtype == jnp.float32
        x = pixels.dequantize(jax.random.key(0), image)
        assert x.dtype == jnp.float32
        np.testing.assert_array_equal(pixels.decode(x.astype(jnp.float64), dequantized=True), image)
        assert pixels.bits_per_dim(jnp.zeros(3, jnp.float64), 4).dtype == jnp.float64
    np.testing.assert_array_equal(pixels.decode(pixels.encode(image).astype(jnp.bfloat16)), image)
    # all else is float32: the levels of the very numbers that half precision has
    for dtype in (jnp.bfloat16, jnp.float16):
        x = jnp.linspace(-1, 1, 4000, dtype=dtype)
        unit = (np.asarray(x, np.float32) + 1) / 2
        np.testing.assert_array_equal(Pixels().decode(x), np.round(255 * unit))
        np.testing.assert_array_equal(Pixels().decode(x, True), np.minimum(256 * unit, 255) // 1)
        np.testing.assert_array_equal(Pixels().truncate(x), 255 * unit // 1)


def test_decode_clips_and_to_uint8_stretches():
    pixels = Pixels(17)
    for dequantized in (False, True):
        x = jnp.array([-3.0, -1.0, 1.0, 3.0])
        np.testing.assert_array_equal(pixels.decode(x, dequantized), [0, 0, 16, 16])
    np.testing.assert_array_equal(
        pixels.to_uint8(np.array([0, 4, 8, 12, 16], np.uint8)), [0, 64, 128, 191, 255]
    )
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(Pixels().to_uint8(every), every)


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("levels", [4, 256])
def test_bits_per_dim_of_a_piecewise_constant_density_is_its_discrete_entropy(levels, centered):
    pixels = Pixels(levels, centered)
    p = np.random.default_rng(0).dirichlet(np.ones(levels), size=2)  # one law per dimension
    entropy = -np.sum(p * np.log2(p)) / 2
    image = np.stack(np.meshgrid(*[np.arange(levels)] * 2), -1).reshape(-1, 2).astype(np.uint8)
    x = pixels.dequantize(jax.random.key(1), image)
    cell = (2 if centered else 1) / levels
    level = np.asarray(pixels.decode(x, dequantized=True))
    log_prob = np.log(p[0][level[:, 0]] / cell) + np.log(p[1][level[:, 1]] / cell)
    bits = pixels.bits_per_dim(jnp.asarray(log_prob, jnp.float32), 2)
    weight = p[0][image[:, 0]] * p[1][image[:, 1]]
    np.testing.assert_allclose(np.sum(weight * np.asarray(bits, np.float64)), entropy, rtol=1e-5)


def test_bits_per_dim_offsets():
    zero = jnp.zeros(1)
    assert Pixels().bits_per_dim(zero, 5) == 7
    assert Pixels(centered=False).bits_per_dim(zero, 5) == 8


@pytest.mark.parametrize("levels", [1, 257])
def test_pixels_wants_levels_of_a_byte(levels):
    with pytest.raises(ValueError, match=rf"levels must be in 2\.\.256, got {levels}"):
        Pixels(levels)
