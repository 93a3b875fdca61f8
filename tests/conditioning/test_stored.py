"""What mode encode keeps of captions, and that conditions of it are those of the captions."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning.encoded_text import ENCODERS, EncodedText, Joined
from score_sde.conditioning.labels import Labels
from score_sde.conditioning.text import TOKENIZER, Text
from score_sde.conditioning.words import Words
from score_sde.nets.text_states import TextStates

CAPTIONS = [["red", "a red circle"], ["circle", "blue"], ["blue circle", "red red red"]]


class Table(nn.Module):
    """Each token has a row of numbers; the text has the mean of its rows."""

    vocabulary: int = 4

    @nn.compact
    def __call__(self, tokens):
        rows = nn.Embed(self.vocabulary, 5, name="rows")(jnp.maximum(tokens, 0))
        return TextStates(jnp.stack([rows, 2 * rows]), 3 * rows, jnp.mean(rows, axis=1))


def words(length=3):
    return Words(("red", "blue", "circle"), length)


def conditioner(**changes):
    net = Table()
    params = [net.init(jax.random.key(i), jnp.zeros((1, 3), int))["params"] for i in range(2)]
    tokenizer = Joined((words(), words()))
    of = {"captions": 2, "pooled": 1, **changes}
    made = EncodedText(tuple(params), {}, (net, net), ("a", "b"), tokenizer, **of)
    return dataclasses.replace(made, empty=made.none())


@pytest.mark.parametrize("hidden", [0, -1])
def test_features_of_every_caption(hidden):
    """One of them at random, by the same key, is the condition that the encoders give."""
    ours = conditioner(hidden=hidden)
    raw = {"token": np.stack([ours.tokenizer(captions) for captions in CAPTIONS])}
    kept = ours.stored(raw)
    assert {name: part.shape for name, part in kept.items()} == {
        "context": (3, 2, 3, 10),
        "vector": (3, 2, 5),
    }
    states = Table().apply({"params": ours.params[1]}, raw["token"][:, 1, 3:])
    np.testing.assert_array_equal(kept["vector"][:, 1], states.pooled)
    truth = states.hidden[-1] if hidden else states.last
    np.testing.assert_array_equal(kept["context"][:, 1, :, 5:], truth)

    cached = dataclasses.replace(ours, cached=True)
    assert cached.features["context"].shape == (2, 3, 10)
    for key in (None, *jax.random.split(jax.random.key(3), 4)):
        found = cached.encode(kept, key)
        for name, part in ours.encode(raw, key).items():
            np.testing.assert_array_equal(found[name], part)
    np.testing.assert_array_equal(cached.stored(kept)["context"], kept["context"])


def test_tokens_and_labels_are_kept_as_they_are():
    text = Text(words(), captions=2)
    raw = {"token": np.stack([text.tokenizer(captions) for captions in CAPTIONS]), "label": [1, 2]}
    np.testing.assert_array_equal(text.stored(raw)["token"], raw["token"])
    assert Labels(3).stored(raw)["label"].tolist() == [1, 2]


def test_digests_tell_what_makes_other_features():
    """Other encoders, other states of them, other tokenizers; not how many captions there are."""
    ours = conditioner().digests
    assert set(ours) == {ENCODERS, TOKENIZER}
    assert conditioner(captions=7).digests == ours
    for change in ({"hidden": -1}, {"pooled": 0}):
        other = conditioner(**change).digests
        assert other[ENCODERS] != ours[ENCODERS]
        assert other[TOKENIZER] == ours[TOKENIZER]
    other = dataclasses.replace(conditioner(), encoders=("a", "c")).digests
    assert other[ENCODERS] != ours[ENCODERS]
    other = dataclasses.replace(
        conditioner(), tokenizer=Joined((words(), Words(("red", "blue", "ring"), 3)))
    ).digests
    assert other[ENCODERS] == ours[ENCODERS]
    assert other[TOKENIZER] != ours[TOKENIZER]
    assert Text(words()).digests == {TOKENIZER: words().digest}
    assert Labels(3).digests == {}
