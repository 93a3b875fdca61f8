"""Folders of diffusers of Stable Diffusion's networks: they give diffusers' numbers."""

import functools
import json
import pickle
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from score_sde import published
from score_sde.codecs import moments as gaussian
from score_sde.published import diffusers_unet, diffusers_vae
from score_sde.published.diffusers_config import Description
from tests.golden.make_diffusers import draw
from tests.golden.make_latent_diffusion import UNETS, VAES
from tests.latent_diffusion_sizes import published_size
from tests.published_cases import GOLDEN
from tests.stored import arrays

FOLDERS = GOLDEN / "latent_diffusion"
WEIGHTS = "diffusion_pytorch_model.safetensors"
READERS = dict.fromkeys(UNETS, diffusers_unet) | dict.fromkeys(VAES, diffusers_vae)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The golden folders, with the weights that are made of names and shapes."""
    root = tmp_path_factory.mktemp("latent_diffusion") / "folders"
    shutil.copytree(FOLDERS, root)
    for file in root.glob("*/shapes.json"):
        save_file(drawn(file), file.parent / WEIGHTS)
    return root


@pytest.fixture(scope="module", autouse=True)
def traced_once():
    """The shapes of a network's parameters are found once, which takes half a second."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (diffusers_unet, diffusers_vae):
            cached = functools.cache(module.parameter_shapes)
            patch.setattr(module, "parameter_shapes", cached)
        yield


def drawn(shapes):
    content = json.loads(shapes.read_text())
    return draw({name: tuple(shape) for name, shape in content.items()})


def load(folder):
    reader = READERS[folder.name]
    net = reader.module_of(folder)
    return net, reader.load(folder, net).params


loaded = functools.cache(load)  # of folders that do not change


def worst(ours, theirs):
    error = np.abs(np.asarray(ours) - theirs).max((1, 2, 3)) / np.abs(theirs).max((1, 2, 3))
    return error.max()


@pytest.mark.parametrize("case", UNETS)
def test_unets_are_those_of_diffusers(case, folders):
    """Each parameter is noise, and so reaches the output. Conditions are those of the case: text,
    for XL its pooled form and sizes, for inpainting more channels."""
    golden = arrays(folders / case / "golden.npz")
    net, params = loaded(folders / case)
    floats = {name: jnp.asarray(golden[name], jnp.float32) for name in golden if name != "mask"}
    cond = {k: v for k, v in floats.items() if k in ("context", "vector", "sizes", "image")}
    if case != "sd15":
        found = jax.jit(net.apply)({"params": params}, floats["x"], floats["t"], cond)
        assert worst(found, golden["output"]) < 1e-5
        return

    def function(x, mask):
        told = cond | {"context_mask": mask}
        return net.apply({"params": params}, x, floats["t"], told)

    derivative = jax.jit(lambda x, u, mask: jax.jvp(lambda x: function(x, mask), (x,), (u,)))
    mask = jnp.asarray(golden["mask"], bool)
    found, tangent = derivative(floats["x"], floats["direction"], mask | True)
    assert worst(found, golden["output"]) < 1e-5
    assert worst(tangent, golden["tangent"]) < 1e-5
    masked, _ = derivative(floats["x"], floats["direction"], mask)
    assert worst(masked, golden["masked_output"]) < 1e-5


@pytest.mark.parametrize("case", VAES)
def test_autoencoders_are_those_of_diffusers(case, folders):
    """Both halves, what is made of the moments, and the network as a whole."""
    golden = arrays(folders / case / "golden.npz")
    net, params = loaded(folders / case)

    @jax.jit
    def both(x, z):
        moments = net.apply({"params": params}, x, method="encode")
        mean, std = gaussian.mean_and_std(moments)
        decoded = net.apply({"params": params}, jnp.concatenate([z, mean]), method="decode")
        return moments, mean, std, gaussian.kl(moments), decoded

    x, z = jnp.asarray(golden["x"]), jnp.asarray(golden["z"])
    moments, mean, std, kl, decoded = both(x, z)
    for name, value in (("moments", moments), ("mean", mean), ("std", std)):
        assert worst(value, golden[name]) < 1e-5
    np.testing.assert_allclose(kl, golden["kl"], rtol=1e-5)
    assert worst(decoded[:2], golden["decoded"]) < 1e-5
    if case == "vae_plain":
        whole = jax.jit(net.apply)({"params": params}, x, jnp.ones(2))
        assert worst(whole, decoded[2:]) < 1e-5


@pytest.mark.parametrize("name", ["SD 1.5", "VAE"])
def test_published_sizes(name, tmp_path):
    published_size(name, tmp_path)  # larger ones: tests/long/test_latent_diffusion.py


def test_the_refiner_of_xl_has_five_sizes(tmp_path):
    fields = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
    fields |= {"projection_class_embeddings_input_dim": 2560, "_class_name": diffusers_unet.CLASS}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    net = diffusers_unet.module_of(tmp_path)
    assert (net.cond_features, net.sizes) == (1280, 5)


def same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for a, b in zip(*map(jax.tree.leaves, (tree, other)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", ["sd15", "sdxl", "vae"])
def test_export(case, folders, tmp_path):
    """What is written has the names, shapes and numbers of diffusers' file, and reads back."""
    net, params = loaded(folders / case)
    target = tmp_path / case
    READERS[case].save(target, net, params)
    written, theirs = load_file(target / WEIGHTS), drawn(folders / case / "shapes.json")
    assert set(written) == set(theirs)
    for name, value in theirs.items():
        np.testing.assert_array_equal(written[name], value)
    back, read = load(target)
    assert back == net
    same(read, params)
    stored, ours = (json.loads((f / case / "config.json").read_text()) for f in (folders, tmp_path))
    for field in ours.keys() - {"_diffusers_version", "sample_size"}:
        if field in ("scaling_factor", "shift_factor"):
            continue  # those of the training, which the network does not know
        wanted, value = stored[field], ours[field]
        if isinstance(value, list) and isinstance(wanted, int):
            wanted = [wanted] * len(value)
        if field == "transformer_layers_per_block":  # stages without a transformer do not read it
            value, wanted = (np.where(net.depths, a, 0).tolist() for a in (value, wanted))
        assert value == wanted, field


def test_the_scale_of_latents(folders, tmp_path):
    assert diffusers_vae.scaling(folders / "vae") == (0.5, 0.25)
    assert diffusers_vae.scaling(folders / "vae_plain") == (0.18215, 0)
    net, params = loaded(folders / "vae")
    diffusers_vae.save(tmp_path / "vae", net, params, diffusers_vae.Scaling(0.3611, 0.1159))
    assert diffusers_vae.scaling(tmp_path / "vae") == (0.3611, 0.1159)
    for change, message in (
        ({"latents_mean": [0.0, 1.0, 2.0]}, "latents_mean=.* only one scale and shift"),
        ({"scaling_factor": "big"}, "scaling_factor='big' is not supported: it is a number"),
        ({"shift_factor": 10**400}, "shift_factor=1000.* is not supported: it is a number"),
        ({"scaling_factor": 0}, "scaling_factor=0 is not supported: it is above 0"),
    ):
        folder = changed(folders / "vae", tmp_path / message.partition(" ")[0], change)
        with pytest.raises(ValueError, match=message):
            diffusers_vae.scaling(folder)


def about(**fields):
    """The chain of Stable Diffusion in the words of a config."""
    return Description(
        net={},
        sde="DDPM(num_steps=1000, schedule='scaled_linear', beta_min=0.85, beta_max=12.0)",
        parametrization="v",
        c_noise="time(scale=999.0)",
        num_steps=None,
        **({"image_size": 8, "channels": 4, "centered": None} | fields),
        weighting="v",
        sampling={},
    )


def test_export_of_pipelines(folders, tmp_path):
    """A U-Net has the scheduler of its chain beside it, and an autoencoder none."""
    for case, part, shape in (("sdxl", "unet", (8, 8, 4)), ("vae", "vae", (8, 8, 3))):
        net, params = loaded(folders / case)
        found = published.save(tmp_path / part, net, params, about(channels=shape[-1]))
        for name in ("sde", "parametrization", "c_noise"):
            assert found[name] == getattr(about(), name)
        same(published.load(tmp_path / part, net, shape).params, params)
        content = json.loads((tmp_path / part / part / "config.json").read_text())
        assert content["sample_size"] == 8
        assert (tmp_path / part / "scheduler").exists() == (part == "unet")
    assert diffusers_vae.scaling(tmp_path / "vae") == (1, 0)
    with pytest.raises(ValueError, match=r"AutoencoderKL takes images in \[-1, 1\]"):
        published.save(tmp_path / "other", net, params, about(centered=False))


# --- files of weights --------------------------------------------------------------------------


def copied(folder, target, weights=None):
    """A copy of a folder, with the weights as files of other names and arrays."""
    shutil.copytree(folder, target)
    if weights is not None:
        (target / WEIGHTS).unlink()
        for name, content in weights.items():
            save_file(content, target / name)
    return target


def changed(folder, target, fields):
    copied(folder, target)
    content = json.loads((target / "config.json").read_text()) | fields
    content = {key: value for key, value in content.items() if value is not ...}
    (target / "config.json").write_text(json.dumps(content))
    return target


def test_the_names_of_attention_before_version_0_15(folders, tmp_path):
    theirs = drawn(folders / "vae" / "shapes.json")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in theirs.items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = value
    assert len(set(renamed) - set(theirs)) == 16
    folder = copied(folders / "vae", tmp_path / "vae", {WEIGHTS: renamed})
    same(load(folder)[1], loaded(folders / "vae")[1])


def test_parts_and_16_bits(folders, tmp_path):
    """Weights become float32, one file or several. Where there are 32 bits too, they are read."""
    whole = drawn(folders / "vae" / "shapes.json")
    half = {name: value.astype(np.float16) for name, value in whole.items()}
    wanted = {name: value.astype(np.float32) for name, value in half.items()}
    rounded = load(copied(folders / "vae", tmp_path / "a" / "vae", {WEIGHTS: wanted}))[1]
    name = "diffusion_pytorch_model.fp16.safetensors"
    in_half = copied(folders / "vae", tmp_path / "b" / "vae", {name: half})
    same(load(in_half)[1], rounded)
    save_file(whole, in_half / WEIGHTS)
    same(load(in_half)[1], loaded(folders / "vae")[1])

    brain = {name: value.astype(ml_dtypes.bfloat16) for name, value in whole.items()}
    files = {f"{i}.safetensors": dict(list(brain.items())[i::2]) for i in range(2)}
    folder = copied(folders / "vae", tmp_path / "c" / "vae", files)
    places = {name: file for file, content in files.items() for name in content}
    index = folder / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    wanted = {name: value.astype(np.float32) for name, value in brain.items()}
    rounded = load(copied(folders / "vae", tmp_path / "d" / "vae", {WEIGHTS: wanted}))[1]
    same(load(folder)[1], rounded)
    for places, message in (
        (
            {"a": "../1.safetensors"},
            "names '../1.safetensors', which is no file of its folder",
        ),
        ({"a": "2.safetensors"}, "index.json names 2.safetensors, which is not there"),
        ({"a": 1}, "does not say which file holds which array"),
        (["a"], "does not say which file holds which array"),
    ):
        index.write_text(json.dumps({"weight_map": places}))
        refused(folder, message)


def test_a_pipeline_and_its_parts(folders, tmp_path):
    """The subfolders of a pipeline are found, and published.load reads both classes."""
    copied(folders / "sd15", tmp_path / "unet")
    copied(folders / "vae", tmp_path / "vae")
    (tmp_path / "scheduler").mkdir()
    scheduler = {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "clip_sample": False}
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    net, params = loaded(folders / "sd15")
    assert diffusers_unet.module_of(tmp_path) == net
    imported = published.load(tmp_path, net, (8, 8, 4))
    assert imported.scheduler == "PNDMScheduler(clip_sample=False)"
    same(imported.params, params)
    vae, params = loaded(folders / "vae")
    assert diffusers_vae.module_of(tmp_path) == vae
    same(published.load(tmp_path, vae, (16, 16, 3)).params, params)
    with pytest.raises(ValueError, match="is for examples of 4 channels, not 3"):
        published.load(tmp_path, net, (8, 8, 3))
    with pytest.raises(ValueError, match="is for images of 3 channels, not 1"):
        published.load(tmp_path, vae, (8, 8, 1))


# --- what is refused -----------------------------------------------------------------------------


def refused(folder, message, net=None):
    reader = READERS[folder.name]
    with pytest.raises(ValueError, match=message) as error:
        reader.load(folder, net or reader.module_of(folder))
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 800


@pytest.mark.parametrize("case", ["sd15", "vae"])
def test_weights_that_do_not_fit(case, folders, tmp_path):
    """One line names what is missing, left over and of another shape."""
    weights = drawn(folders / case / "shapes.json")
    first, second = list(weights)[:2]
    del weights[first]
    weights[second] = np.zeros(3, np.float32)
    weights["extra.weight"] = np.zeros(1, np.float32)
    folder = copied(folders / case, tmp_path / case, {WEIGHTS: weights})
    message = r"(?=.*conv_in/kernel is missing)(?=.*conv_in/bias has shape \(3,\), not)"
    refused(folder, message + r"(?=.*extra.weight is left over)")
    (folder / WEIGHTS).unlink()
    refused(folder, "has no weights: none of diffusion_pytorch_model.safetensors, d")


class Bomb:
    def __reduce__(self):
        return (pytest.exit, ("a pickle was executed",))


@pytest.mark.parametrize("name", [WEIGHTS, "diffusion_pytorch_model.bin"])
def test_a_pickle_is_not_executed(name, folders, tmp_path):
    folder = copied(folders / "vae", tmp_path / "vae", {})
    (folder / name).write_bytes(pickle.dumps({"conv_in.weight": Bomb()}))
    refused(folder, "is a pickle and no .safetensors file; nothing|is refused: it names _pytest")


UNKNOWN = {
    "sd15": [
        ({"_class_name": "UNet2DModel"}, "only UNet2DConditionModel can be imported as a Cond"),
        ({"down_block_types": ["SimpleCrossAttnDownBlock2D"] * 2}, "is not one of CrossAttnDown"),
        ({"up_block_types": ["UpBlock2D"] * 2}, "it must mirror down_block_types"),
        ({"mid_block_type": None}, "mid_block_type=None is not supported, only 'UNetMidBlock2DC"),
        ({"block_out_channels": [16, 32, 32]}, "block_out_channels has 3 stages"),
        ({"block_out_channels": []}, "a network has 1 to 10 stages"),
        ({"block_out_channels": [16, 20]}, "norm_num_groups=8 is not supported: it must divide"),
        ({"norm_num_groups": None}, "norm_num_groups=None is not supported"),
        ({"attention_head_dim": [3, 4]}, "the number of heads, which must divide the channels"),
        ({"attention_head_dim": [4, 4, 4]}, "block_out_channels has 2 stages"),
        ({"attention_head_dim": None}, "attention_head_dim=None is not supported"),
        ({"transformer_layers_per_block": 0}, "each is at least 1"),
        ({"transformer_layers_per_block": [[1], [1]]}, "makes no sense"),
        ({"num_attention_heads": 8}, "num_attention_heads=8 is not supported, only None"),
        ({"class_embed_type": "timestep"}, "class_embed_type='timestep' is not supported"),
        ({"num_class_embeds": 1000}, "num_class_embeds=1000 is not supported"),
        ({"only_cross_attention": [True, False]}, "only_cross_attention=.* is not supported"),
        ({"addition_embed_type": "image"}, "addition_embed_type='image' is not supported"),
        ({"addition_embed_type": "text_time"}, "it needs addition_time_embed_dim and projection"),
        ({"time_cond_proj_dim": 256}, "time_cond_proj_dim=256 is not supported"),
        ({"cross_attention_dim": 0}, "cross_attention_dim=0 is not supported: it is at least 1"),
        ({"colour": 1}, "unknown field 'colour'"),
    ],
    "sdxl": [
        ({"projection_class_embeddings_input_dim": 30}, "it holds 6 sizes of addition_time_emb"),
        ({"addition_time_embed_dim": 5}, "an even number"),
    ],
    "vae": [
        ({"_class_name": "AutoencoderTiny"}, "only AutoencoderKL can be imported as an Auto"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 3}, "is not one of DownEncoderBlock2D"),
        ({"out_channels": 4}, "out_channels=4 is not supported: it must be in_channels, 3"),
        ({"use_post_quant_conv": False}, "it must be use_quant_conv, True"),
        ({"act_fn": "gelu"}, "act_fn='gelu' is not supported"),
        ({"latent_channels": 0}, "have a channel at least"),
        ({"block_out_channels": [0, 0, 0]}, "each is at least 1"),
    ],
}


@pytest.mark.parametrize(
    ("case", "fields", "message"),
    [(case, fields, message) for case, rows in UNKNOWN.items() for fields, message in rows],
)
def test_networks_that_are_not_here(case, fields, message, folders, tmp_path):
    folder = changed(folders / case, tmp_path / case, fields)
    with pytest.raises(ValueError, match=message) as error:
        READERS[case].module_of(folder)
    assert "config.json" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_networks_that_a_folder_does_not_hold(folders):
    for case, fields, message in (
        ("sd21", {"num_heads": 4}, r"net.num_heads is \(4, 4\), and \(2, 4\) there"),
        ("sd15", {"numbers": ("jump",)}, r"net.numbers is \('jump',\), and \(\) there"),
        ("vae", {"groups": 2}, "net.groups is 2, and 4 there"),
    ):
        folder = folders / case
        refused(folder, message, READERS[case].module_of(folder).clone(**fields))


def test_networks_that_diffusers_does_not_have(folders, tmp_path):
    for case, fields, message in (
        ("sd15", {"depths": (2, 3)}, "net.mid_depth=1 (the nearest is 3)"),
        ("sd15", {"numbers": ("jump",)}, "net.numbers"),
        ("sd15", {"mid_depth": 0}, "transformer_layers_per_block"),
        ("vae", {"groups": 3}, "norm_num_groups"),
    ):
        net, params = loaded(folders / case)
        with pytest.raises(ValueError, match="diffusers") as error:
            READERS[case].save(tmp_path / case, net.clone(**fields), params)
        assert len(str(error.value).splitlines()) == 1
        assert message in str(error.value)
        assert not (tmp_path / case / WEIGHTS).exists()
