"""A LoRA of a network and of its text encoder, trained together over a tiny Stable Diffusion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from safetensors.numpy import load_file

from configs import diffusers as config_file
from score_sde.errors import ConfigError
from score_sde.experiment import build, workdirs
from score_sde.modes.encode import encode
from score_sde.modes.export import export
from score_sde.modes.import_ import import_
from score_sde.modes.train import train
from score_sde.published import lora
from score_sde.types import as_pytree
from tests.published_cases import GOLDEN

PIPELINE = GOLDEN / "pipelines" / "sd15"
PROMPTS = ["a red bicycle", "the cat's blue hat!", "", "two dogs"]
RANK, WIDTH, HIDDEN, DEPTH = 2, 12, 16, 2  # the last three of the text encoder


def config_of(folder, **changes):
    config = config_file.get_config(str(PIPELINE))
    config.data = ConfigDict({"name": "npz", "path": str(folder / "data.npz")})
    config.data.update(caption_field="captions", augment="none")
    config.objective.drop_cond = 0.5
    config.train.ema_rates, config.optim.learning_rate, config.optim.warmup = (0.0,), 1e-2, 0
    config.train.update(steps=3, batch_size=8, log_every=3, checkpoint_every=3, sample_every=0)
    config.update_from_flattened_dict(changes)
    return config


def over(folder, more="", **changes):
    spec = f"lora(workdir={str(folder / 'base')!r}, rank={RANK}, text_encoders=True{more})"
    return config_of(folder, adapter=spec, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The base, images with captions, and a LoRA that was trained for three steps."""
    folder = tmp_path_factory.mktemp("lora")
    config = config_of(folder)
    side = config_file.get_config(str(PIPELINE)).data.image_size
    images = np.random.default_rng(0).integers(0, 256, (32, side, side, 3), np.uint8)
    np.savez(folder / "data.npz", image=images, captions=np.array(["a red bicycle", "a dog"] * 16))
    import_(config, folder / "base", PIPELINE)
    train(over(folder), folder / "trained")
    return folder


def value(trained, prompts=PROMPTS):
    """The denoiser of each prompt, of one x and t, with the ids or states that it reads."""
    experiment = trained.experiment
    tokens = experiment.conditioner.read({"caption": prompts})["token"]

    @jax.jit
    def value(conditioner, result, params, x):
        cond = conditioner.encode({"token": tokens[:, None]})
        return result(params, cond)(x, jnp.float32(0.4))

    x = jax.random.normal(jax.random.key(0), (len(prompts), *experiment.codec.shape))
    return value(experiment.conditioner, as_pytree(experiment.objective.result), trained.params, x)


def test_the_state_holds_the_small_tree_alone(folder):
    experiment = workdirs.load(over(folder))
    abstract = build.abstract_state(experiment)
    found = flatten_dict(abstract.params)
    encoder = {path: leaf for path, leaf in found.items() if path[0] == "encoders_0"}
    square, wide = 2 * WIDTH * RANK, (WIDTH + HIDDEN) * RANK
    assert sum(leaf.size for leaf in encoder.values()) == DEPTH * (4 * square + 2 * wide)
    assert {path[-1] for path in found} == {"a", "b"}
    trained = workdirs.restore(over(folder), folder / "trained")
    moved = flatten_dict(jax.device_get(trained.params))
    for path in encoder:
        if path[-1] == "b":  # 0 at first
            assert np.all(np.abs(moved[path]).max(axis=(1, 2)) > 1e-4), path


def test_at_first_it_is_its_base(folder):
    config = over(folder)
    experiment = workdirs.load(config)
    start = workdirs.Trained(experiment, build.initial_state(config, experiment).params, 0)
    base = workdirs.restore(config_of(folder), folder / "base")
    jax.tree.map(np.testing.assert_array_equal, start.whole["net"], base.params)
    (frozen,) = base.experiment.conditioner.params
    jax.tree.map(np.testing.assert_array_equal, start.whole["encoders_0"], frozen)
    close(value(start), value(base))


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


def test_merged_exported_and_imported_it_is_the_same_network(folder, tmp_path):
    """Merged: the encoder is called once, outside of the network."""
    own = value(workdirs.restore(over(folder), folder / "trained"))
    base = config_of(folder)
    plain = value(workdirs.restore(base, folder / "base"))
    assert np.abs(own - plain).max() > 1e-3 * np.abs(plain).max()
    base.sampling.adapters = (str(folder / "trained"),)
    close(value(workdirs.restore(base, folder / "base")), own)
    for form, file in lora.FORMATS.items():
        export(over(folder, **{"export.format": form}), folder / "trained", tmp_path / form)
        names = load_file(tmp_path / form / file)
        assert any(name.startswith(("text_encoder", "lora_te")) for name in names)
        spec = f"lora(workdir={str(folder / 'base')!r})"
        config = config_of(folder, adapter=spec)
        import_(config, tmp_path / f"back_{form}", tmp_path / form)
        close(value(workdirs.restore(config, tmp_path / f"back_{form}")), own)


def test_latents_can_be_encoded_with_the_tokens_kept(folder, tmp_path):
    config = over(folder)
    encode(config, tmp_path)
    names = {path.name for path in (tmp_path / "encoded" / "train").iterdir()}
    assert "token.npy" in names
    assert "context.npy" not in names
    config.data = {"name": "encoded", "path": str(tmp_path / "encoded"), "augment": "none"}
    assert workdirs.load(config).conditioner.features["token"].shape == (1, 77)


def test_what_cannot_be_is_refused(folder, tmp_path):
    spec = f"lora(workdir={str(folder / 'trained')!r}, rank=1)"
    with pytest.raises(ConfigError, match="trained holds text encoders in training") as caught:
        workdirs.load(config_of(folder, adapter=spec))
    assert "\n" not in str(caught.value)
    config = config_of(folder)
    encode(config, tmp_path)  # what the encoders make of the captions, and not the tokens
    config = over(folder)
    config.data = {"name": "encoded", "path": str(tmp_path / "encoded"), "augment": "none"}
    with pytest.raises(ConfigError, match="run --mode encode with this adapter"):
        workdirs.load(config)


def test_a_learnt_word_of_the_text_encoder_is_a_file(folder, tmp_path):
    """Textual inversion: the row of a token that there is, learnt by the captions that have it, as
    a file for a new word."""
    base = config_of(folder)
    number = int(workdirs.load(base).conditioner.tokenizer(["a"])[0, 1])
    where = f"workdir={str(folder / 'base')!r}, layers='encoders_', text_encoders=True"
    config = config_of(folder, adapter=f"rows({where}, numbers=({number},))")
    train(config, tmp_path / "rows")
    trained = workdirs.restore(config, tmp_path / "rows")
    (change,) = jax.tree.leaves(trained.params)
    assert change.shape == (1, WIDTH)
    assert np.abs(change).max() > 1e-3
    export(config, tmp_path / "rows", tmp_path / "new")
    base.sampling.words = (str(tmp_path / "new" / "new.safetensors"),)
    with_file = workdirs.restore(base, folder / "base")
    learnt = value(trained, ["a red bicycle"])
    close(value(with_file, ["new red bicycle"]), learnt)
    assert np.abs(value(with_file, ["a red bicycle"]) - learnt).max() > 1e-4
