"""Clips of video: each frame is coded as an image is."""

import jax
import numpy as np
import pytest

from score_sde.codecs.codec import Codec
from score_sde.codecs.frames import frames
from score_sde.codecs.pixels import pixels
from score_sde.config import build
from score_sde.types import Feature

CLIP = (5, 4, 6, 3)
FEATURES = {"video": Feature(CLIP, 256), "image": Feature(CLIP[1:], 256)}


@pytest.mark.parametrize("dequantize", [False, True])
def test_a_clip_is_coded_as_its_frames_are(dequantize):
    codec = build("codecs", {"name": "frames", "dequantize": dequantize}, FEATURES)
    assert isinstance(codec, Codec)
    image = pixels(FEATURES, dequantize=dequantize)
    raw = np.random.default_rng(0).integers(0, 256, (2, *CLIP), dtype=np.uint8)
    assert (codec.shape, codec.medium, codec.noise_width) == (CLIP, "animation", image.noise_width)
    for ours, theirs in ((codec.middle, image.middle), (codec.locate, image.locate)):
        np.testing.assert_array_equal(ours(raw), [[theirs(frame) for frame in c] for c in raw])
    x = codec.encode(jax.random.key(0), raw)
    np.testing.assert_array_equal(codec.quantize(codec.decode(x)), raw)
    np.testing.assert_array_equal(codec.show(codec.decode(x)), raw)


def test_bits_per_dim_are_of_a_number_of_a_frame():
    """A clip whose frames have the log-densities of images has their mean in bits per dim."""
    codec, image = frames(FEATURES), pixels(FEATURES)
    nats = np.array([-120.0, 30.0])
    np.testing.assert_allclose(codec.bits_per_dim(5 * nats), image.bits_per_dim(nats), rtol=1e-12)


def test_what_are_no_clips():
    with pytest.raises(ValueError, match=r"not \(frames, height, width, channels\) with 1 channel"):
        frames(FEATURES, part="image")
    with pytest.raises(ValueError, match=r"not \(height, width, channels\) with 1 channel"):
        pixels(FEATURES, part="video")
    with pytest.raises(ValueError, match="video has None"):
        frames({"video": Feature(CLIP)})
