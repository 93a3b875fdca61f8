"""Published checkpoints of the 2021 code, JAX and PyTorch: its weights give its scores."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.serialization import msgpack_restore, msgpack_serialize

from score_sde import published
from score_sde.experiment.build import build_model
from score_sde.modes import sample
from score_sde.modes.import_ import import_
from score_sde.published import torch_2021, torch_file
from score_sde.published.matching import call_order
from tests.published_cases import CONFIGS, GOLDEN, SHAPE, config_of
from tests.stored import arrays

JAX = [(case, "jax.msgpack") for case in sorted(CONFIGS)]
TORCH = [(case, "torch.pth") for case in ("ve_ncsnpp_continuous", "vp_ddpmpp_continuous")]


def as_published(case, t, score, sde):
    """The golden score as ours at a time of ours.

    The discrete models are tables there. VE: both label and sigma are of the nearest step. VP: the
    label is not rounded, but the standard deviation is of the step below.
    """
    if case == "ve_ncsnpp":
        return 1 - np.round((1 - t) * 999) / 999, score
    if case == "vp_ddpmpp":
        ratio = sde.sigma(jnp.asarray(np.floor(t * 999) / 999)) / sde.sigma(jnp.asarray(t))
        return t, score * np.asarray(ratio)[:, None, None, None]
    return t, score


def worst_error(case, kind, model, params):
    """Relative to the largest score of an image. In float64, since the score of a denoiser loses
    digits at small sigma; the golden ones are of float32."""
    golden = arrays(GOLDEN / f"{case}.{kind.split('.')[0]}.npz")
    t = golden["t"].astype(float)
    t, expected = as_published(case, t, golden["score"].astype(float), model.sde)
    t, x = jnp.asarray(t), jnp.asarray(golden["x"].astype(float))
    # no constants, so that the same network from another file is the same program
    score = jax.jit(lambda p, x, t: model.sde.score(x, t, model.denoiser(p)(x, t)))(params, x, t)
    error = np.abs(score - expected).max((1, 2, 3)) / np.abs(expected).max((1, 2, 3))
    return error.max()


@pytest.mark.parametrize(("case", "kind"), [*JAX[:-1], TORCH[0]])
def test_published_weights_give_the_published_score(case, kind, x64):
    model = build_model(config_of(case))
    imported = published.load(GOLDEN / f"{case}.{kind}", model.net, SHAPE)
    assert imported.step == 7
    assert worst_error(case, kind, model, imported.ema) < 2e-5


@pytest.mark.parametrize(("case", "kind"), [JAX[-1], TORCH[-1]])
def test_so_they_do_out_of_a_workdir(case, kind, tmp_path, x64):
    config = config_of(case)
    result = import_(config, tmp_path, GOLDEN / f"{case}.{kind}")
    experiment, params, step = sample.restore(config, tmp_path)
    assert (step, result["step"], result["averaged"]) == (7, 7, True)
    assert worst_error(case, kind, experiment.model, params) < 2e-5


NAME = "vp_ddpmpp_continuous"


@pytest.fixture(scope="module")
def net():
    return build_model(config_of(NAME)).net


@pytest.fixture
def state():
    return msgpack_restore((GOLDEN / f"{NAME}.jax.msgpack").read_bytes())


def load(net, path, state):
    path.write_bytes(msgpack_serialize(state))
    return published.load(path, net, SHAPE)


def test_average_and_optimised_parameters(net, state, tmp_path):
    state["params_ema"] = jax.tree.map(lambda p: 2 * p, state["optimizer"]["target"])
    state["step"] = 12
    imported = load(net, tmp_path / "checkpoint_1", state)
    raw, blocks = imported.params, state["optimizer"]["target"]
    chex.assert_trees_all_equal(imported.ema, jax.tree.map(lambda b: 2 * b, raw), strict=True)
    assert imported.step == 12
    np.testing.assert_array_equal(
        raw["down_0_0"]["conv_0"]["kernel"], blocks["ResnetBlockBigGANpp_0"]["Conv_0"]["kernel"]
    )
    # block 10 comes after block 9, not after block 1
    np.testing.assert_array_equal(
        raw["up_1_1"]["dense"]["bias"], blocks["ResnetBlockBigGANpp_11"]["Dense_0"]["bias"]
    )


def test_rematerialised_blocks_read_the_same(net):
    assert call_order(net.clone(remat="all"), SHAPE)[0] == call_order(net, SHAPE)[0]


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


@pytest.mark.parametrize(
    "other", ["vp_ddpm_continuous.jax.msgpack", "ve_ncsnpp_continuous.torch.pth"]
)
def test_weights_of_another_network(net, other):
    with pytest.raises(ValueError, match=r"does not fit the network: .*and [0-9]+ more"):
        published.load(GOLDEN / other, net, SHAPE)


@pytest.mark.parametrize("keep", [0, 1, 1000, 300_000, -1])
@pytest.mark.parametrize("kind", ["jax.msgpack", "torch.pth"])
def test_truncated_file(net, tmp_path, keep, kind):
    path = tmp_path / "checkpoint_1"
    path.write_bytes((GOLDEN / f"{NAME}.{kind}").read_bytes()[:keep])
    with pytest.raises(ValueError, match="checkpoint_1 is damaged"):
        published.load(path, net, SHAPE)


@pytest.mark.parametrize(
    "other",
    [{"step": 1}, {"params_ema": {"Dense_0": {"bias": "x"}}}, [1], {}, {"optimizer": 3}],
)
def test_other_files(net, tmp_path, other):
    with pytest.raises(ValueError, match="is damaged or is no checkpoint"):
        load(net, tmp_path / "checkpoint_1", other)


def with_a_number_for_a_name(state):
    state["params_ema"] = {3: {"kernel": np.zeros(3, np.float32)}}


def with_a_step(step):
    return lambda state: state.update(step=step)


def with_an_array_of(dtype):
    def change(state):
        bias = state["params_ema"]["Dense_1"]["bias"]
        state["params_ema"]["Dense_1"]["bias"] = np.zeros(bias.shape, dtype)

    return change


def with_odd_numbers(state):
    state["params_ema"]["Conv_\u00b2"] = state["params_ema"].pop("Conv_0")
    state["params_ema"]["Conv_" + "9" * 5000] = {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_a_number_for_a_name, "the name of a parameter is no text"),
        (with_a_step(2**31), "its step is no whole number from 0"),
        (with_a_step(-1), "its step is no whole number from 0"),
        (with_a_step(float("inf")), "its step is no whole number from 0"),
        (with_a_step(np.zeros(3)), "its step is no whole number from 0"),
        (with_an_array_of(complex), "embed_1/bias holds complex128, not real numbers"),
        (with_an_array_of("M8[s]"), r"embed_1/bias holds datetime64\[s\], not real numbers"),
        (with_an_array_of(bool), "embed_1/bias holds bool, not real numbers"),
        (with_odd_numbers, "Conv_\u00b2/kernel is left over"),
    ],
)
def test_odd_content(net, state, tmp_path, change, message):
    change(state)
    with pytest.raises(ValueError, match=message):
        load(net, tmp_path / "checkpoint_1", state)


# The port's lists


@pytest.fixture
def port():
    """What is in a file of a network with Fourier features."""
    return torch_file.read(GOLDEN / "ve_ncsnpp_continuous.torch.pth")


def load_port(monkeypatch, state):
    monkeypatch.setattr(torch_file, "read", lambda path: state)
    net = build_model(config_of("ve_ncsnpp_continuous")).net
    return torch_2021.load(Path("checkpoint_1.pth"), net, SHAPE)


def test_averages_of_the_port_are_those_with_a_gradient(port, monkeypatch):
    port["ema"]["shadow_params"] = [2 * a for a in port["ema"]["shadow_params"]]
    imported = load_port(monkeypatch, port)
    raw = imported.params
    fixed = raw.pop("fourier")["kernel"]  # the golden averages are the parameters themselves
    np.testing.assert_array_equal(imported.ema.pop("fourier")["kernel"], fixed)
    chex.assert_trees_all_equal(imported.ema, jax.tree.map(lambda b: 2 * b, raw), strict=True)
    model = port["model"]
    np.testing.assert_array_equal(fixed, model["module.all_modules.0.W"])
    np.testing.assert_array_equal(raw["embed_0"]["kernel"], model["module.all_modules.1.weight"].T)
    np.testing.assert_array_equal(
        raw["conv_in"]["kernel"], model["module.all_modules.3.weight"].transpose(2, 3, 1, 0)
    )


def test_names_of_the_port_without_its_wrapper(port, monkeypatch):
    expected = load_port(monkeypatch, port)
    port["model"] = {key.removeprefix("module."): a for key, a in port["model"].items()}
    chex.assert_trees_all_equal(load_port(monkeypatch, port), expected)


def lose_average(state):
    state["ema"]["shadow_params"].pop()


def lose_parameter(state):
    del state["model"]["module.all_modules.3.bias"]
    state["ema"]["shadow_params"].pop(5)


def swap_averages(state):
    shadow = state["ema"]["shadow_params"]
    shadow[0], shadow[-1] = shadow[-1], shadow[0]


def add_module(state):
    state["model"]["module.all_modules.99.weight"] = np.zeros(2, np.float32)
    state["ema"]["shadow_params"].append(np.zeros(2, np.float32))


def lose_step(state):
    del state["step"]


def text_for_numbers(state):
    state["model"]["module.all_modules.3.bias"] = "text"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_average, r"does not fit the network: \d+ averages of \d+ parameters"),
        (lose_parameter, "conv_in/bias is missing"),
        (swap_averages, r"embed_0/kernel has shape \(3,\), not \(16, 32\)"),
        (add_module, r"all_modules\.99\.weight is left over|99\.weight is left over"),
        (lose_step, r"is no checkpoint of the PyTorch port .*KeyError: 'step'"),
        (text_for_numbers, "a parameter is no array"),
    ],
)
def test_lists_that_do_not_fit(port, monkeypatch, damage, message):
    damage(port)
    with pytest.raises(ValueError, match=message):
        load_port(monkeypatch, port)
