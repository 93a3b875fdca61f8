"""Files of DiT and SiT and folders of diffusers: networks give the numbers of those programs."""

import argparse
import importlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from score_sde import published
from score_sde.config import build
from score_sde.errors import CheckpointError, ConfigError
from score_sde.experiment import build as experiments
from score_sde.modes.import_ import import_
from score_sde.published import torch_file
from tests.command import main
from tests.golden.make_dit import FILES
from tests.published_cases import GOLDEN
from tests.stored import arrays

DIT = GOLDEN / "dit"
SOURCES = {"dit": DIT / "dit.pt", "sit": DIT / "sit.pt", "diffusers": DIT / "diffusers"}
CONFIGS = {"dit": "dit", "sit": "sit", "diffusers": "dit"}


def config_of(case, source=None):
    """What `--config configs/dit.py:SOURCE` gives, and the heads, which files do not tell."""
    module = importlib.import_module(f"configs.{CONFIGS[case]}")
    config = module.get_config(str(source or SOURCES[case]))
    if case in FILES:
        assert config.net.num_heads == 0
        config.net.num_heads = FILES[case]["num_heads"]
    return config


def load(case, **fields):
    config = config_of(case)
    config.net.update(fields)
    experiment = experiments.build_experiment(config)
    net = experiment.model.net
    return experiment.model, published.load(SOURCES[case], net, experiment.codec.shape)


def worst(ours, theirs):
    error = np.abs(np.asarray(ours) - theirs).max((1, 2, 3)) / np.abs(theirs).max((1, 2, 3))
    return error.max()


@pytest.mark.parametrize("case", SOURCES)
def test_networks_are_those_of_the_peers(case):
    """Every parameter is noise, so each of them reaches the output. An example has no class."""
    golden = arrays(DIT / f"{case}.npz")
    head = {} if case == "sit" else {"out_channels": 8}  # SiT leaves out the second half itself
    model, imported = load(case, **head)
    params = imported.params if imported.ema is None else imported.ema
    x, t, label = (jnp.asarray(golden[key]) for key in ("x", "t", "label"))
    found = jax.jit(model.net.apply)({"params": params}, x, t, {"label": label.astype(jnp.int32)})
    assert worst(found, golden["output"]) < 1e-5
    assert (imported.ema is not None) == (case == "sit")


@pytest.mark.parametrize("case", ["dit", "diffusers"])
def test_the_denoiser_of_half_a_head(case):
    """The first channels of the head are the noise, of which x_0 follows by the chain."""
    golden = arrays(DIT / f"{case}.npz")
    model, imported = load(case)
    x, label = jnp.asarray(golden["x"]), jnp.asarray(golden["label"], jnp.int32)
    steps = golden["t"].astype(int)
    denoise = jax.jit(lambda p, x, t: model.denoiser(p, {"label": label})(x, t))
    found = denoise(imported.params, x, jnp.asarray(steps / 999, jnp.float32))
    bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[steps][:, None, None, None]
    eps = golden["output"][..., :4]
    truth = (np.asarray(x, float) - np.sqrt(1 - bar) * eps) / np.sqrt(bar)
    assert worst(found, truth) < 2e-5  # alpha is 1/160 at the last step


def test_the_flow_of_sit():
    """dx/dt is the velocity towards the data against time: SiT's t runs from noise to data."""
    golden = arrays(DIT / "sit.npz")
    model, imported = load("sit")
    x, label = jnp.asarray(golden["x"]), jnp.asarray(golden["label"], jnp.int32)
    t = jnp.asarray(1 - golden["t"])
    x_0 = jax.jit(lambda p: model.denoiser(p, {"label": label})(x, t))(imported.ema)
    truth = np.asarray(x) + np.asarray(t)[:, None, None, None] * golden["output"]
    assert worst(x_0, truth) < 1e-5
    inner = slice(1, 2)  # where sigma and alpha are not 0
    velocity = model.sde.velocity(x[inner], t[inner], x_0[inner])
    assert worst(velocity, -golden["output"][inner]) < 1e-5


def test_both_sets_of_parameters_of_an_own_training():
    """The average is the parameters before Adam's first step, which moves each by the rate."""
    _, imported = load("sit")
    for name, before in flatten_dict(imported.ema).items():
        moved = np.abs(np.asarray(flatten_dict(imported.params)[name]) - np.asarray(before))
        assert moved.max() == pytest.approx(0.1, rel=1e-3), name
    content = torch_file.read(SOURCES["sit"])
    assert set(content) == {"model", "ema", "opt", "args"}
    assert not isinstance(content["args"], argparse.Namespace)


@pytest.mark.parametrize(
    ("setting", "net"),
    [
        ("S/2", (2, 384, 12, 6)),
        ("B/4", (4, 768, 12, 12)),
        ("L/8", (8, 1024, 24, 16)),
        ("XL/2-512", (2, 1152, 28, 16)),
    ],
)
def test_settings(setting, net):
    for name in ("dit", "sit"):
        config = importlib.import_module(f"configs.{name}").get_config(setting)
        found = build("nets", config.net.to_dict())
        assert (found.patch_size, found.width, found.depth, found.num_heads) == net
        assert found.num_classes == 1000
        with pytest.raises(ConfigError, match=r"M/2 is no file, no folder and no setting: those"):
            importlib.import_module(f"configs.{name}").get_config("M/2")
    with pytest.raises(ConfigError, match=r"M/2 is no setting: those are B, L, H"):
        importlib.import_module("configs.jit").get_config("M/2")


# --- what is refused -------------------------------------------------------------------------


def state_of(case="dit"):
    return {name: np.array(value) for name, value in torch_file.read(SOURCES[case]).items()}


def refused(source, tmp_path, message, config=None, error=CheckpointError):
    """One line, and nothing is written."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=message) as found:
        import_(config or config_of("dit"), tmp_path / "run", source)
    assert len(str(found.value).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_damaged_and_foreign_files_are_refused(tmp_path):
    half, other, text = (tmp_path / name for name in ("half.pt", "other.pt", "text.pt"))
    half.write_bytes(SOURCES["dit"].read_bytes()[:30_000])
    shutil.copy(GOLDEN / "torch_zip.pth", other)
    text.write_text("hello")
    for source, message in (
        (half, "is damaged or is no file of torch.save"),
        (text, "is damaged or is no file of torch.save"),
        (other, "is no checkpoint of DiT or SiT"),
        (GOLDEN / "vp_ddpmpp_continuous.torch.pth", "is no checkpoint of DiT or SiT"),
        (SOURCES["sit"], r"does not fit the network: net.patch_size is 2, and 4 there; --config"),
        (DIT, "has no config.json, nor has its subfolder transformer"),
        (tmp_path / "nothing", "does not exist"),
    ):
        refused(source, tmp_path, message)
    config_file = importlib.import_module("configs.dit")
    with pytest.raises(ConfigError, match=r"--config .*half\.pt: .* is damaged"):
        config_file.get_config(str(half))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["pos_embed"].__iadd__(1e-3), "another pos_embed than sines"),
        (lambda s: s.pop("blocks.1.attn.qkv.bias"), "blocks.1.attn.qkv.bias is missing$"),
        (lambda s: s.update(extra=s["pos_embed"]), "does not fit the network: extra is left over$"),
        (
            lambda s: s.update({"blocks.2.mlp.fc2.bias": np.zeros(5)}),
            r"blocks.2.mlp.fc2.bias has shape \(5,\), not \(12,\)$",
        ),
        (
            lambda s: s.update({"t_embedder.mlp.2.bias": np.zeros(12, bool)}),
            "t_embedder.mlp.2.bias holds bool, not real numbers$",
        ),
        (
            lambda s: s["blocks.1.mlp.fc1.weight"].__setitem__((3, 2), np.nan),
            "weights that are not finite, the first in params/blocks/residual/mlp/in/kernel",
        ),
    ],
)
def test_parameters_that_do_not_fit_are_refused(change, message, tmp_path, monkeypatch):
    state = state_of()
    change(state)
    monkeypatch.setattr(torch_file, "read", lambda path: state)
    refused(SOURCES["dit"], tmp_path, message)


def test_networks_that_a_file_does_not_hold_are_refused(tmp_path):
    for field, value, message in (
        ("qk_norm", True, "net.qk_norm is True, and False there"),
        ("freq_shift", 1, "net.freq_shift is 1, and 0 there"),
        ("out_channels", 6, "net.out_channels is 6, and there are 8"),
    ):
        config = config_of("dit")
        config.net[field] = value
        refused(SOURCES["dit"], tmp_path, message, config)
    config = config_of("dit")
    config.data.shape = (16, 16, 4)
    refused(SOURCES["dit"], tmp_path, r"is for examples of shape \(8, 8, 4\), not", config)
    config = config_of("diffusers")
    config.net.num_heads = 4
    refused(SOURCES["diffusers"], tmp_path, "net.num_heads is 4, and 2 there", config)


def test_folders_that_are_refused(tmp_path):
    config = config_of("diffusers")
    folder = tmp_path / "folder"
    shutil.copytree(SOURCES["diffusers"], folder)
    path, weights = (
        folder / "transformer" / name
        for name in ("config.json", "diffusion_pytorch_model.safetensors")
    )
    fields = json.loads(path.read_text())
    for change, message in (
        ({"_class_name": "UNet2DModel"}, "only DiTTransformer2DModel can be imported"),
        ({"norm_type": "ada_norm"}, "norm_type='ada_norm' is not supported"),
        ({"sample_size": 9}, "sample_size=9 is no multiple of patch_size=2"),
        ({"colour": 1}, "unknown field 'colour'"),
        ({"num_layers": 3}, "net.depth is 2, and 3 there"),
    ):
        path.write_text(json.dumps(fields | change))
        refused(folder, tmp_path, message, config)
    path.write_text(json.dumps(fields))
    stored = load_file(weights)
    own = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"
    save_file(stored | {own: stored[own] + 1}, weights)
    refused(folder, tmp_path, rf"embeddings of its own in each block: {own} differs", config)
    del stored["transformer_blocks.1.attn1.to_k.weight"]
    save_file(stored, weights)
    refused(folder, tmp_path, r"blocks.1.attn.qkv.weight is missing", config)


def test_import_and_sample_in_one_command(tmp_path):
    """A file, its config and samples of it: latents, of the scale in which files hold them."""
    code, out, err = main(
        *("--mode", "import,sample", "--config", f"configs/sit.py:{SOURCES['sit']}"),
        *("--source", str(SOURCES["sit"]), "--workdir", str(tmp_path)),
        *("--config.net.num_heads=4", "--config.sampling.num_samples=8"),
        *("--config.sampling.solver=ddim", "--config.sampling.steps=2"),
    )
    assert code == 0, err
    assert "DiT or SiT, PyTorch" in out
    samples = arrays(tmp_path / "samples.npz")["samples"]
    assert samples.shape == (8, 8, 8, 4)
    assert samples.dtype == np.float32
    assert np.isfinite(samples).all()
    assert (tmp_path / "samples.png").exists()
