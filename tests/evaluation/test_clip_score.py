"""CLIP's score is that of transformers with its own preparation of images."""

import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.errors import DataError
from score_sde.evaluation.metrics.clip_score import clip_score, prepared
from tests.golden.make_text import HERE, IDS, pixels_of
from tests.stored import arrays

FOLDER = HERE / "clip_both"


def tokenizer(texts):
    """The golden ids, for the texts "0" to "3"."""
    return arrays(FOLDER / "states.npz")["ids"].astype(np.int32)[[int(text) for text in texts]]


@pytest.mark.parametrize("side", ["wide", "tall"])
def test_score_and_preparation(side):
    golden, pixels = arrays(FOLDER / "states.npz"), pixels_of(side)
    # a step of a pixel's value is 0.014 after the division by 255 std
    np.testing.assert_allclose(prepared(jnp.asarray(pixels), 12), golden[side], atol=1e-5)
    score = clip_score(FOLDER, tokenizer)
    found = score(pixels, ["0", "1", "2", "3"])
    np.testing.assert_allclose(found, 100 * golden[f"{side}_cosine"], atol=1e-3)
    np.testing.assert_allclose(score(pixels[[2, 0]], ["2", "0"]), found[[2, 0]], atol=1e-4)
    assert np.ptp(found) > 1


def test_grey_images():
    grey = jnp.asarray(pixels_of("wide")[..., :1])
    np.testing.assert_array_equal(prepared(grey, 12), prepared(jnp.repeat(grey, 3, axis=3), 12))
    with pytest.raises(DataError, match="images of 1 or 3 channels, not 2"):
        prepared(grey.repeat(2, axis=3), 12)


def test_what_is_refused():
    pixels = pixels_of("wide")
    with pytest.raises(DataError, match="there are 4 images and 1 texts"):
        clip_score(FOLDER, tokenizer)(pixels, ["0"])
    with pytest.raises(DataError, match=f"gives the id {IDS}, and .* knows {IDS} tokens: take"):
        clip_score(FOLDER, lambda texts: tokenizer(texts) + 1)(pixels, ["0", "1", "2", "3"])
    with pytest.raises(ValueError, match="is of class 'T5EncoderModel', and not CLIPModel"):
        clip_score(HERE / "t5", tokenizer)
