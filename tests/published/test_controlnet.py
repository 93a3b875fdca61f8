"""Folders of diffusers with ControlNets: they give diffusers' numbers."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from score_sde.nets.controlnet import Controlled
from score_sde.published import diffusers_controlnet, diffusers_unet
from tests.golden.make_controlnet import CASES, WEIGHTS
from tests.golden.make_diffusers import draw
from tests.published_cases import GOLDEN
from tests.stored import arrays

FILE = "diffusion_pytorch_model.safetensors"


def weights_of(folder):
    shapes = json.loads((folder / "shapes.json").read_text())
    return draw({name: tuple(shape) for name, shape in shapes.items()})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each case with its U-Net, and a second ControlNet of other weights."""
    root = tmp_path_factory.mktemp("controlnet")
    for name in CASES:
        shutil.copytree(GOLDEN / "controlnet" / name, root / name)
        shutil.copytree(GOLDEN / "latent_diffusion" / name, root / f"{name}_unet")
        shutil.copytree(GOLDEN / "controlnet" / name, root / f"{name}_second")
        for folder in (root / name, root / f"{name}_unet"):
            save_file(weights_of(folder), folder / FILE)
        flipped = {k: v[::-1].copy() for k, v in weights_of(root / name).items()}
        save_file(flipped, root / f"{name}_second" / FILE)
    return root


def read(folder):
    net = diffusers_controlnet.module_of(folder)
    return net, diffusers_controlnet.load(folder, net, (4, 8, 4)).params


def close(found, truth):
    assert np.abs(np.asarray(found) - truth).max() < 1e-5 * np.abs(truth).max()


@pytest.mark.parametrize("case", CASES)
def test_they_say_what_those_of_diffusers_say(case, folders):
    """What one of them gives, also in guess mode; and the U-Net's output with two of them."""
    golden = arrays(folders / case / "golden.npz")
    control, params = read(folders / case)
    other, other_params = read(folders / f"{case}_second")
    net = diffusers_unet.module_of(folders / f"{case}_unet")
    own = diffusers_unet.load(folders / f"{case}_unet", net).params
    names = ("context", "vector", "sizes", "hint", "hint_1")
    cond = {name: jnp.asarray(golden[name]) for name in names if name in golden}
    x, t = jnp.asarray(golden["x"]), jnp.asarray(golden["t"], jnp.float32)

    both = Controlled(net, (control, other.clone(hint="hint_1")), weights=WEIGHTS)
    whole = {"net": own, "controls_0": params, "controls_1": other_params}

    @jax.jit
    def found(x, t, cond):
        alone, guess = (
            control.apply({"params": params}, x, t, cond, deeper=deeper) for deeper in (False, True)
        )
        return alone, guess, both.apply({"params": whole}, x, t, cond)

    alone, guess, output = found(x, t, cond)
    for i, (one, quiet) in enumerate(zip(alone, guess, strict=True)):
        close(one, golden[f"said_{i}"])
        close(quiet, golden[f"guess_{i}"])
    assert f"said_{len(alone)}" not in golden
    close(output, golden["output"])


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_is_what_was_read(case, folders, tmp_path):
    net, params = read(folders / case)
    diffusers_controlnet.save(tmp_path, net, params)
    written, theirs = load_file(tmp_path / FILE), weights_of(folders / case)
    assert set(written) == set(theirs)
    for name, value in theirs.items():
        np.testing.assert_array_equal(written[name], value)
    stored, ours = (json.loads((f / "config.json").read_text()) for f in (folders / case, tmp_path))
    assert ours.keys() <= stored.keys()
    assert read(tmp_path)[0] == net


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "only ControlNetModel can be read"),
        ({"conditioning_channels": 0}, "conditioning_channels=0 is not supported"),
        ({"conditioning_channels": True}, "conditioning_channels=True is not supported"),
        ({"conditioning_embedding_out_channels": []}, "it is a list of 1 to 10"),
        ({"conditioning_embedding_out_channels": [4, -1]}, "each is a number of channels"),
        ({"controlnet_conditioning_channel_order": "bgr"}, "it is 'rgb'"),
        ({"global_pool_conditions": True}, "only False is read"),
        ({"down_block_types": 3}, "down_block_types"),
        ({"down_block_types": ["OtherBlock2D", "DownBlock2D"]}, "OtherBlock2D is not one of"),
        ({"in_channels": 5}, "in_channels|5 channels"),
        ({"surprise": 1}, "unknown field 'surprise'"),
    ],
)
def test_other_folders_are_refused_in_a_line(change, message, folders, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(folders / "sd15", folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | change))
    with pytest.raises(ValueError, match=message) as told:
        read(folder)
    assert "\n" not in str(told.value)


def test_damaged_weights_are_refused_in_a_line(folders, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(folders / "sd15", folder)
    weights = load_file(folder / FILE)
    del weights["controlnet_mid_block.weight"]
    save_file(weights, folder / FILE)
    with pytest.raises(ValueError, match=r"controlnet_mid_block\.weight|told_middle"):
        read(folder)
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:100])
    with pytest.raises(ValueError, match=r"damaged|not a safetensors") as told:
        read(folder)
    assert "\n" not in str(told.value)
