"""Pickles of EDM and EDM2: networks give the public code's numbers, and nothing in them is run."""

import importlib
import io
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import published
from score_sde.errors import ConfigError
from score_sde.experiment import build as experiments
from tests import edm_file
from tests.golden.make_edm import CASES, PICKLED, draw
from tests.published_cases import GOLDEN

FOLDER = GOLDEN / "edm"
ATTRIBUTES = {  # of each preconditioning, beside the sizes
    "EDMPrecond": {"sigma_min": 0, "sigma_max": float("inf"), "sigma_data": 0.5},
    "VPPrecond": {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5},
    "VEPrecond": {"sigma_min": 0.02, "sigma_max": 100},
    "iDDPMPrecond": {"C_1": 0.001, "C_2": 0.008, "M": 1000},
    "Precond": {"sigma_data": 0.5},
}
OF_PRECONDITIONING = ("model_type", "sigma_data", "logvar_channels")


def written(case, path, protocol=None):
    """The case as a file, from names and shapes of the golden arrays."""
    kind, options = CASES[case]
    shapes = json.loads(str(np.load(FOLDER / f"{case}.npz")["shapes"]))
    inner = {key: value for key, value in options.items() if key not in OF_PRECONDITIONING}
    sizes = {key: options.get(key, 0) for key in ("img_resolution", "img_channels", "label_dim")}
    default = "UNet" if kind == "Precond" else "DhariwalUNet" if "adm" in case else "SongUNet"
    default = "DhariwalUNet" if kind == "iDDPMPrecond" else default
    weights = draw({name: tuple(shape) for name, shape in shapes.items()})
    network = edm_file.network(kind, default, inner, weights, sizes | ATTRIBUTES[kind])
    content = {"ema": network, "loss_fn": edm_file.persistent("EDMLoss", {"P": 1.2})}
    edm_file.write(path, content, protocol)
    return path


def config_of(case, path):
    name = "edm2" if CASES[case][0] == "Precond" else "edm"
    return importlib.import_module(f"configs.{name}").get_config(str(path))


def imported(case, path):
    experiment = experiments.build_experiment(config_of(case, path))
    shape = experiment.codec.shape
    return experiment.model, published.load(path, experiment.model.net, shape)


def worst(ours, theirs):
    error = np.abs(np.asarray(ours) - theirs).max((1, 2, 3)) / np.abs(theirs).max((1, 2, 3))
    return error.max()


@pytest.mark.parametrize("case", CASES)
def test_networks_and_denoisers_are_those_of_the_public_code(case, tmp_path):
    path = FOLDER / f"{case}.pkl"
    path = path if case in PICKLED else written(case, tmp_path / "network.pkl")
    model, found = imported(case, path)
    golden = np.load(FOLDER / f"{case}.npz")
    x, sigma = (jnp.asarray(golden[key], jnp.float32) for key in ("x", "sigma"))
    cond = {"label": jnp.asarray(golden["label"])}
    if "augment" in golden:
        cond["augment"] = jnp.asarray(golden["augment"])
    t = model.sde.t_of_log_snr(-2 * jnp.log(sigma))
    scaled = model.sde.alpha(t)[:, None, None, None] * x

    @jax.jit
    def both(params):
        return model.network(params, scaled, t, cond), model.denoiser(params, cond)(scaled, t)

    output, denoised = both(found.params)
    theirs = golden["output"][..., : x.shape[-1]]  # the other half is of the variance
    # sin and cos of 999 t, which is inverted from sigma, lose 999 eps
    tolerance = 1e-4 if CASES[case][0] == "VPPrecond" else 5e-6
    assert worst(output, theirs) < tolerance
    assert worst(denoised, golden["denoised"]) < tolerance
    if "logvar" in golden:
        noise = model.parametrization.c_noise(model.sde, t)
        u = model.net.apply({"params": found.params}, noise, method="log_variance")
        np.testing.assert_allclose(u, golden["logvar"], rtol=1e-4, atol=1e-5)


def test_augmentation_may_have_other_numbers(tmp_path, monkeypatch):
    """A file whose augmentation said less than all nine numbers can be built and read."""
    kind, options = CASES["ddpmpp"]
    monkeypatch.setitem(CASES, "ddpmpp", (kind, options | {"augment_dim": 6}))
    shapes = json.loads(str(np.load(FOLDER / "ddpmpp.npz")["shapes"]))
    shapes["model.map_augment.weight"][1] = 6
    monkeypatch.setattr(json, "loads", lambda text: shapes)
    path = written("ddpmpp", tmp_path / "network.pkl")
    monkeypatch.undo()
    model, found = imported("ddpmpp", path)
    assert model.net.augment_dim == 6
    assert found.params["map_augment"]["kernel"].shape == (6, 8)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_is_read(protocol, tmp_path):
    """They write sets, bytes and classes in other ways."""
    path = written("skips", tmp_path / "network.pkl", protocol)
    shapes = json.loads(str(np.load(FOLDER / "skips.npz")["shapes"]))
    found = published.edm_pickle.read(path)["ema"].arrays()
    expected = draw({name: tuple(shape) for name, shape in shapes.items()})
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_class_and_none_differ_and_the_bias_of_labels_still_acts(tmp_path):
    """Without a label Song's network sees the bias of its layer, and the others see nothing."""
    model, found = imported("ddpmpp", FOLDER / "ddpmpp.pkl")
    golden = np.load(FOLDER / "ddpmpp.npz")
    assert golden["label"].tolist() == [4, -1, 0]  # the goldens above have one without
    x, noise = jnp.asarray(golden["x"][:1]), jnp.ones(1)

    @jax.jit
    def output(params, label):
        return model.net.apply({"params": params}, x, noise, {"label": label[None]})

    unbiased = jax.tree.map(lambda a: a, found.params)
    unbiased["map_label"]["bias"] = 0 * unbiased["map_label"]["bias"]
    without, some = jnp.int32(-1), jnp.int32(1)
    assert worst(output(unbiased, without), np.asarray(output(found.params, without))) > 1e-3
    assert worst(output(found.params, some), np.asarray(output(found.params, without))) > 1e-3


# Files that are refused. A file is `{"ema": network}`; each of these is wrong in one way.


def small(blocks=1, mult=(1,), **changes):
    weights = {"enc.8x8_conv.weight": np.ones((8, 3, 3, 3), np.float32)}
    sizes = {"img_resolution": 8, "img_channels": 3, "label_dim": 0}
    attributes = sizes | ATTRIBUTES["EDMPrecond"] | changes
    model = {f"model.{name}": array for name, array in weights.items()}
    options = {"channel_mult": mult, "num_blocks": blocks}
    return edm_file.network("EDMPrecond", "SongUNet", options, model, attributes)


def endless():
    container = edm_file.Container()
    container.state = {"_parameters": {}, "_modules": {"again": container}}
    return edm_file.persistent("EDMPrecond", {"_modules": {"model": container}})


def doubled(depth):
    """Modules that hold the next one twice: few bytes, and 2^depth of them to walk."""
    inner = edm_file.persistent("Part", edm_file.modules({"w": np.ones(1, np.float32)}))
    for _ in range(depth):
        inner = edm_file.persistent("Part", {"_modules": {"a": inner, "b": inner}})
    return edm_file.persistent("EDMPrecond", {"_modules": {"model": inner}})


HOSTILE = {
    "system": lambda: edm_file.Call("os.system", "touch {marker}"),
    "evaluation": lambda: {"ema": edm_file.Call("builtins.eval", "open({marker!r}, 'w')")},
    "within": lambda: {"ema": small(extra=edm_file.Call("os.system", "touch {marker}"))},
    "subprocess": lambda: {"loss_fn": edm_file.Call("subprocess.Popen", ["touch", "{marker}"])},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_code_is_refused_before_anything_is_called(case, tmp_path):
    marker, path = tmp_path / "executed", tmp_path / "hostile.pkl"
    content = HOSTILE[case]()

    def filled(value):
        if isinstance(value, edm_file.Call):
            return edm_file.Call(value.name, *map(filled, value.arguments))
        if isinstance(value, dict):
            return {key: filled(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(filled, value))
        return value.format(marker=str(marker)) if isinstance(value, str) else value

    edm_file.write(path, filled(content))
    with pytest.raises(ValueError, match=r"hostile\.pkl is refused: it names \w+\.\w+") as raised:
        published.edm.describe(path)
    assert "\n" not in str(raised.value)
    assert not marker.exists()


def test_the_source_within_a_file_is_not_executed():
    """Both golden files carry a source that would end this program."""
    for case in PICKLED:
        raw = (FOLDER / f"{case}.pkl").read_bytes()
        assert edm_file.SOURCE.encode() in raw
        published.edm.describe(FOLDER / f"{case}.pkl")


@pytest.mark.parametrize("keep", [0, 1, 0.5, 0.99, -1])
def test_a_file_cut_short(keep, tmp_path):
    whole = (FOLDER / "edm2.pkl").read_bytes()
    path = tmp_path / "cut.pkl"
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(ValueError, match=r"cut\.pkl is damaged or is no pickle of EDM"):
        published.edm.describe(path)


WEIGHT = np.ones(1, np.float32)
WRONG = {
    "no network": (lambda: {"G": 1}, "holds no network under the name ema"),
    "no dictionary": (lambda: [1, 2], "holds no dictionary"),
    "another class": (lambda: {"ema": edm_file.persistent("Generator", {})}, "holds a Generator"),
    "another network": (
        lambda: {"ema": edm_file.network("EDMPrecond", "ViT", {}, {"model.w": WEIGHT}, {})},
        "class ViT",
    ),
    "no size": (lambda: {"ema": small(img_resolution="8")}, "is no whole number"),
    "no constant": (lambda: {"ema": small(sigma_data=None)}, "is no number"),
    "no end of blocks": (lambda: {"ema": small(blocks=10**5)}, "num_blocks asks for too many"),
    "no end of levels": (lambda: {"ema": small(mult=[1] * 99)}, "channel_mult asks for too many"),
    "a word": (lambda: {"ema": small(blocks="many")}, "num_blocks should be like 4"),
    "no number": (lambda: {"ema": small(mult=[2**40])}, "channel_mult is above 100,000"),
    "no option": (lambda: {"ema": small(mult="wide" * 99)}, "channel_mult should be like"),
    "another level": (lambda: {"ema": small(_modules={})}, "holds a EDMPrecond, not a network"),
}


@pytest.mark.parametrize("case", WRONG)
def test_other_files_are_refused_in_a_line(case, tmp_path):
    content, message = WRONG[case]
    path = tmp_path / "wrong.pkl"
    edm_file.write(path, content())
    with pytest.raises(ValueError, match=message) as raised:
        published.edm.describe(path)
    assert "\n" not in str(raised.value)
    assert "wrong.pkl" in str(raised.value)


def test_modules_without_end_do_not_take_forever(tmp_path):
    for content in ({"ema": endless()}, {"ema": doubled(18)}):
        path = tmp_path / "nested.pkl"
        edm_file.write(path, content)
        network = published.edm_pickle.read(path)["ema"]
        with pytest.raises(ValueError, match=r"nested without end|more than 20,000"):
            network.arrays()


@pytest.mark.parametrize(
    "change", [{"channel_mult": (1, 3)}, {"num_blocks": 2}, {"embedding_type": "fourier"}]
)
def test_another_network_is_refused(change):
    path = FOLDER / "ddpmpp.pkl"
    net = experiments.build_model(config_of("ddpmpp", path)).net.clone(**change)
    with pytest.raises(ValueError, match=f"net.{next(iter(change))} is"):
        published.load(path, net, (8, 8, 3))


def test_a_config_of_another_file_or_name():
    with pytest.raises(ConfigError, match="neither a file nor a recipe; the recipes are: cifar10"):
        importlib.import_module("configs.edm").get_config("cifar")
    with pytest.raises(ConfigError, match=r"holds a network of edm2\.EDM2UNet"):
        importlib.import_module("configs.edm").get_config(str(FOLDER / "edm2.pkl"))


def test_numbers_that_are_not_needed_are_read_as_nothing(tmp_path):
    """NumPy's arrays in the autoencoder of EDM2's files, of every protocol."""
    for protocol in (2, 3, 4):
        stream = io.BytesIO(pickle.dumps({"ema": {"std": np.ones(3, np.float32)}}, protocol))
        path = tmp_path / "numpy.pkl"
        path.write_bytes(stream.getvalue())
        assert not isinstance(published.edm_pickle.read(path)["ema"]["std"], np.ndarray)
