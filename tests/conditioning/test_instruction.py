"""An instruction, and the image that it changes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning.conditioner import null
from score_sde.conditioning.instruction import BESIDE, instruction
from score_sde.conditioning.text import Text
from score_sde.conditioning.words import words
from score_sde.types import Feature, Needs
from tests.latents import digits_image, frozen

FEATURES = {"image": digits_image(), "source": digits_image()}
SOURCE = np.random.default_rng(0).integers(0, 17, (40, 8, 8, 1), dtype=np.uint8)


def made(features=FEATURES, **options) -> Any:
    """Latents are squares of 2x2 pixels, a channel for each pixel; shift and scale are not for
    them."""
    tokenizer: Any = words(names=("red", "cat"), length=3)
    text = Needs((), lambda: Text(tokenizer))
    vae = frozen()
    needs = instruction(features, text=text, autoencoder="vae", **options)
    assert needs.folders == ("vae",)
    return needs.make(vae._replace(about=vae.about | {"shift": [5.0] * 4, "scale": [7.0] * 4}))


def raw_of(conditioner, size=40):
    token = conditioner.text.tokenizer(["red"] * size)[:, None]
    return {"source": SOURCE[:size], "image": 0 * SOURCE[:size], "token": token}


def latents(images):
    x = 2 * images / 16.0 - 1
    return np.stack([x[:, i::2, j::2, 0] for i in (0, 1) for j in (0, 1)], axis=-1)


def test_the_image_before_the_change_is_beside_x():
    """Its latents, as the autoencoder gives them."""
    conditioner = made()
    assert conditioner.sizes == {"tokens": 3, "image": 4}
    cond = conditioner.encode(raw_of(conditioner))
    np.testing.assert_array_equal(cond["tokens"], [[0, -1, -1]] * 40)
    np.testing.assert_allclose(cond["image"], latents(SOURCE), atol=1e-6)
    other = null(conditioner, cond)
    np.testing.assert_array_equal(other["tokens"], -1)
    np.testing.assert_array_equal(other["image"], cond["image"])


def test_training_loses_images_at_the_rate_that_is_asked():
    """Each whole or not at all; without a key, none."""
    conditioner = made(drop_image=0.3)
    raw, whole = raw_of(conditioner), latents(SOURCE)
    np.testing.assert_allclose(conditioner.encode(raw)["image"], whole, atol=1e-6)
    lost = []
    for i in range(25):
        found = np.asarray(conditioner.encode(raw, jax.random.key(i))["image"])
        gone = np.all(found == 0, axis=(1, 2, 3))
        np.testing.assert_allclose(found[~gone], whole[~gone], atol=1e-6)
        lost.append(gone.mean())
    assert abs(np.mean(lost) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 1000)


def test_what_is_stored_makes_the_same_conditions_without_images():
    conditioner = made()
    raw = raw_of(conditioner, 3)
    stored = conditioner.stored(raw)
    assert set(stored) == {"token", BESIDE}
    shown = {"image": digits_image(), BESIDE: Feature((4, 4, 4))}
    again = made(shown)
    assert BESIDE in again.features
    for name, value in conditioner.encode(raw).items():
        np.testing.assert_array_equal(again.encode(stored)[name], value)


def test_images_are_taken_in_turn():
    conditioner = made()
    keys, numbers = jax.random.split(jax.random.key(0), 3), jnp.array([0, 1, 2])
    pictures = [{"image": image} for image in SOURCE[:2]]  # of a user
    raw = conditioner.request(("red", "cat"), pictures)(keys, numbers)
    cond = conditioner.encode(raw)
    np.testing.assert_allclose(cond["image"], latents(SOURCE[[0, 1, 0]]), atol=1e-6)
    np.testing.assert_array_equal(cond["tokens"][:, 0], [0, 1, 0])
    cond = conditioner.encode(conditioner.request(("red",))(keys, numbers))
    np.testing.assert_array_equal(cond["image"], np.zeros((3, 4, 4, 4)))


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"drop_image must be in \[0, 1\), not 1"):
        made(drop_image=1.0)
