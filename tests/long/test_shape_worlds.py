"""The configs over the coloured shapes, from encoding or sampling to adherence, with the smallest
networks: adapters over a base of a few steps."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image
from safetensors.numpy import load_file

import score_sde
from configs import shapes, shapes_dreambooth, shapes_edits, shapes_lora, shapes_outline
from score_sde.errors import ConfigError
from score_sde.experiment import workdirs
from score_sde.modes.encode import encode
from score_sde.modes.evaluate import evaluate
from score_sde.modes.export import export
from score_sde.modes.sample import sample
from score_sde.modes.train import train
from score_sde.published import textual_inversion
from tests import latents

SMALL = {
    "data.train": 40,
    "data.test": 40,
    "net.width": 8,
    "net.depth": 1,
    "net.num_heads": 2,
    "train.steps": 3,
    "train.ema_rates": (0.5,),
    "optim.warmup": 1,
    "train.batch_size": 8,
    "train.sample_every": 0,
    "sampling.steps": 2,
    "evaluate.num_prompts": 2,
    "evaluate.weights": (2.0,),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with runs/shapes of a few steps; the autoencoder is that of `latents.Blocks`, whose
    latents of 4x4 pixels have 48 channels."""
    folder = tmp_path_factory.mktemp("worlds")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        net = latents.Blocks(4)
        scales = {"shift": [0.0] * 48, "scale": [1.0] * 48}
        patch.setattr(workdirs, "load_frozen", lambda name: latents.frozen(net, name, **scales))
        train(encoded(shapes, folder / "runs/shapes"), folder / "runs/shapes")
        yield folder


def small(module, **changes):
    config = module.get_config()
    fields = [name for name in SMALL if config.data.name != "mixture" or name[:4] != "data"]
    changes = {**{name: SMALL[name] for name in fields}, **changes}
    latents.seen_beside(config, 48)
    for name, value in changes.items():
        part, field = name.split(".")
        config[part].update({field: value})
    return config


def encoded(module, workdir):
    """The config on what mode `encode` makes of its data."""
    encode(small(module), workdir)
    config = small(module)
    config.data = f"encoded(path='{workdir}/encoded')"
    return config


def adhered(config, workdir, kinds):
    """Trains and evaluates; the shares of all kinds of prompts are there."""
    train(config, workdir)
    evaluate(config, workdir)
    found = json.loads((workdir / "adherence.json").read_text())
    assert all(0 <= found[kind] <= 1 for kind in kinds)
    return found


def test_outlines(folder):
    workdir = folder / "runs/shapes_outline"
    found = adhered(encoded(shapes_outline, workdir), workdir, ("seen", "placed"))
    assert 0 <= found["rows"][0]["placed_iou"] <= found["rows"][0]["placed_iou_1px"] <= 1


def test_a_base_on_latents_takes_a_controlnet(folder, tmp_path):
    """The base was trained on latents without outlines, so pictures give them. A ControlNet of
    weight 0 says nothing, and another weight changes what is drawn."""
    base, workdir = folder / "runs/shapes", folder / "runs/shapes_outline"
    Image.fromarray(
        np.pad(np.zeros((16, 16, 3), np.uint8), ((8,) * 2,) * 2 + ((0,) * 2,), constant_values=255)
    ).save(tmp_path / "0.png")
    asked = {"prompts": "a red circle", "guidance": "classifier_free(weight=1.0)"}
    plain = score_sde.load(base).sample(jax.random.key(0), 2, **asked)
    for weight, same in ((0.0, True), (100.0, False)):
        fields = {"sampling.adapters": (str(workdir),), "sampling.adapter_weights": (weight,)}
        model = score_sde.load(base, **fields)
        drawn = model.sample(jax.random.key(0), 2, images=str(tmp_path), **asked)
        assert np.array_equal(drawn, plain) == same


def test_edits(folder):
    """They start from the base of captions, with an untrained change of nothing, and stay in a
    workdir of their own."""
    workdir = folder / "runs/shapes_edits"
    config = encoded(shapes_edits, workdir)
    experiment = workdirs.load(config)
    assert set(experiment.data.features) == {"moments", "token", "source_latents"}
    asked = {"prompts": "a red circle", "guidance": "classifier_free(weight=1.0)"}
    asked["solver"] = "dpmpp"  # of both: the configs draw in two ways
    plain = score_sde.load(folder / "runs/shapes").sample(jax.random.key(0), 2, **asked)
    latents.untrained(config, folder / "untrained")
    first = score_sde.load(folder / "untrained").sample(jax.random.key(0), 2, **asked)
    assert np.abs(first.astype(int) - plain).max() <= 1  # rounded in two programs
    adhered(config, workdir, ("colour", "form", "size", "place"))
    edited = score_sde.load(workdir).sample(jax.random.key(0), 2, **asked)
    assert np.abs(edited.astype(int) - plain).max() > 1
    config.export.format = "safetensors"  # the whole network
    export(config, workdir, folder / "exported")
    found = load_file(folder / "exported/model.safetensors")
    whole = flatten_dict(workdirs.restore(config, workdir).whole, sep="/")
    assert found.keys() == whole.keys()
    name = "embed_patch/kernel"
    np.testing.assert_allclose(found[name], whole[name], rtol=1e-6, atol=1e-7)
    with pytest.raises(ConfigError, match="makes a larger network of its base"):
        score_sde.load(folder / "runs/shapes", **{"sampling.adapters": (str(workdir),)})


def test_a_new_colour_beside_what_the_base_drew(folder):
    for module, name in ((shapes_lora, "shapes_drawn"), (shapes_dreambooth, "circles_drawn")):
        world = {"sampling.world": "shapes(forms=('circle',))", "sampling.num_samples": 12}
        made = {"sampling.as_data": str(folder / "runs" / name), **world}
        sample(small(shapes, **made), folder / "runs/shapes")
        adhered(small(module), folder / "runs" / module.__name__, ("seen", "new"))


def test_a_learnt_word_is_exported(folder, tmp_path):
    """The row of the table with what was learnt, in the files of two programs."""
    config, workdir = small(shapes), folder / "runs/shapes_word"
    config.data = f"encoded(path='{folder}/runs/shapes/encoded')"
    config.adapter = "rows(workdir='runs/shapes', numbers=(28, 3))"
    train(config, workdir)
    table = workdirs.restore(config, workdir).whole["text"]["embed"]["embedding"]
    for form, word in (("diffusers", "<orange>"), ("automatic1111", "orange")):
        config.export.format = form
        export(config, workdir, tmp_path / word)
        found = textual_inversion.read(tmp_path / word / f"{word}.safetensors")
        assert found.name == word
        np.testing.assert_array_equal(found.rows[0], table[np.array([28, 3])])
    config.export.format = "kohya"
    with pytest.raises(ConfigError, match="is no LoRA: with the workdir of its base"):
        export(config, workdir, tmp_path / "new")
    assert not (tmp_path / "new").exists()
