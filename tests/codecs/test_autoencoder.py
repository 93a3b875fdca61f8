"""The codec around an autoencoder whose latents are known; tiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.codecs.autoencoder import autoencoder
from score_sde.codecs.codec import Codec
from score_sde.codecs.tiles import tiled
from score_sde.data import digits, gather
from score_sde.types import Feature, as_tree
from tests.latents import Blocks, digits_image, frozen

FEATURES = {"image": digits_image(), "label": Feature((), 10)}


def codec(features=FEATURES, net=None, shift=0.0, scale=1.0, **options):
    part = autoencoder(features, workdir="DIR", **options)
    assert part.folders == ("DIR",)
    return as_tree(part.make(frozen(net, shift=shift, scale=scale)))


def images(n=20):
    return gather(digits().test, np.arange(n))["image"]


def test_latents_are_shifted_and_scaled_and_come_back():
    ours = codec(shift=[0.1, 0.2, 0.3, 0.4], scale=[2.0, 1.0, 0.5, 4.0])
    assert isinstance(ours, Codec)
    raw = images()
    x = np.asarray(ours.middle(raw), float)
    squares = 2 * raw.reshape(20, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(20, 4, 4, 4) / 16 - 1
    np.testing.assert_allclose(x, (squares - [0.1, 0.2, 0.3, 0.4]) * [2, 1, 0.5, 4], atol=1e-6)
    assert (ours.shape, ours.inner.shape) == ((4, 4, 4), (8, 8, 1))
    np.testing.assert_array_equal(ours.quantize(ours.decode(x)), raw)
    np.testing.assert_array_equal(ours.show(ours.decode(x)), ours.show_raw(raw))
    np.testing.assert_array_equal(ours.raw_of(ours.show_raw(raw)), raw)
    np.testing.assert_array_equal(ours.locate(ours.show_raw(raw)), ours.middle(raw))
    np.testing.assert_array_equal(ours.show_raw(raw), ours.inner.show_raw(raw))
    # a batch in front, and one example
    pairs = raw.reshape(10, 2, 8, 8, 1)
    np.testing.assert_array_equal(ours.middle(pairs).reshape(20, 4, 4, 4), ours.middle(raw))
    np.testing.assert_array_equal(ours.decode(x.reshape(10, 2, 4, 4, 4))[3, 1], ours.decode(x[7]))
    with pytest.raises(ValueError, match="scale must be above 0"):
        codec(scale=[1.0, 1.0, 0.0, 1.0])


def test_numbers_of_a_config_go_before_those_of_the_folder():
    part = autoencoder(FEATURES, workdir="DIR", shift=0.25, scale=(1.0, 2.0, 3.0, 4.0))
    ours = part.make(frozen(shift=[7.0] * 4, scale=[7.0] * 4))
    assert ours.shift == (0.25,) * 4
    assert ours.scale == (1.0, 2.0, 3.0, 4.0)


def test_a_draw_has_the_noise_of_the_posterior():
    """encode = (mean + std z - shift) scale, z of the key."""

    class Wide(Blocks):
        def encode(self, x):
            mean = jnp.split(super().encode(x), 2, axis=-1)[0]
            return jnp.concatenate([mean, jnp.full_like(mean, 2 * np.log(0.3))], axis=-1)

    ours, raw = codec(net=Wide(), shift=0.5, scale=2.0), images(4)
    key = jax.random.key(3)
    z = 0.3 * jax.random.normal(key, (4, 4, 4, 4)) * 2
    np.testing.assert_allclose(ours.encode(key, raw) - ours.middle(raw), z, atol=1e-6)


def test_moments_of_a_data_set_are_not_encoded_again():
    whole = codec(scale=2.0)
    raw = images()
    stored = whole.stored(raw)
    assert [*stored] == ["moments"]
    cached = codec({"moments": Feature((4, 4, 8)), "image": digits_image()}, scale=2.0)
    assert (cached.part, cached.feature) == ("moments", Feature((4, 4, 8)))
    key = jax.random.key(0)
    np.testing.assert_array_equal(cached.encode(key, stored["moments"]), whole.encode(key, raw))
    np.testing.assert_array_equal(cached.show_raw(stored["moments"]), whole.show_raw(raw))
    np.testing.assert_array_equal(cached.raw_of(whole.show_raw(raw)), stored["moments"])
    np.testing.assert_array_equal(cached.locate(whole.show_raw(raw)), whole.middle(raw))
    with pytest.raises(ValueError, match=r"moments of shape \(2, 2, 8\).*gives \(4, 4, 8\).*again"):
        codec({"moments": Feature((2, 2, 8))})


def test_there_is_no_density_of_images():
    with pytest.raises(ValueError, match="take a model whose codec is pixels"):
        codec().dequantize(jax.random.key(0), images(1))
    assert codec().bits_per_dim(jnp.zeros(2)) is None


# Tiles


def smooth(x):
    """Each number becomes a function of the 3 x 3 around it, and then four pixels."""
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 2, 2)), x.dtype)
    dims = ("NHWC", "HWIO", "NHWC")
    found = jnp.tanh(
        jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims)
    )
    return found.repeat(2, axis=1).repeat(2, axis=2)


@pytest.mark.parametrize(("size", "tile", "overlap"), [((19, 23), 8, 4), ((8, 31), 12, 6)])
def test_tiles_of_a_local_function_are_exact(size, tile, overlap, x64):
    """It looks one place further, a quarter of an overlap of 4; sizes that no tile divides."""
    z = jax.random.normal(jax.random.key(0), (2, *size, 2))
    found = jax.jit(lambda z: tiled(smooth, z, tile, overlap, 2))(z)
    np.testing.assert_allclose(found, smooth(z), atol=1e-12)


def test_large_latents_are_decoded_in_tiles():
    """Of a decoder that sees a whole image, the mean of each: it is that of tiles, and the sizes
    that it was called with are those of tiles."""
    seen = []

    class Watched(Blocks):
        def decode(self, z):
            seen.append(z.shape)
            return super().decode(z)

    whole, in_tiles = codec(net=Watched()), codec(net=Watched(), tile=3, overlap=1)
    x = whole.middle(images(2))
    seen.clear()
    np.testing.assert_allclose(in_tiles.decode(x), whole.decode(x), atol=1e-5)
    assert {shape[1:3] for shape in seen[:-1]} == {(3, 3)}
    assert seen[-1] == (2, 4, 4, 4)
    with pytest.raises(ValueError, match="overlap=2 is not between 1 and half of tile=3"):
        codec(tile=3, overlap=2)
