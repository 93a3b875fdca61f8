"""Published checkpoints: the weights of the 2021 code give the scores of the 2021 code."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.serialization import msgpack_restore, msgpack_serialize

from score_sde.nets.ncsnpp import NCSNpp
from score_sde.published import call_order, load_score_sde_jax

GOLDEN = Path(__file__).parent / "golden"
SHAPE = (16, 16, 3)
FIELDS = (
    *("nf", "ch_mult", "num_res_blocks", "attn_resolutions", "dropout", "resamp_with_conv", "fir"),
    *("fir_kernel", "progressive", "progressive_input", "progressive_combine", "fourier_scale"),
    *("skip_rescale", "init_scale", "scale_by_sigma"),
)


def net_of(config):
    model = config["model"]
    fields = {key: model[key] for key in FIELDS if key in model}
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    fields["fourier_scale"] = float(fields.get("fourier_scale", 16))
    if model["name"] == "ddpm":
        fields |= {"resblock": "ddpm", "skip_rescale": False, "min_group_size": 1}
    else:
        fields |= {"resblock": model["resblock_type"], "embedding": model["embedding_type"]}
    return NCSNpp(**fields, centered=config["data"]["centered"])


def score_of(config, net, params, x, t):
    """The conventions of the continuous models of arXiv:2011.13456."""
    model, kind = config["model"], config["training"]["sde"]
    t = np.asarray(t, float)
    if kind == "vesde":
        noise = model["sigma_min"] * (model["sigma_max"] / model["sigma_min"]) ** t
        scale = np.ones_like(t)  # scale_by_sigma has divided already
    else:
        b0, b1 = model["beta_min"], model["beta_max"]
        variance = -np.expm1(-(t**2) * (b1 - b0) / 2 - t * b0)
        noise = 999 * t
        scale = -1 / (np.sqrt(variance) if kind == "vpsde" else variance)
    apply = jax.jit(lambda p, x, noise: net.apply({"params": p}, x, noise))
    return apply(params, x, jnp.asarray(noise, jnp.float32)) * scale[:, None, None, None]


def read(name):
    return json.loads((GOLDEN / f"{name}.config.json").read_text())


@pytest.mark.parametrize(
    "name",
    [
        "ve_ncsnpp_continuous",
        "ve_bedroom_ncsnpp_continuous",
        "vp_ddpmpp_continuous",
        "vp_ddpm_continuous",
        "subvp_ncsnpp_continuous",
    ],
)
def test_published_weights_give_the_published_score(name):
    config = read(name)
    net = net_of(config)
    params = load_score_sde_jax(GOLDEN / f"{name}.jax.msgpack", net, SHAPE)
    golden = np.load(GOLDEN / f"{name}.jax.npz")
    score = score_of(config, net, params, golden["x"], golden["t"])
    error = np.max(np.abs(score - golden["score"])) / np.max(np.abs(golden["score"]))
    assert error < 2e-5


NAME = "vp_ddpmpp_continuous"


@pytest.fixture(scope="module")
def net():
    return net_of(read(NAME))


@pytest.fixture
def state():
    return msgpack_restore((GOLDEN / f"{NAME}.jax.msgpack").read_bytes())


def load(net, path, state, **kwargs):
    path.write_bytes(msgpack_serialize(state))
    return load_score_sde_jax(path, net, SHAPE, **kwargs)


def test_average_or_optimised_parameters(net, state, tmp_path):
    state["params_ema"] = jax.tree.map(lambda p: 2 * p, state["optimizer"]["target"])
    ema, raw = (load(net, tmp_path / "checkpoint_1", state, ema=ema) for ema in (True, False))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, 2 * b), ema, raw)
    blocks = state["optimizer"]["target"]
    np.testing.assert_array_equal(
        raw["down_0_0"]["conv_0"]["kernel"], blocks["ResnetBlockBigGANpp_0"]["Conv_0"]["kernel"]
    )
    # block 10 comes after block 9, not after block 1
    np.testing.assert_array_equal(
        raw["up_1_1"]["dense"]["bias"], blocks["ResnetBlockBigGANpp_11"]["Dense_0"]["bias"]
    )


def test_rematerialised_blocks_read_the_same(net):
    assert call_order(net.clone(remat=True), SHAPE)[0] == call_order(net, SHAPE)[0]


def test_call_order(net):
    order = [path[0] for path, _ in call_order(net, SHAPE)[0] if len(path) == 1]
    assert order[:5] == ["embed_0", "embed_1", "conv_in", "down_0_0", "down_0_resample"]
    assert order[-3:] == ["up_0_1", "out_norm", "out_conv"]


def test_what_does_not_fit_is_listed(net, state, tmp_path):
    params = state["params_ema"]
    del params["Dense_1"]["bias"]
    params["Conv_9"] = {"kernel": np.zeros(3, np.float32)}
    params["Conv_0"]["kernel"] = np.zeros((3, 3, 4, 8), np.float32)
    with pytest.raises(ValueError) as error:
        load(net, tmp_path / "checkpoint_1", state)
    message = str(error.value)
    assert "embed_1/bias is missing" in message
    assert "conv_in/kernel has shape (3, 3, 4, 8), not (3, 3, 3, 8)" in message
    assert "Conv_9/kernel is left over" in message
    assert "\n" not in message


def test_weights_of_another_network(net):
    with pytest.raises(ValueError, match=r"and [0-9]+ more"):
        load_score_sde_jax(GOLDEN / "vp_ddpm_continuous.jax.msgpack", net, SHAPE)


@pytest.mark.parametrize("keep", [0, 1, 1000, 300_000, -1])
def test_truncated_file(net, tmp_path, keep):
    path = tmp_path / "checkpoint_1"
    path.write_bytes((GOLDEN / f"{NAME}.jax.msgpack").read_bytes()[:keep])
    with pytest.raises(ValueError, match="checkpoint_1 is damaged"):
        load_score_sde_jax(path, net, SHAPE)


@pytest.mark.parametrize("other", [{"step": 1}, {"params_ema": {"Dense_0": {"bias": "x"}}}, [1]])
def test_other_files(net, tmp_path, other):
    with pytest.raises(ValueError, match="is damaged or is no checkpoint"):
        load(net, tmp_path / "checkpoint_1", other)
