"""Changes that adapters make to frozen text encoders."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from score_sde.config import build
from score_sde.experiment import encoders, frozen
from score_sde.experiment.build import completed
from score_sde.experiment.trained import digest
from score_sde.published import lora_text, stable_diffusion
from score_sde.types import Frozen
from tests.published.test_lora_text import read
from tests.published_cases import GOLDEN
from tests.stored import arrays

FILES = GOLDEN / "adapters" / "text"
PROMPTS = ["a red bicycle", "the cat's blue hat!", ""]
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


def test_a_conditioner_of_xl_reads_folders_of_peft(tmp_path):
    """Its states and its vector are those of the peers' encoders with the LoRA; and so they are
    where an adapter of weight 1 brings the change."""
    folder = GOLDEN / "pipelines" / "sdxl"
    plain = stable_diffusion.describe(folder).conditioner
    bases, found = encoders.folders_of(plain), read(FILES / "sdxl_mixed.safetensors", "sdxl")
    for base, factors in zip(bases, found.encoders, strict=True):
        lora_text.write(tmp_path / Path(base).name, factors, base)
    changed = encoders.with_folders(plain, [str(tmp_path / Path(base).name) for base in bases])
    changes = encoders.changes_of(changed, 1.0, load)
    loading, missing = encoders.changing(load, changes)
    outputs = arrays(FILES / "outputs.npz")
    own = completed(build("conditioning", changed, {}), load)
    over_base = completed(build("conditioning", plain, {}), loading)
    assert missing() == set()
    for conditioner in (own, over_base):
        raw = conditioner.read({"caption": PROMPTS})
        found = conditioner.encode({"token": raw["token"][:, None]})
        for part, name in (("context", "sdxl_mixed"), ("vector", "sdxl_mixed_pooled")):
            error = np.abs(found[part] - outputs[name]).max()
            assert error < 1e-4 * np.abs(outputs[name]).max()


def load(folder):
    def restore(workdir):
        raise AssertionError("no workdir is named here")

    return frozen.load(folder, restore)
