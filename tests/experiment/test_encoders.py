"""Changes that adapters make to frozen text encoders."""

import jax.numpy as jnp
import numpy as np

from score_sde.experiment import encoders
from score_sde.experiment.trained import digest
from score_sde.types import Frozen

PLAIN = "encoded_text(encoders=('a', 'b'), tokenizers=('c', 'd'), hidden=-2)"
NESTED = f"hints(text={PLAIN!r}, of=('picture',))"


def test_folders_of_a_conditioner_and_of_the_one_within_it():
    for spec in (PLAIN, NESTED):
        assert encoders.folders_of(spec) == ("a", "b")
        changed = encoders.with_folders(spec, ["a", "new"])
        assert encoders.folders_of(changed) == ("a", "new")
        assert encoders.with_folders(changed, ["a", "b"]) == spec
    assert encoders.folders_of("labels") == ()


def test_changes_are_added_to_the_encoder_that_they_were_made_of():
    """W + sum_i weight_i (W_i - W); another encoder stays, bit for bit."""
    values = {"a": 2.0, "b": -1.0}
    networks = {
        name: Frozen(None, params := {"kernel": jnp.full((2, 3), value)}, digest(params), {})
        for name, value in values.items()
    }
    base = networks["a"].digest
    changes = [
        encoders.Change(base, {"kernel": jnp.full((2, 3), value)}, weight)
        for value, weight in ((3.0, 0.5), (0.0, -0.25))
    ]
    load, missing = encoders.changing(networks.__getitem__, changes)
    assert load("b") is networks["b"]
    assert missing() == {base}
    found = load("a")
    assert missing() == set()
    np.testing.assert_array_equal(found.params["kernel"], np.full((2, 3), 2 + 0.5 + 0.5))
    assert found.digest == digest(found.params) != base


def test_an_encoder_that_is_no_lora_changes_nothing():
    params = {"kernel": jnp.asarray([0.1, 1e9, -3e-7])}
    network = Frozen(None, params, digest(params), {"base": "another"})
    same = network._replace(about={})
    changes = encoders.changes_of(PLAIN, 0.3, {"a": network, "b": same}.__getitem__)
    assert [change.base for change in changes] == ["another", same.digest]
    load, _ = encoders.changing(lambda _: same, changes[1:])
    np.testing.assert_array_equal(load("b").params["kernel"], params["kernel"])
