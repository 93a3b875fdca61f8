"""The known part of an image beside text, for networks that inpaint."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning.conditioner import Conditioner, null, unknown
from score_sde.conditioning.inpainting import inpainting
from score_sde.conditioning.text import Text
from score_sde.conditioning.words import words
from score_sde.types import Feature, Needs
from tests.latents import digits_image, frozen

KEYS = jax.random.split(jax.random.key(0), 3)
FEATURES = {"image": digits_image()}


@pytest.fixture(scope="module")
def made() -> Any:
    """Latents are squares of 2x2 pixels, a channel for each pixel."""
    tokenizer: Any = words(names=("red", "cat"), length=3)
    of_text = Text(tokenizer)
    needs = inpainting(FEATURES, text=Needs((), lambda: of_text), autoencoder="vae")
    assert needs.folders == ("vae",)
    about = {"shift": [0.1, 0.2, 0.3, 0.4], "scale": [2.0, 1.0, 0.5, 4.0]}
    vae = frozen()
    return needs.make(vae._replace(about=vae.about | about))


def test_what_is_beside_x(made):
    """The mask of the first of each 2x2 pixels; then the latents of the image, which is 0 where it
    is not known, shifted and scaled."""
    assert made.sizes == {"tokens": 3, "image": 5}
    rng = np.random.default_rng(0)
    image = rng.integers(0, 17, (2, 8, 8, 1), dtype=np.uint8)
    mask = rng.integers(0, 2, (2, 8, 8, 1), dtype=np.uint8)
    token = made.text.tokenizer(["red", "cat"])[:, None]
    found = made.encode({"image": image, "drawn": mask, "token": token})
    np.testing.assert_array_equal(found["tokens"], [[0, -1, -1], [1, -1, -1]])
    x = (2 * image / 16.0 - 1) * (1 - mask)
    for i in range(4):
        row, column = divmod(i, 2)
        z = x[:, row::2, column::2, 0]
        wanted = (z - [0.1, 0.2, 0.3, 0.4][i]) * [2.0, 1.0, 0.5, 4.0][i]
        np.testing.assert_allclose(found["image"][..., 1 + i], wanted, atol=1e-6)
    np.testing.assert_array_equal(found["image"][..., 0], mask[:, ::2, ::2, 0])


def test_guidance_leads_away_from_words_alone(made):
    """The condition that says nothing, and a negative one, have the image of the condition."""
    image = np.full((2, 8, 8, 1), 5, np.uint8)
    raw = {"image": image, "drawn": image[..., :1] % 2, "token": made.text.tokenizer(["red"] * 2)}
    cond = made.encode({**raw, "token": raw["token"][:, None]})
    asked = made.request(("cat",))(KEYS[:2], jnp.arange(2))
    for other, word in ((None, -1), (asked, 1)):
        away = null(made, cond, other)
        np.testing.assert_array_equal(away["tokens"][:, 0], [word] * 2)
        np.testing.assert_array_equal(away["image"], cond["image"])
    assert set(made.encode(unknown(made, 2))) == {"tokens"}


def test_without_an_image_nothing_of_it_is_known(made):
    """A request asks for words and a whole picture; it is a pytree of what it holds."""
    asked = jax.jit(lambda request: request(KEYS, jnp.arange(3)))(made.request(("red", "cat")))
    cond = made.encode(asked)
    np.testing.assert_array_equal(cond["tokens"][:, 0], [0, 1, 0])
    assert (np.asarray(cond["image"][..., 0]) == 1).all()
    wanted = -np.array([0.1, 0.2, 0.3, 0.4]) * [2.0, 1.0, 0.5, 4.0]
    np.testing.assert_allclose(cond["image"][..., 1:], np.broadcast_to(wanted, (3, 4, 4, 4)))
    assert made.features["drawn"] == Feature((8, 8, 1), 2)
    assert set(made.features) == {"token", "image", "drawn"}


def test_its_digests_tell_the_autoencoder(made):
    assert made.digests == {**made.text.digests, "autoencoder of the condition": "one"}
    assert isinstance(made, Conditioner)
