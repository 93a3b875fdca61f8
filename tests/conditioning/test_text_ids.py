"""The ids of captions for a network that holds the encoders: it reads what they give."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning.conditioner import null
from score_sde.conditioning.text_ids import ids_of
from score_sde.nets.text_reading import TextReading, joined
from tests.conditioning.test_stored import CAPTIONS, conditioner

SIZES = (4.0, 5.0)


class Told(nn.Module):
    """Gives back the conditions of a text, in one row."""

    def __call__(self, x, noise, cond, train=False):
        parts = [cond[name] for name in ("context", "vector", "sizes")]
        return jnp.concatenate([part.reshape(len(x), -1) for part in parts], axis=1)


def told(text, cond):
    encoders = tuple(module.clone() for module in text.modules)  # they are one there
    net = TextReading(Told(), encoders, (3, 3), text.hidden, text.pooled)
    x = jnp.zeros((len(CAPTIONS), 1))
    return net.apply({"params": joined({}, text.params)}, x, jnp.zeros(len(x)), cond)


@pytest.mark.parametrize("hidden", [0, -1])
def test_the_network_reads_what_the_encoded_text_gives(hidden):
    """Of one caption at random, by the same key; and of nothing, where nothing is 0."""
    text = conditioner(hidden=hidden, cond_sizes=SIZES, zeros=True)
    ids, zeros = ids_of(text), jnp.zeros((len(CAPTIONS), 1))
    raw = {"token": np.stack([text.tokenizer(captions) for captions in CAPTIONS])}
    for key in (None, jax.random.key(3)):
        cond, wanted = ids.encode(raw, key), text.encode(raw, key)
        assert set(cond) == {"tokens", "sizes"}
        truth = Told()(zeros, None, wanted)
        np.testing.assert_allclose(told(text, cond), truth, rtol=1e-6, atol=1e-6)
        nothing = Told()(zeros, None, null(text, wanted))
        np.testing.assert_array_equal(told(text, null(ids, cond)), nothing)
    assert ids.digests == text.digests  # of the encoders and the tokenizers
    assert ids.stored(raw).keys() == {"token"}


def test_nothing_may_be_the_empty_caption():
    text = conditioner()
    np.testing.assert_array_equal(ids_of(text).nothing["token"], text.tokenizer([""]))


def test_features_have_no_ids():
    with pytest.raises(ValueError, match="run --mode encode with this adapter"):
        ids_of(dataclasses.replace(conditioner(), cached=True))
