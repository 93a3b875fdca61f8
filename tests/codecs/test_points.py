"""Clouds as the network sees them: each field has its own scale, and order is kept."""

import jax
import numpy as np
import pytest

from score_sde.codecs.codec import Codec
from score_sde.config import build
from score_sde.errors import ConfigError
from score_sde.types import Feature

FEATURES = {"points": Feature((5, 6)), "signal": Feature((9,)), "label": Feature((), 3)}
MEAN, STD = (1.0, 2.0, 3.0, 0.0, 0.0, 0.0), (1.0, 2.0, 4.0, 0.5, 0.5, 0.5)


def test_fields_are_scaled_each(tmp_path):
    codec = build("codecs", {"name": "points", "mean": MEAN, "std": STD}, FEATURES)
    assert isinstance(codec, Codec)
    assert (codec.shape, codec.medium, codec.bounds) == ((5, 6), "points", None)
    assert codec.bits_per_dim(np.zeros(2)) is None
    raw = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    x = codec.encode(jax.random.key(0), raw)
    np.testing.assert_allclose(x, (raw - np.array(MEAN)) / np.array(STD), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(codec.decode(x), raw, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(codec.encode(jax.random.key(0), raw[0]), x[0])  # one example
    one = build("codecs", {"name": "points", "mean": 1.0, "std": 2.0}, FEATURES)
    np.testing.assert_allclose(one.middle(raw), (raw - 1) / 2, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": "signal"}, r"signal has the shape \(9,\), and clouds are \[n, 3 \+ k\]"),
        ({"mean": (0.0, 1.0)}, "mean has 2 numbers, and a point has 6"),
        ({"std": 0.0}, "std must be above 0, not 0.0"),
        ({"part": "cloud"}, "the data set has no part 'cloud'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        build("codecs", {"name": "points", **options}, FEATURES)
