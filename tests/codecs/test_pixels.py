"""Pixels: exact values, uniform dequantisation, and the bits of a dimension."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from score_sde.codecs.pixels import Pixels, pixels
from score_sde.types import Feature


def images(values=256, *, shape=(8, 8, 1), **fields):
    return Pixels(Feature(shape, values), **fields)


def test_the_options_of_a_config():
    features = {"image": Feature((8, 8, 1), 17)}
    assert pixels(features) == images(17)
    assert pixels(features, dequantize=True) == images(17, noisy=True)
    assert pixels(features, centered=False, truncate=True) == images(
        17, centered=False, truncate=True
    )


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("bits", [0, 2**16 - 1, None])
def test_quantize_undoes_dequantisation_at_the_ends_of_every_value(monkeypatch, centered, bits):
    if bits is not None:  # u as near to 0 and to 1 as it comes
        monkeypatch.setattr(
            jax.random, "bits", lambda key, shape, dtype: jnp.full(shape, bits, dtype)
        )
    for values in range(2, 257):
        codec = images(values, centered=centered, noisy=True)
        image = (np.arange(256) % values).astype(np.uint8)  # of one shape, to compile once
        x = codec.encode(jax.random.key(values), image)
        assert x.dtype == jnp.float32
        assert x.min() > codec.bounds[0]
        assert x.max() < 1
        np.testing.assert_array_equal(codec.quantize(codec.decode(x)), image)


@pytest.mark.parametrize("values", [2, 17, 256])
@pytest.mark.parametrize("centered", [True, False])
def test_pixels_round_trips_compiled(values, centered):
    codec = images(values, centered=centered)
    image = np.tile(np.arange(values, dtype=np.uint8), 64)
    key = jax.random.key(0)
    x = jax.jit(codec.encode)(key, image)
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(x[jnp.array([0, values - 1])], codec.bounds, atol=1e-6)
    np.testing.assert_array_equal(codec.quantize(codec.decode(x)), image)
    codec = images(values, centered=centered, noisy=True)

    def there_and_back(key, image):
        return codec.quantize(codec.decode(codec.encode(key, image)))

    for seed in range(20):
        np.testing.assert_array_equal(jax.jit(there_and_back)(jax.random.key(seed), image), image)


def test_dequantisation_is_uniform():
    """Also by a codec that trains without noise: a likelihood needs it."""
    codec, image = images(4, centered=False), np.full(200_000, 2, np.uint8)
    u = codec.dequantize(jax.random.key(0), image) * 4 - 2
    # Moments of U(0, 1), to 5 standard errors.
    for power in range(1, 5):
        error = np.sqrt(1 / (2 * power + 1) - 1 / (power + 1) ** 2) / np.sqrt(u.size)
        assert abs(np.mean(np.asarray(u, np.float64) ** power) - 1 / (power + 1)) < 5 * error
    # Kolmogorov and Smirnov see a distance of 2^-8 in 200,000 draws; that of 2^12 cells is 2^-13
    assert stats.kstest(u, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("centered", [True, False])
def test_the_noise_of_a_value_fills_its_cell(centered):
    """Around `middle`, `noise_width` wide: for a U(a, b) the mean is the middle, and the standard
    deviation the width over the root of 12."""
    codec, image = images(4, centered=centered, noisy=True), np.full(100_000, 1, np.uint8)
    x = np.asarray(codec.encode(jax.random.key(0), image), float)
    std = codec.noise_width / np.sqrt(12)
    assert abs(x.mean() - codec.middle(image)[0]) < 5 * std / np.sqrt(x.size)
    np.testing.assert_allclose(x.std(), std, rtol=0.01)  # 5 errors of it are .007
    plain = images(4, centered=centered)
    assert plain.noise_width == 0
    np.testing.assert_array_equal(plain.encode(jax.random.key(0), image), plain.middle(image))


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize("values", [2, 17, 256])
def test_levels_are_the_x_of_the_values_without_noise(values, noisy, centered):
    codec = images(values, centered=centered, noisy=noisy)
    first, step, number = codec.levels
    assert number == values
    truth = codec.middle(np.arange(values, dtype=np.uint8))
    np.testing.assert_allclose(first + step * np.arange(number), truth, atol=1e-6)
    if noisy:  # cells without gaps, over all of x
        assert step == codec.noise_width
        ends = first - step / 2, first + (number - 0.5) * step
        np.testing.assert_allclose(ends, codec.bounds, atol=1e-12)


def test_pixels_in_float64_and_bfloat16():
    plain, noisy = images(17), images(17, noisy=True)
    image, key = np.arange(17, dtype=np.uint8), jax.random.key(0)
    with jax.enable_x64(True):
        assert plain.encode(key, image).dtype == jnp.float32
        x = noisy.encode(key, image)
        assert x.dtype == jnp.float32
        np.testing.assert_array_equal(noisy.quantize(noisy.decode(x.astype(jnp.float64))), image)
        assert noisy.decode(x.astype(jnp.float64)).dtype == jnp.float64
        assert plain.bits_per_dim(jnp.zeros(3, jnp.float64)).dtype == jnp.float64
    x = plain.encode(key, image).astype(jnp.bfloat16)
    np.testing.assert_array_equal(plain.quantize(plain.decode(x)), image)
    # all else is float32: the values of the very numbers that half precision has
    for dtype in (jnp.bfloat16, jnp.float16):
        x = jnp.linspace(-1, 1, 4000, dtype=dtype)
        unit = (np.asarray(x, np.float32) + 1) / 2
        for fields, truth in (
            ({}, (255 * unit + 0.5) // 1),
            ({"noisy": True}, np.minimum(256 * unit, 255) // 1),
            ({"truncate": True}, 255 * unit // 1),
        ):
            codec = images(**fields)
            np.testing.assert_array_equal(codec.show(codec.decode(x)), truth)


def test_values_are_clipped_and_stretched():
    x = jnp.array([-3.0, -1.0, 1.0, 3.0])
    for noisy in (False, True):
        for truncate in (False, True):
            codec = images(17, noisy=noisy, truncate=truncate)
            np.testing.assert_array_equal(codec.show(codec.decode(x)), [0, 0, 255, 255])
    np.testing.assert_array_equal(
        images(17).show_raw(np.array([0, 4, 8, 12, 16], np.uint8)), [0, 64, 128, 191, 255]
    )
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(images().show_raw(every), every)


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("values", [17, 256])
def test_locate_finds_the_middle_of_what_is_shown(values, truncate, noisy):
    """As far to both sides the same is shown, but for the ends, and just beyond it is not."""
    codec = images(values, truncate=truncate, noisy=noisy)
    shown = np.unique(codec.show_raw(np.arange(values, dtype=np.uint8)))[1:-1]
    x = codec.locate(shown)
    cells = 255 if truncate else values if noisy else values - 1
    half = 1 / cells  # of x in [-1, 1], in which a cell is 2 / cells wide
    for side in (-1, 1):
        inside, outside = (codec.show(codec.decode(x + side * half * a)) for a in (0.99, 1.01))
        np.testing.assert_array_equal(inside, shown)
        assert np.all(np.asarray(outside) != shown)
    every = codec.show_raw(np.arange(values, dtype=np.uint8))
    x = codec.locate(every)
    np.testing.assert_array_equal(codec.show(codec.decode(x)), every)
    np.testing.assert_array_equal(x, np.clip(x, *codec.bounds))


def test_truncation_is_that_of_the_2021_code():
    x = np.linspace(-1.2, 1.2, 1001, dtype=np.float32)
    for centered in (True, False):
        unit = (x + 1) / 2 if centered else x
        codec = images(centered=centered, truncate=True)
        theirs = np.clip(unit * 255.0, 0, 255).astype(np.uint8)
        np.testing.assert_array_equal(codec.show(codec.decode(x)), theirs)


def test_shown_values_are_read_again():
    for values in (2, 17, 256):
        codec, every = images(values), np.arange(values, dtype=np.uint8)
        np.testing.assert_array_equal(codec.raw_of(codec.show_raw(every)), every)


def test_decode_is_differentiable():
    """The slope is the values per unit of x."""
    for fields, slope in (({}, 8.0), ({"noisy": True}, 8.5), ({"centered": False}, 16.0)):
        found = jax.vmap(jax.grad(images(17, **fields).decode))(jnp.linspace(-2, 2, 9))
        np.testing.assert_allclose(found, slope, rtol=1e-6)


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("values", [4, 256])
def test_bits_per_dim_of_a_piecewise_constant_density_is_its_discrete_entropy(values, centered):
    codec = images(values, shape=(1, 2, 1), centered=centered, noisy=True)
    p = np.random.default_rng(0).dirichlet(np.ones(values), size=2)  # one law per dimension
    entropy = -np.sum(p * np.log2(p)) / 2
    image = np.stack(np.meshgrid(*[np.arange(values)] * 2), -1).reshape(-1, 2).astype(np.uint8)
    x = codec.dequantize(jax.random.key(1), image)
    cell = (2 if centered else 1) / values
    found = np.asarray(codec.quantize(codec.decode(x)))
    log_prob = np.log(p[0][found[:, 0]] / cell) + np.log(p[1][found[:, 1]] / cell)
    bits = codec.bits_per_dim(jnp.asarray(log_prob, jnp.float32))
    weight = p[0][image[:, 0]] * p[1][image[:, 1]]
    np.testing.assert_allclose(np.sum(weight * np.asarray(bits, np.float64)), entropy, rtol=1e-5)


def test_bits_per_dim_offsets():
    zero = jnp.zeros(1)
    assert images().bits_per_dim(zero) == 7
    assert images(centered=False).bits_per_dim(zero) == 8


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (Feature((8, 8, 1), 1), "pixels have 2 to 256 values, and image has 1"),
        (Feature((8, 8, 1), 257), "and image has 257"),
        (Feature((8, 8, 1), None), "and image has None"),
        (Feature((8, 8, 2), 17), r"shape \(8, 8, 2\), not .* 1 channel \(grey\) or 3"),
        (Feature((64,), 17), r"shape \(64,\), not \(height, width, channels\)"),
    ],
)
def test_what_are_no_pixels(feature, message):
    with pytest.raises(ValueError, match=message):
        Pixels(feature)
    with pytest.raises(ValueError, match="the data set has no part 'picture', only image"):
        pixels({"image": feature}, part="picture")
