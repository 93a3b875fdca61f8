"""Captions as conditions, and prompts in their place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning.conditioner import Conditioner, null, unknown
from score_sde.conditioning.text import Text, one_of, text
from score_sde.conditioning.words import Words, words
from score_sde.config import build
from score_sde.data import Arrays, Data, read_text
from score_sde.nets.dit import DiT
from score_sde.types import Feature

NAMES = ("red", "blue", "circle", "square")
CAPTIONS = np.array([["a red circle", "red circle"], ["Blue, square!", "square blue"]])


def conditioner(length=4):
    features = {"caption": Feature((2,), None, True)}
    return text(features, tokenizer=words(names=NAMES, length=length))


def test_words_and_back():
    found = words(names=NAMES, length=4)([*CAPTIONS[0], *CAPTIONS[1], ""])
    wanted = [[4, 0, 2, -1], [0, 2, -1, -1], [1, 3, -1, -1], [3, 1, -1, -1], [-1] * 4]
    np.testing.assert_array_equal(found, wanted)
    texts = words(names=NAMES, length=4).texts(found)
    assert texts == ["? red circle", "red circle", "blue square", "square blue", ""]


def test_a_long_text_is_cut_with_a_warning():
    with pytest.warns(UserWarning, match="'red red red' has 3 words: those after 2 are lost"):
        found = words(names=NAMES, length=2)(["red red red"])
    assert found.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    "spec", ["words(names=())", "words(names=('a', 'a'))", "words(names=('a',), length=0)"]
)
def test_lists_that_are_none(spec):
    with pytest.raises(ValueError, match=r"^words: (names|length)"):
        build("conditioning.tokenizers", spec)


def test_what_is_read_is_what_is_encoded():
    """The text of a data set becomes tokens on the host, and one caption a condition."""
    made = conditioner()
    assert isinstance(made, Conditioner)
    assert made.sizes == {"tokens": 5}
    images = np.zeros((2, 4, 4, 1), np.uint8)
    source = Arrays(image=images, caption=CAPTIONS)
    features = {"image": Feature((4, 4, 1), 256), "caption": Feature((2,), None, True)}
    data = read_text(Data("x", source, source, features), made.read, made.features)
    assert set(data.features) == {"image", "token"}
    assert data.features["token"] == Feature((2, 4), 5)
    assert set(data.train[1]) == {"image", "token"}
    raw = {"token": np.stack([data.train[i]["token"] for i in range(2)])}
    cond = made.encode(raw)
    np.testing.assert_array_equal(cond["tokens"], [[4, 0, 2, -1], [1, 3, -1, -1]])
    # nothing is the empty caption
    np.testing.assert_array_equal(null(made, cond)["tokens"], np.full((2, 4), -1))
    np.testing.assert_array_equal(unknown(made, 3)["token"], np.full((3, 1, 4), -1))


def test_training_loses_words():
    """Each word alone, at its rate; the rest stay in their places. Sampling loses none."""
    features = {"caption": Feature((1,), None, True)}
    made = text(features, tokenizer=words(names=NAMES, length=4), drop_tokens=0.3)
    raw = {"token": np.tile(np.array([2, 0, 3, -1]), (20_000, 1, 1))}
    np.testing.assert_array_equal(made.encode(raw)["tokens"], raw["token"][:, 0])
    found = np.asarray(made.encode(raw, jax.random.key(0))["tokens"])
    lost = found[:, :3] == -1
    np.testing.assert_array_equal(np.where(lost, [2, 0, 3], found[:, :3]), raw["token"][:, 0, :3])
    assert (found[:, 3] == -1).all()
    # five standard deviations of a mean of 20,000
    np.testing.assert_allclose(lost.mean(0), 0.3, atol=0.017)
    together = np.mean(lost[:, 0] & lost[:, 1])
    assert together == pytest.approx(0.09, abs=0.011)


def test_a_rate_that_is_none():
    with pytest.raises(ValueError, match=r"drop_tokens must be in \[0, 1\), not 1.0"):
        text({}, tokenizer=words(names=NAMES), drop_tokens=1.0)


def test_text_that_nothing_reads_is_left_out():
    source = Arrays(label=np.arange(2), caption=CAPTIONS)
    features = {"label": Feature((), 2), "caption": Feature((2,), None, True)}
    data = read_text(Data("x", source, source, features), lambda example: {}, {})
    assert set(data.features) == set(data.test[0]) == {"label"}


def test_each_caption_is_drawn_equally_often():
    parts = jnp.broadcast_to(jnp.arange(3)[None, :, None], (3000, 3, 1))
    counts = np.bincount(np.asarray(one_of(jax.random.key(0), parts))[:, 0], minlength=3)
    assert abs(counts - 1000).max() < 4 * np.sqrt(3000 * 2 / 9)
    assert np.all(np.asarray(one_of(None, parts)) == 0)


def test_prompts_in_turn_or_captions_of_examples():
    made, numbers = conditioner(), jnp.arange(3)
    asked = made.request(("blue", "red square"))(jax.random.key(0), numbers)["token"]
    np.testing.assert_array_equal(asked[:, 0], [[1, -1, -1, -1], [0, 3, -1, -1], [1, -1, -1, -1]])
    examples = [made.read({"caption": c}) for c in CAPTIONS]
    drawn = made.request((), examples)(jax.random.key(0), numbers)["token"]
    np.testing.assert_array_equal(drawn[:, 0, :3], [[4, 0, 2], [1, 3, -1], [4, 0, 2]])
    assert np.all(np.asarray(made.request(())(jax.random.key(0), numbers)["token"]) == -1)
    with pytest.raises(ValueError, match="3 is no text"):
        made.request(("red", 3))


def test_a_part_without_text_is_refused():
    with pytest.raises(ValueError, match="the part 'label' of the data set holds no text"):
        text({"label": Feature((), 3)}, tokenizer=words(names=NAMES), part="label")


@pytest.fixture(scope="module")
def reader():
    """A network with random weights that reads text, also in its last layers."""
    net = DiT(patch_size=2, width=16, depth=1, num_heads=2, context="cross", vocabulary=5)
    x, noise = jax.random.normal(jax.random.key(0), (1, 4, 4, 2)), jnp.ones(1)

    def zeros_too(leaf, key):
        return jax.random.normal(key, leaf.shape) / np.sqrt(max(leaf.shape[-1], 1))

    params = jax.jit(net.init)(jax.random.key(1), x, noise, {"tokens": jnp.zeros((1, 3), int)})
    leaves, structure = jax.tree.flatten(params["params"])
    keys = jax.random.split(jax.random.key(2), len(leaves))
    params = structure.unflatten(list(map(zeros_too, leaves, keys)))

    @jax.jit
    def call(tokens):
        return net.apply({"params": params}, x, noise, {"tokens": tokens})

    return lambda *tokens: np.asarray(call(jnp.array([tokens])))


def test_padding_changes_nothing_and_words_do(reader):
    plain = reader(0, 2, -1)
    np.testing.assert_allclose(reader(0, 2, -1, -1, -1), plain, atol=1e-5)
    np.testing.assert_allclose(reader(0, 2, -7), plain, atol=1e-6)
    for other in ((0, 3, -1), (2, 0, -1), (0, -1, -1), (-1, -1, -1)):
        assert np.abs(reader(*other) - plain).max() > 1e-2, other


def test_attention_to_each_word_can_be_looked_at():
    """It is a distribution over the words that are there, [blocks, b, heads, patches, words]."""
    net = DiT(patch_size=2, width=16, depth=3, num_heads=2, context="cross", vocabulary=5)
    x, cond = jnp.ones((1, 4, 4, 1)), {"tokens": jnp.array([[0, 2, -1]])}
    params = net.init(jax.random.key(0), x, jnp.ones(1), cond)
    assert set(params) == {"params"}
    _, seen = net.apply(params, x, jnp.ones(1), cond, mutable=["intermediates"])
    (weights,) = seen["intermediates"]["blocks"]["cross"]["attention"]
    assert weights.shape == (3, 1, 2, 4, 3)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert np.all(np.asarray(weights[..., 2]) == 0)


def test_tokens_are_integers():
    net = DiT(patch_size=2, width=16, depth=1, num_heads=2, context="cross", vocabulary=5)
    arguments = (jnp.zeros((1, 4, 4, 1)), jnp.ones(1), {"tokens": jnp.zeros((1, 3))})
    with pytest.raises(ValueError, match=r"cond\['tokens'\] must be integers, not float32"):
        jax.eval_shape(net.init, jax.random.key(0), *arguments)


def test_conditioners_with_the_same_words_are_alike():
    assert conditioner() == Text(Words(NAMES, 4), "caption", 2) != conditioner(5)
