"""The conditioner of hints: what it makes of images, what is stored, what is asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning.conditioner import null, unknown
from score_sde.conditioning.hints import hints, outline
from score_sde.conditioning.labels import labels
from score_sde.types import Feature

FEATURES = {"image": Feature((4, 4, 3), 17), "label": Feature((), 10)}
IMAGES = np.random.default_rng(0).integers(0, 17, (3, 4, 4, 3))
LABELS = np.array([4, 5, 6])
OUTLINES = np.asarray(outline(jnp.asarray(IMAGES / 16, jnp.float32)))


def made(features=FEATURES, **options):
    return hints(features, text=labels(features), **options)


def of_numbers(request, numbers):
    keys = jax.random.split(jax.random.key(0), len(numbers))
    return request(keys, jnp.asarray(numbers, jnp.int32))


def test_images_become_hints_beside_the_labels():
    cond = made(of=("outline", "picture")).encode({"image": IMAGES, "label": LABELS})
    np.testing.assert_array_equal(cond["label"], LABELS)
    np.testing.assert_array_equal(cond["outline"], OUTLINES)
    np.testing.assert_allclose(cond["picture"], IMAGES / 16, rtol=1e-6)


def test_what_is_stored_makes_the_same_conditions_without_images():
    raw = {"image": IMAGES, "label": LABELS}
    stored = made().stored(raw)
    features = {"label": FEATURES["label"], "outline": Feature((4, 4, 1))}
    again = hints(features, text=labels(features)).encode(stored)
    for name, value in made().encode(raw).items():
        np.testing.assert_array_equal(again[name], value)


def test_samples_are_asked_for_by_the_examples_in_turn():
    examples = [{"image": i, "label": n} for i, n in zip(IMAGES, LABELS, strict=True)]
    conditioner = made()
    raw = of_numbers(conditioner.request((7, 8), examples), [0, 1, 4])
    np.testing.assert_array_equal(raw["label"], [7, 8, 7])
    np.testing.assert_array_equal(conditioner.encode(raw)["outline"], OUTLINES[[0, 1, 1]])
    alone = [{"image": i} for i in IMAGES]  # of a user, without labels
    raw = of_numbers(conditioner.request((7,), alone), [2])
    np.testing.assert_array_equal(conditioner.encode(raw)["outline"], OUTLINES[2:])
    raw = of_numbers(conditioner.request((7,)), [0, 1])
    np.testing.assert_array_equal(conditioner.encode(raw)["outline"], -np.ones((2, 4, 4, 1)))


def test_no_label_keeps_the_hint_and_the_guess_mode_drops_it():
    raw = {"image": IMAGES, "label": LABELS}
    for guess in (False, True):
        conditioner = made(guess=guess)
        cond = conditioner.encode(raw)
        other = null(conditioner, cond)
        np.testing.assert_array_equal(other["label"], -1)
        kept = -np.ones_like(OUTLINES) if guess else OUTLINES
        np.testing.assert_array_equal(other["outline"], kept)
        assert ("outline" in unknown(conditioner, 2)) == guess


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="there is no hint 'depth': one of outline, picture"):
        made(of=("depth",))
    without = {"label": FEATURES["label"]}
    with pytest.raises(ValueError, match="no part 'image', of which 'outline' is made"):
        hints(without, text=labels(without))
