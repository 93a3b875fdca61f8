"""The first frame of a clip as a condition beside labels or text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning.conditioner import Conditioner, null
from score_sde.conditioning.first_frame import first_frame
from score_sde.conditioning.labels import labels
from score_sde.types import Feature

CLIP = (3, 4, 4, 1)
FEATURES = {"video": Feature(CLIP, 256), "label": Feature((), 5)}


def conditioner():
    return first_frame(FEATURES, text=labels(FEATURES))


def clips(n=2):
    return np.random.default_rng(0).integers(0, 256, (n, *CLIP), dtype=np.uint8)


def test_every_frame_is_told_the_first():
    ours, video = conditioner(), clips()
    assert isinstance(ours, Conditioner)
    assert ours.sizes == {"label": 5, "image": 1}
    cond = ours.encode({"video": video, "label": np.array([3, 1])})
    np.testing.assert_array_equal(cond["label"], [3, 1])
    truth = np.broadcast_to(2 * (video[:, :1] / np.float32(255)) - 1, video.shape)
    np.testing.assert_allclose(cond["image"], truth, atol=2**-22)  # 3 roundings of numbers up to 2
    image = ours.encode({"video": video[:, 0], "label": np.array([3, 1])})["image"]
    np.testing.assert_array_equal(image, cond["image"])  # an image is a first frame
    nothing = null(ours, cond)
    np.testing.assert_array_equal(nothing["label"], -1)
    np.testing.assert_array_equal(nothing["image"], cond["image"])


def test_samples_begin_with_the_examples_in_turn():
    ours, video = conditioner(), clips(3)
    examples = [{"video": video[i], "label": np.int32(i)} for i in range(3)]
    numbers = jnp.array([1, 2, 3, 4])
    keys = jax.random.split(jax.random.key(0), 4)
    raw = ours.request((4,), examples)(keys, numbers)
    np.testing.assert_array_equal(raw["video"], video[[1, 2, 0, 1], 0])
    np.testing.assert_array_equal(raw["label"], 4)
    alone = ours.request((), [{"video": video[2, 0]}])(keys, numbers)  # images of a user
    np.testing.assert_array_equal(alone["video"], np.stack([video[2, 0]] * 4))
    assert "video" not in ours.request((), ())(keys, numbers)
    assert ours.told(raw)["labels"].tolist() == [4] * 4


def test_data_without_clips_are_refused():
    with pytest.raises(ValueError, match="the data set has no clips 'video'"):
        first_frame({"label": Feature((), 5)}, text=labels(FEATURES))
    with pytest.raises(ValueError, match="no clips 'label', frames of whole numbers"):
        first_frame(FEATURES, text=labels(FEATURES), part="label")
