"""Folders of diffusers: networks give diffusers' numbers, and tables are our processes."""

import contextlib
import json
import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from configs import diffusers as config_file
from score_sde import published
from score_sde.config import build
from score_sde.errors import ConfigError, DataError
from score_sde.experiment import build as experiments
from score_sde.experiment import requests
from score_sde.processes import VP
from score_sde.published import diffusers, diffusers_config
from score_sde.published.diffusers_config import _CHAIN, UNET, VE
from score_sde.training.weighting import network_weight
from tests.golden.make_diffusers import SCHEDULERS, UNETS, draw
from tests.published.test_torch_file import FEW
from tests.published_cases import FOLDERS
from tests.stored import arrays


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """The golden folders, with the weights that are too many to keep."""
    root = tmp_path_factory.mktemp("diffusers") / "folders"
    shutil.copytree(FOLDERS, root)
    unet = root / "attn_skip" / "unet"
    shapes = json.loads((unet / "shapes.json").read_text())
    weights = draw({name: tuple(shape) for name, shape in shapes.items()})
    save_file(weights, unet / "diffusion_pytorch_model.safetensors")
    return root


def load(folder):
    config = config_file.get_config(str(folder))
    experiment = experiments.build_experiment(config)
    return experiment.model, published.load(folder, experiment.model.net, experiment.codec.shape)


def worst(ours, theirs):
    error = np.abs(np.asarray(ours) - theirs).max((1, 2, 3)) / np.abs(theirs).max((1, 2, 3))
    return error.max()


@pytest.mark.parametrize("case", UNETS)
def test_networks_and_denoisers_are_those_of_diffusers(case, folders):
    """The network at its label, and E[x_0 | x_t] at the time that should stand for that label."""
    model, imported = load(folders / case)
    assert imported.ema is None
    assert imported.scheduler.partition("(")[0] == SCHEDULERS[case][0]
    golden = arrays(folders / case / "golden.npz")
    x, noise = (jnp.asarray(golden[key], jnp.float32) for key in ("x", "t"))
    if SCHEDULERS[case][0] == "ScoreSdeVeScheduler":
        t = model.sde.t_of_log_snr(-2 * jnp.log(noise))
    else:
        t = noise / (model.sde.num_steps - 1)

    @jax.jit
    def both(params):
        output = model.net.apply({"params": params}, x, noise)
        return output, model.denoiser(params)(x, t)

    output, x_0 = both(imported.params)
    assert worst(output, golden["output"]) < 1e-5
    # at the last step of a chain alpha is 1/160, and the label is within a rounding
    assert worst(x_0, golden["x_0"]) < 1e-4


@pytest.mark.parametrize("case", ["velocity", "ho"])
def test_fine_tuning_goes_on_with_the_published_loss(case, folders):
    """The mean square of what the network predicts, v = alpha z - sigma x_0 or the noise z, at
    every step of the chain, also the last, where the SNR of "velocity" is 0."""
    config = config_file.get_config(str(folders / case))
    model, imported = load(folders / case)
    n = model.sde.num_steps
    bar = np.cumprod(1 - model.sde.betas)
    weight = build("training.weighting", config.objective.weighting)
    rng = np.random.default_rng(0)
    steps = np.array([0, n // 3, n - 1])
    shape = (
        len(steps),
        config.data.image_size,
        config.data.image_size,
        1 if case == "velocity" else 3,
    )
    x_0, z = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    alpha, sigma = (np.sqrt(a)[steps, None, None, None] for a in (bar, 1 - bar))
    x_t = jnp.asarray(alpha * x_0 + sigma * z, jnp.float32)
    output = model.net.apply({"params": imported.params}, x_t, jnp.asarray(steps, jnp.float32))
    target = alpha * z - sigma * x_0 if case == "velocity" else z
    truth = np.mean((np.asarray(output) - target) ** 2, axis=(1, 2, 3))

    t = jnp.asarray(steps / (n - 1), jnp.float32)
    weights = network_weight(weight, model.parametrization, model.sde, t)
    a, b = model.parametrization.target(model.sde.alpha(t), model.sde.sigma(t))
    ours = model.network(imported.params, x_t, t)
    wanted = np.asarray(a)[:, None, None, None] * x_0 + np.asarray(b)[:, None, None, None] * z
    error = np.mean((np.asarray(ours) - wanted) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(np.asarray(weights) * error, truth, rtol=1e-4)


@pytest.mark.parametrize("n", [10, 500, 1000, 4000])
def test_labels_of_a_chain(n):
    """Step i stands at t = i / (n - 1), and the network sees i, within one rounding of float32."""
    label = build("models.parametrization", f"time(scale={n - 1}.0)")
    steps = np.arange(n)
    seen = label(VP(), jnp.asarray(steps / (n - 1), jnp.float32))
    np.testing.assert_allclose(seen, steps, rtol=np.finfo(np.float32).eps, atol=0)


def betas(fields):
    """The formulas of diffusers' documentation, in float64."""
    n, start, end = (fields[k] for k in ("num_train_timesteps", "beta_start", "beta_end"))
    if fields["beta_schedule"] == "linear":
        return np.linspace(start, end, n)
    if fields["beta_schedule"] == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, n) ** 2
    bar = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - bar[1:] / bar[:-1], 0.999)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("kind", diffusers_config.CHAIN_SCHEDULERS)
def test_tables(kind, schedule, folders, tmp_path):
    fields = {"num_train_timesteps": 200, "beta_start": 0.0004, "beta_end": 0.03}
    fields["beta_schedule"] = schedule
    folder = changed(folders, tmp_path, scheduler={"_class_name": kind, **fields})
    sde = build("processes", diffusers.describe(folder).sde)
    np.testing.assert_allclose(sde.betas, betas(fields), rtol=1e-12)


def changed(folders, tmp_path, case="ho", unet=None, scheduler=None):
    """A copy of a golden folder with other fields; a field of None is removed."""
    folder = tmp_path / case
    shutil.copytree(folders / case, folder)
    for changes, path in ((unet, "config.json"), (scheduler, "scheduler_config.json")):
        file = next(folder.rglob(path))
        content = json.loads(file.read_text()) | (changes or {})
        file.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
    return folder


def test_fields_that_an_old_file_lacks_have_the_defaults(folders, tmp_path):
    expected = diffusers.describe(folders / "tutorial")
    sparse = dict.fromkeys(("flip_sin_to_cos", "freq_shift", "attention_head_dim", "norm_eps"), ...)
    sparse |= dict.fromkeys(("downsample_padding", "dropout", "act_fn", "class_embed_type"), ...)
    table = dict.fromkeys(("prediction_type", "beta_start", "num_train_timesteps"), ...)
    folder = changed(folders, tmp_path, "tutorial", sparse, table)
    assert diffusers.describe(folder) == expected


CIFAR = {
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "sample_size": 32,
    "norm_num_groups": 32,
}
NCSNPP = {
    "block_out_channels": (128, 128, *(256,) * 5),
    "down_block_types": (
        *("SkipDownBlock2D",) * 4,
        "AttnSkipDownBlock2D",
        *("SkipDownBlock2D",) * 2,
    ),
    "up_block_types": (*("SkipUpBlock2D",) * 2, "AttnSkipUpBlock2D", *("SkipUpBlock2D",) * 4),
    "sample_size": 256,
    "layers_per_block": 2,
}


@pytest.mark.parametrize(
    ("case", "fields", "millions"),
    [("ho", CIFAR, 35.7), ("skip", NCSNPP, 65.6)],
)
def test_published_sizes(case, fields, millions, folders, tmp_path):
    """google/ddpm-cifar10-32 and google/ncsnpp-celebahq-256."""
    config = config_file.get_config(str(changed(folders, tmp_path, case, fields)))
    model, side = experiments.build_model(config), fields["sample_size"]
    x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    shapes = jax.eval_shape(lambda key: model.init(key, x), jax.random.key(0))
    assert round(sum(a.size for a in jax.tree.leaves(shapes)) / 1e6, 1) == millions


def test_the_sampler_of_the_folder_evaluates_at_whole_steps(folders):
    config = config_file.get_config(str(folders / "velocity"))
    sde = requests.sampling_sde(config)
    times = build("sampling.grids", config.sampling.grid, sde, config.sampling.steps)
    steps = np.asarray(times) * (sde.num_steps - 1)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
    assert (steps[0], steps[-1], len(steps)) == (499, 0, 51)


# What is refused


@pytest.mark.parametrize(
    ("case", "unet", "message"),
    [
        ("ho", {"_class_name": "UNet2DConditionModel"}, "is of class 'UNet2DConditionModel'; only"),
        ("ho", {"_class_name": ...}, "is of class None"),
        ("ho", {"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift='scale_shift'"),
        ("ho", {"num_class_embeds": 10}, "num_class_embeds=10 is not supported, only None"),
        ("ho", {"act_fn": "gelu"}, "act_fn='gelu' is not supported"),
        ("ho", {"add_attention": False}, "add_attention=False is not supported, only True"),
        ("ho", {"downsample_type": "resnet"}, "downsample_type='resnet' is not supported"),
        ("ho", {"new_thing": 3}, "unknown field 'new_thing'; remove it there if"),
        ("ho", {"out_channels": 6}, "out_channels=6 is not supported: it must be in_channels, 3"),
        ("ho", {"sample_size": None}, "sample_size=None is not supported"),
        ("ho", {"sample_size": [8, 16]}, r"sample_size=\(8, 16\) is not supported"),
        (
            "ho",
            {"sample_size": 10},
            "sample_size=10 is not supported: it must be one multiple of 4",
        ),
        ("ho", {"block_out_channels": [8, 12, 16]}, "must be multiples of the first"),
        ("ho", {"block_out_channels": 8}, "block_out_channels=8 makes no sense"),
        ("ho", {"layers_per_block": -1}, "layers_per_block=-1 is not from 0 to 100"),
        ("ho", {"layers_per_block": 10**9}, "layers_per_block=1000000000 is not from 0 to 100"),
        ("ho", {"sample_size": 0}, "sample_size=0 is not supported: it must be one multiple of 4"),
        ("ho", {"sample_size": 10**12}, "sample_size=1000000000000 is not from 0 to 1,000,000"),
        ("ho", {"sample_size": [[8], [8]]}, r"sample_size=\(\[8\], \[8\]\) makes no sense"),
        ("ho", {"block_out_channels": [8] * 30}, "a network has at most 20 stages"),
        ("ho", {"block_out_channels": ["a"]}, r"block_out_channels=\('a',\) makes no sense"),
        ("ho", {"down_block_types": [1, 2, 3]}, "down_block_types=.* makes no sense"),
        ("ho", {"norm_eps": float("nan")}, "norm_eps=nan is not from 0 to"),
        ("ho", {"norm_eps": 10**400}, "norm_eps=1000.* is not from 0 to"),
        (
            "ho",
            {"act_fn": [[[[["deep"]]]]] * 10**5},
            r"act_fn=\[\[\[\[...\]\]\], .* is not supported",
        ),
        ("ho", {"norm_num_groups": 5}, "norm_num_groups=5 is not supported: it must divide"),
        ("ho", {"norm_num_groups": None}, "norm_num_groups=None is not supported"),
        ("ho", {"downsample_padding": 2}, "downsample_padding=2 is not supported"),
        ("ho", {"mid_block_scale_factor": 2}, "mid_block_scale_factor=2 is not supported"),
        (
            "ho",
            {"down_block_types": ["KDownBlock2D"] * 3},
            "KDownBlock2D is not one of DownBlock2D",
        ),
        ("ho", {"up_block_types": ["UpBlock2D"] * 3}, "it must mirror down_block_types"),
        ("ho", {"block_out_channels": [8, 8]}, "block_out_channels has 2 stages"),
        ("ho", {"time_embedding_type": "learned"}, "time_embedding_type='learned'"),
        ("ho", {"time_embedding_type": "fourier"}, "which divides by the label"),
        ("skip", {"time_embedding_type": "positional"}, "ScoreSdeVeScheduler has 'fourier'"),
        ("skip", {"mid_block_scale_factor": 1}, r"must be sqrt\(2\)"),
        ("skip", {"norm_num_groups": 8}, "norm_num_groups=8 is not supported"),
        ("skip", {"in_channels": 1, "out_channels": 1}, "in_channels=1 is not supported"),
        (
            "attn_skip",
            {"block_out_channels": [64, 64]},
            "attention between skip pyramids needs 128 channels",
        ),
    ],
)
def test_networks_that_are_not_here(case, unet, message, folders, tmp_path):
    folder = changed(folders, tmp_path, case, unet)
    with pytest.raises(ValueError, match=message) as error:
        diffusers.describe(folder)
    assert "config.json" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "KarrasVeScheduler"}, "is of class 'KarrasVeScheduler'; known are DDPM"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule='sigmoid' is not supported, only linear"),
        ({"prediction_type": "flow_prediction"}, "prediction_type='flow_prediction' is not"),
        ({"trained_betas": [0.1, 0.2]}, r"trained_betas=\[0.1, 0.2\] is not supported, only None"),
        ({"variance_type": "learned_range"}, "variance_type='learned_range' is not supported"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas=True is not supported"),
        ({"rescale_betas_zero_snr": True}, "leaves nothing of the data in the last step"),
        ({"num_train_timesteps": 1}, "num_train_timesteps=1 is no chain"),
        ({"num_train_timesteps": 10**12}, "num_train_timesteps=1000000000000 is not from 0 to"),
        ({"num_train_timesteps": "many"}, "num_train_timesteps='many' makes no sense"),
    ],
)
def test_schedulers_that_are_not_here(changes, message, folders, tmp_path):
    folder = changed(folders, tmp_path, scheduler=changes)
    with pytest.raises(ValueError, match=message) as error:
        diffusers.describe(folder)
    assert len(str(error.value).splitlines()) == 1


def test_a_network_without_noise(folders, tmp_path):
    folder = changed(folders, tmp_path, "skip", scheduler={"sigma_min": 0.0})
    with pytest.raises(ValueError, match="sigma_min must be above 0 and below sigma_max"):
        diffusers.describe(folder)


@pytest.mark.parametrize("content", ["[" * 10**5, "{}" * 2, "[1]", "\0", "1" * 5000])
def test_json_that_is_none(content, folders, tmp_path):
    folder = changed(folders, tmp_path)
    (folder / "config.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"config\.json (is not valid JSON|does not hold)"
    ) as error:
        diffusers.describe(folder)
    assert len(str(error.value).splitlines()) == 1


VALUES = st.one_of(
    st.sampled_from([0, 1, 2, -1, 10**12, 10**400, 1e-300, 1e308, float("nan"), float("inf")]),
    st.sampled_from([None, True, "x", "linear", [], {}, [[1]], ["DownBlock2D"], [0, 0], [10**9]]),
)


@settings(FEW, max_examples=200)
@given(
    st.sampled_from(["ho", "skip", "velocity"]),
    st.dictionaries(st.sampled_from([*UNET, "_class_name"]), VALUES, max_size=2),
    st.dictionaries(st.sampled_from([*_CHAIN, *VE, "_class_name"]), VALUES, max_size=2),
)
def test_any_fields_are_a_line_or_a_network(folders, case, unet, scheduler):
    with tempfile.TemporaryDirectory() as tmp:
        folder = changed(folders, Path(tmp), case, unet, scheduler)
        with contextlib.suppress(ConfigError, DataError):
            experiments.build_experiment(config_file.get_config(str(folder)))


def without(name):
    return lambda folder: next(folder.rglob(name)).unlink()


def cut(name):
    def damage(folder):
        path = next(folder.rglob(name))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def edit_weights(edit):
    def damage(folder):
        path = next(folder.rglob("*.safetensors"))
        weights = dict(load_file(path))
        edit(weights)
        save_file(weights, path)

    return damage


WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("config.json"), "has no config.json, nor has its subfolder unet"),
        (without("scheduler_config.json"), "has no scheduler_config.json, which says"),
        (without(WEIGHTS), "has no weights: none of diffusion_pytorch_model.safetensors, d"),
        (cut("config.json"), "config.json is not valid JSON"),
        (cut(WEIGHTS), "safetensors is damaged"),
        (edit_weights(lambda w: w.pop("conv_in.bias")), "conv_in/bias is missing"),
        (edit_weights(lambda w: w.update(a=np.zeros(1))), "network: a is left over"),
        (
            edit_weights(lambda w: w.update({"conv_in.bias": np.zeros(9)})),
            r"conv_in/bias has shape \(9,\), not \(8,\)",
        ),
        (
            edit_weights(lambda w: w.update({"conv_in.bias": np.zeros(8, bool)})),
            "conv_in/bias holds bool, not real numbers",
        ),
    ],
)
def test_folders_that_do_not_fit(damage, message, folders, tmp_path):
    net = experiments.build_model(config_file.get_config(str(folders / "velocity"))).net
    folder = changed(folders, tmp_path, "velocity")
    damage(folder)
    with pytest.raises(ValueError, match=message) as error:
        published.load(folder, net, (4, 4, 1))
    assert len(str(error.value).splitlines()) == 1


def test_a_network_of_other_fields(folders):
    """Where shapes are the same, but not the numbers."""
    net = experiments.build_model(config_file.get_config(str(folders / "velocity"))).net
    with pytest.raises(ValueError, match=r"net\.head_dim is 8, and 4 there; --config configs/diff"):
        published.load(folders / "velocity", net.clone(head_dim=8), (4, 4, 1))
    with pytest.raises(ValueError, match=r"net\.num_classes is 3, and 0 there"):
        published.load(folders / "velocity", net.clone(num_classes=3), (4, 4, 1))


def test_weights_alone_are_not_enough(folders):
    net = experiments.build_model(config_file.get_config(str(folders / "skip"))).net
    with pytest.raises(ValueError, match="does not say what its network is: give the folder"):
        published.load(next((folders / "skip").glob("*.safetensors")), net, (8, 8, 3))
