"""Labels beside the numbers of an augmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning import conditions
from score_sde.conditioning.augmented import augmented
from score_sde.conditioning.conditioner import null, unknown
from score_sde.config import build
from score_sde.types import Feature

FEATURES = {"label": Feature((), 5)}


def test_what_is_told_in_training_and_in_sampling():
    conditioner = build("conditioning", "augmented", FEATURES)
    assert conditioner == augmented(FEATURES)
    assert conditioner.features == {"label": Feature((), 5), "augment": Feature((9,))}
    raw = {"label": np.array([1, 2]), "augment": np.ones((2, 9), np.float32)}
    cond = conditioner.encode(raw)
    np.testing.assert_array_equal(cond["augment"], raw["augment"])
    assert list(conditioner.encode({"label": raw["label"]})) == ["label"]
    nothing = null(conditioner, cond)
    np.testing.assert_array_equal(nothing["label"], [-1, -1])
    np.testing.assert_array_equal(nothing["augment"], raw["augment"])
    assert unknown(conditioner, 3)["label"].tolist() == [-1, -1, -1]
    asked = conditioner.request((3,))(jax.random.split(jax.random.key(0), 2), jnp.arange(2))
    assert asked["label"].tolist() == [3, 3]
    with pytest.raises(ValueError, match="label 5 is none of the 5 classes"):
        conditioner.check({"label": [5]})


def test_an_example_that_loses_its_label_keeps_how_it_was_changed():
    """Else its image would tell the network without a class what only augmentation makes."""
    conditioner = augmented(FEATURES)
    numbers = jnp.asarray(np.random.default_rng(0).normal(size=(200, 9)), jnp.float32)
    cond = {"label": jnp.arange(200) % 5, "augment": numbers}
    dropped = conditions.drop(jax.random.key(0), cond, null(conditioner, cond), 0.5)
    lost = np.asarray(dropped["label"]) == -1
    assert 60 < lost.sum() < 140
    np.testing.assert_array_equal(np.asarray(dropped["label"])[~lost], (np.arange(200) % 5)[~lost])
    np.testing.assert_array_equal(dropped["augment"], numbers)
