"""Codecs of tokens: raw parts come back, and what is shown is the text or the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.codecs.codec import Codec
from score_sde.config import build
from score_sde.data.spelling import names_of
from score_sde.types import Feature

KEY = jax.random.key(0)
NAMES = names_of(["a", "é", "", "the "])  # of 1, 2, 0 and 4 bytes


def text(length=5):
    return build("codecs", "tokens", {"text": Feature((length,), 4, names=NAMES)})


def image():
    return build("codecs", "image_tokens", {"image": Feature((8, 8, 1), 17)})


def raws(codec, n=20):
    return np.random.default_rng(0).integers(0, codec.feature.values, (n, *codec.feature.shape))


@pytest.mark.parametrize("make", [text, image])
def test_raw_parts_come_back(make):
    """From x, from reals and from what is shown; for one example and for a batch."""
    codec, raw = make(), raws(make())
    assert isinstance(codec, Codec)
    if make is text:
        raw[raw == 2] = 0  # nothing is shown of the empty token, as of a mask
    x = codec.encode(KEY, raw)
    assert x.dtype == jnp.int32
    assert x.shape == (20, *codec.shape)
    np.testing.assert_array_equal(codec.quantize(codec.decode(x)), raw)
    np.testing.assert_array_equal(codec.quantize(codec.decode(x[3])), raw[3])
    shown = codec.show(codec.decode(x))
    np.testing.assert_array_equal(shown, codec.show_raw(raw))
    np.testing.assert_array_equal(codec.raw_of(shown), raw)
    np.testing.assert_array_equal(codec.locate(shown), codec.middle(raw))
    np.testing.assert_array_equal(codec.dequantize(KEY, raw), x)
    np.testing.assert_array_equal(codec.stored(raw)[codec.part], raw)


@pytest.mark.parametrize("make", [text, image])
def test_bits_of_the_uniform_law_are_those_of_a_value(make):
    codec = make()
    numbers, values = int(np.prod(codec.shape)), codec.feature.values
    bits = codec.bits_per_dim(jnp.float32(-numbers * np.log(values)))
    assert float(bits) == pytest.approx(np.log2(values), rel=1e-6)


def test_text_is_shown_as_utf8():
    shown = np.asarray(text().show(jnp.asarray([3, 0, 1, -1, 0])))
    assert shown.shape == (5, 4)
    assert shown.tobytes().replace(b"\0", b"").decode() == "the aéa"


def test_an_image_is_shown_as_pixels_show_it():
    codec, raw = image(), raws(image())
    np.testing.assert_array_equal(
        codec.show(codec.decode(codec.encode(KEY, raw))), np.round(255 * raw / 16).astype(np.uint8)
    )


@pytest.mark.parametrize(
    "feature",
    [
        Feature((5,)),
        Feature((5, 2), 4, names=NAMES),
        Feature((5,), 4),
        Feature((5,), 3, names=NAMES),
    ],
)
def test_what_is_no_text_is_refused(feature):
    with pytest.raises(ValueError, match="row of whole numbers"):
        build("codecs", "tokens", {"text": feature})
