"""Where samples begin: x_1 in the network's space, of examples or of a user's images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.codecs.pixels import Pixels
from score_sde.conditioning.nothing import Nothing
from score_sde.conditioning.starts import starts
from score_sde.types import Feature, as_tree

IMAGE = Feature((2, 2, 1), 5)
CODEC = as_tree(Pixels(IMAGE))


def made(given=False):
    return starts({"source": IMAGE}, text=Nothing(), codec=CODEC, given=given)


def test_the_start_is_x_of_the_source():
    source = np.arange(5, dtype=np.uint8)[:4].reshape(1, 2, 2, 1)
    cond = made().encode({"source": source, "image": 0 * source})
    np.testing.assert_allclose(cond["start"], source / 2 - 1.0, atol=1e-6)
    assert set(cond) == {"start"}
    assert made().sizes == {"start": 1}
    told = made(given=True).encode({"source": source})
    np.testing.assert_array_equal(told["image"], told["start"])
    assert made(given=True).sizes == {"start": 1, "image": 1}
    assert made().encode({}) == {}  # of nothing there is no start


def test_requests_begin_at_the_examples_in_turn_or_at_images_of_a_user():
    examples = [{"image": np.zeros((2, 2, 1)), "source": np.full((2, 2, 1), i)} for i in range(3)]
    numbers = jnp.arange(4)
    raw = made().request((), examples)(jax.random.key(0), numbers)
    np.testing.assert_array_equal(raw["source"][:, 0, 0, 0], [0, 1, 2, 0])
    raw = made().request((), [{"image": np.full((2, 2, 1), 4)}])(jax.random.key(0), numbers)
    np.testing.assert_array_equal(raw["source"][:, 0, 0, 0], [4] * 4)
    assert made().request(())(jax.random.key(0), numbers) == {}


def test_a_source_of_another_shape_is_refused():
    for features in ({}, {"source": Feature((4, 4, 1), 5)}):
        with pytest.raises(ValueError, match="samples begin at the part 'source'"):
            starts(features, text=Nothing(), codec=CODEC)


def test_it_is_an_argument_of_compiled_programs():
    source = np.ones((1, 2, 2, 1), np.uint8)
    found = jax.jit(lambda c, raw: c.encode(raw))(made(), {"source": source})
    np.testing.assert_allclose(found["start"], -0.5, atol=1e-6)
