"""ADM's networks give the numbers of OpenAI's code, and files say what they hold."""

import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import adm as recipes
from score_sde import published
from score_sde.config import build
from score_sde.data.no_images import absent
from score_sde.errors import ConfigError
from score_sde.experiment import build as experiments
from score_sde.models.flow_map import consistency
from score_sde.nets.adm import ADM, ADMClassifier
from score_sde.published import adm
from tests import torch_zip
from tests.documents import ROOT
from tests.golden.make_adm import CASES, CLASSIFIERS, HALVED, HERE, UNET, draw

ALL = CASES | CLASSIFIERS
# Some 40 layers of float32, whose sums of up to 1,000 terms are each right to a few units of 1e-7.
ROUNDING = 1e-5


@functools.cache
def golden(case):
    return dict(np.load(HERE / f"{case}.npz"))


def weights(case):
    shapes = json.loads(str(golden(case)["shapes"]))
    drawn = draw({name: tuple(shape) for name, shape in shapes.items()})
    if case not in HALVED:
        return drawn
    return {name: value.astype(np.float16) for name, value in drawn.items()}


def untold(case):
    """What the shapes of a case do not say, from what its network was made with."""
    options = UNET | ALL[case]
    return {
        "head_dim": max(options["num_head_channels"], 0),
        "num_heads": options.get("num_heads", 1),
        "attention_order": "new" if options.get("use_new_attention_order") else "legacy",
    }


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The cases as files of torch.save, made as they are asked for."""
    folder = tmp_path_factory.mktemp("adm")

    @functools.cache
    def file(case):
        torch_zip.save(folder / f"{case}.pt", weights(case))
        return folder / f"{case}.pt"

    return file


@pytest.mark.parametrize("case", ALL)
def test_networks_are_those_of_the_public_code(case, files):
    """Both orders of attention, heads by number and by width, blocks and layers that resample, with
    and without classes, scale and shift, a learned variance; classifiers; float16 weights."""
    net = build("nets", adm.describe(files(case)).net | untold(case))
    imported = published.load(files(case), net, (16, 16, 3))
    assert (imported.ema, imported.step) == (None, 0)
    arrays = golden(case)
    cond = {"label": jnp.asarray(arrays["label"], jnp.int32)} if "label" in arrays else None
    x, t = (jnp.asarray(arrays[name], jnp.float32) for name in ("x", "t"))
    output = jax.jit(net.apply)({"params": imported.params}, x, t, cond)
    error = np.abs(np.asarray(output) - arrays["output"]).max()
    assert error < ROUNDING * np.abs(arrays["output"]).max()


@pytest.mark.parametrize("case", ALL)
def test_what_shapes_tell(case, files):
    options = UNET | ALL[case]
    found = adm.describe(files(case)).net
    expected = {
        "nf": options["model_channels"],
        "ch_mult": options["channel_mult"],
        "num_res_blocks": options["num_res_blocks"],
        "attn_rates": options["attention_resolutions"],
        "scale_shift": options["use_scale_shift_norm"],
        "resblock_updown": options["resblock_updown"],
        "conv_resample": options.get("conv_resample", True),
    }
    if case in CLASSIFIERS:
        expected |= {"name": "adm.ADMClassifier", "num_classes": options["out_channels"]}
        assert adm.describe(files(case)).image_size == options["image_size"]
    else:
        expected |= {"name": "adm.ADM", "num_classes": options.get("num_classes", 0)}
        expected["learn_variance"] = options["out_channels"] == 6
    assert {name: found[name] for name in expected} == expected


def of_two_axes(arrays):
    """The weights as consistency_models has them: the layers of attention are convolutions over two
    axes."""
    found = dict(arrays)
    for name, value in arrays.items():
        if re.search(r"qkv\.weight|proj_out\.weight", name):
            found[name] = value.reshape(*value.shape[:2], 1, 1)
    return found


@pytest.mark.parametrize("name", ["cd_small.pt", "edm_small.pt"])
def test_a_consistency_model_is_the_published_function(name, tmp_path):
    """Their attention has the order "new" over two axes. With the golden output F at labels
    250 ln t, f = c_skip x + c_out F of Song et al. 2023, or EDM's D."""
    torch_zip.save(tmp_path / name, of_two_axes(weights("new")))
    config = recipes.get_config(str(tmp_path / name))
    config.net.head_dim = 16
    experiment = experiments.build_experiment(config)
    shape = (16, 16, 3)
    params = published.load(tmp_path / name, experiment.model.net, shape).params
    arrays = golden("new")
    cond = {"label": jnp.asarray(arrays["label"], jnp.int32)}
    t = np.exp(arrays["t"] / 250)[:, None, None, None]
    x, output = arrays["x"] * np.sqrt(t**2 + 0.25), arrays["output"][..., :3]
    given = jnp.asarray(x, jnp.float32), jnp.asarray(t.ravel(), jnp.float32)
    if name.startswith("edm"):
        found = jax.jit(experiment.objective.result(params, cond))(*given)
        truth = 0.25 / (t**2 + 0.25) * x + 0.5 * t / np.sqrt(t**2 + 0.25) * output
    else:
        found = jax.jit(consistency(experiment.model.sde, experiment.model.flow_map(params, cond)))(
            *given
        )
        truth = 0.25 / ((t - 0.002) ** 2 + 0.25) * x
        truth += 0.5 * (t - 0.002) / np.sqrt(t**2 + 0.25) * output
    np.testing.assert_allclose(found, truth, atol=5e-5 * np.abs(truth).max())
    assert experiment.objective.gives == ("denoiser" if name.startswith("edm") else "jump")


DEEP = {"ch_mult": (1, 1, 2, 2, 4, 4), "num_res_blocks": 2, "attn_rates": (8, 16, 32)}
DEEPER = {"ch_mult": (0.5, 1, 1, 2, 2, 4, 4), "num_res_blocks": 2, "attn_rates": (16, 32, 64)}
SHALLOW = {"ch_mult": (1, 1, 2, 3, 4), "num_res_blocks": 2, "attn_rates": (4, 8, 16)}
WITH = {"num_classes": 1000, "learn_variance": True}
# The published networks, from the flags in the readme of the public code: their sizes in pixels,
# and millions of parameters, which the paper rounds to whole ones.
PUBLISHED = {
    "64": (ADM(attention_order="new", **WITH), 64, 295.9),
    "128": (ADM(nf=256, head_dim=0, num_heads=4, **SHALLOW, **WITH), 128, 421.5),
    "256": (ADM(nf=256, **DEEP, **WITH), 256, 553.8),
    "512": (ADM(nf=256, **DEEPER, **WITH), 512, 559.0),
    "64 classifier": (ADMClassifier(nf=128, num_res_blocks=4), 64, 65.4),
    "512 classifier": (ADMClassifier(nf=128, **DEEPER), 512, 54.4),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_known_by_their_shapes(name, monkeypatch):
    """The number of parameters, and what a file of their shapes says."""
    net, size, millions = PUBLISHED[name]
    theirs = shapes_of(net, size)
    assert round(sum(array.size for array in theirs.values()) / 1e6, 1) == millions
    monkeypatch.setattr(adm.torch_file, "read", lambda path: theirs)
    found = adm.describe(Path("a file"))
    assert build("nets", found.net).clone(num_heads=net.num_heads) == net
    if not net.head_dim:
        assert found.net["num_heads"] == 4
    assert found.image_size == size
    assert ("cosine" in found.sde) == (size == 64)


@pytest.mark.parametrize("size", [64, 256])
def test_published_consistency_models_are_known_by_their_shapes(size, monkeypatch):
    """Of ImageNet-64 and LSUN-256, from the flags in scripts/launch.sh of the public code."""
    net = {
        64: ADM(attention_order="new", num_classes=1000),
        256: ADM(nf=256, attention_order="new", scale_shift=False, **DEEP),
    }[size]
    monkeypatch.setattr(adm.torch_file, "read", lambda path: of_two_axes(shapes_of(net, size)))
    found = adm.describe(Path("a file"))
    assert build("nets", found.net).clone(num_heads=net.num_heads) == net
    assert (found.image_size, found.learns_variance, found.in_edm) == (size, False, True)


def test_a_case_has_only_names_of_the_file(files):
    """Every name of ours is one of theirs, and the other way round."""
    net = build("nets", adm.describe(files("legacy")).net | untold("legacy"))
    wrong = net.clone(num_classes=0)
    with pytest.raises(
        ValueError, match=r"does not fit the network: label_emb.weight is left over"
    ):
        published.load(files("legacy"), wrong, (16, 16, 3))
    wrong = net.clone(attn_rates=(4,))
    with pytest.raises(ValueError, match=r"fit the network: up_1_resample/conv_0/bias is missing"):
        published.load(files("legacy"), wrong, (16, 16, 3))


def changed(files, tmp_path, case="heads", **arrays):
    path = tmp_path / "changed.pt"
    found = weights(case) | arrays
    torch_zip.save(path, {name: value for name, value in found.items() if value is not None})
    return path


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"input_blocks.0.0.weight": None}, "is no network of guided-diffusion: it has no input"),
        ({"out.2.weight": None}, "is no whole network of guided-diffusion"),
        ({"input_blocks.1.0.out_layers.3.weight": None}, "do not divide into stages"),
        ({"input_blocks.0.0.weight": np.zeros((32, 6, 3, 3), np.float32)}, "is an upsampler"),
        ({"out.2.weight": np.zeros((5, 32, 3, 3), np.float32)}, "has 5 channels at its end for 3"),
        ({"time_embed.0.weight": np.zeros(4, np.float32)}, "is no whole network"),
    ],
)
def test_files_that_are_refused(arrays, message, files, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        adm.describe(changed(files, tmp_path, **arrays))
    assert len(str(error.value).splitlines()) == 1


def shapes_of(net, size=16, channels=3):
    """The arrays of a file of this network, which take no memory."""
    x, label = np.zeros((1, size, size, channels), np.float32), {"label": np.zeros(1, np.int32)}
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, np.ones(1, np.float32), label)
    theirs = {}
    for ours, spec in jax.tree_util.tree_leaves_with_path(shapes["params"]):
        path = tuple(part.key for part in ours)
        shape = spec.shape if path[-1] == "embedding" else spec.shape[::-1]  # as torch has them
        theirs[adm._their_name(path, net)] = np.broadcast_to(np.float32(0), shape)
    return theirs


SMALL = {"nf": 32, "attn_rates": (), "head_dim": 32, "resblock_updown": False}
# Blocks could be divided into stages in several ways, by their widths alone.
DIVIDED = {
    "means between stages": ADM(**SMALL, ch_mult=(2, 1, 1), num_res_blocks=3, conv_resample=False),
    "layers between stages": ADM(**SMALL, ch_mult=(1, 1), num_res_blocks=5),
    "blocks between stages": ADM(**SMALL | {"resblock_updown": True}, ch_mult=(1, 1, 1)),
    "one stage": ADM(**SMALL, ch_mult=(1,), num_res_blocks=3),
    "a classifier": ADMClassifier(
        **SMALL, ch_mult=(1, 1, 1), num_res_blocks=3, conv_resample=False
    ),
}


@pytest.mark.parametrize("case", DIVIDED)
def test_stages_are_told_by_what_resamples(case, monkeypatch):
    net = DIVIDED[case]
    monkeypatch.setattr(adm.torch_file, "read", lambda path: shapes_of(net))
    found = adm.describe(Path("a file")).net
    assert (found["ch_mult"], found["num_res_blocks"]) == (net.ch_mult, net.num_res_blocks)


def test_pools_that_no_published_classifier_has(monkeypatch):
    """Theirs end in a convolution ("adaptive") or in dense layers ("spatial") instead."""
    net = DIVIDED["a classifier"]
    ends = {
        "adaptive": {"out.3.weight": (5, 32, 1, 1)},
        "spatial": {"out.0.weight": (2048, 64), "out.2.weight": (5, 2048)},
    }
    whole = {name: a for name, a in shapes_of(net).items() if not name.startswith("out.")}
    for end in ends.values():
        arrays = {name: np.broadcast_to(np.float32(0), shape) for name, shape in end.items()}
        monkeypatch.setattr(adm.torch_file, "read", lambda path, arrays=arrays: whole | arrays)
        with pytest.raises(ValueError, match=r"is a classifier whose pool is not 'attention'"):
            adm.describe(Path("a file"))


def test_a_network_of_latents(tmp_path):
    """Four channels are no pixels: the examples are real numbers, and no threshold acts."""
    net = ADM(**SMALL, ch_mult=(1, 2))
    torch_zip.save(tmp_path / "latents.pt", shapes_of(net, channels=4))
    config = recipes.get_config(str(tmp_path / "latents.pt"))
    experiment = experiments.build_experiment(config)
    assert experiment.codec.shape == (16, 16, 4)
    assert config.sampling.threshold is None
    published.load(tmp_path / "latents.pt", experiment.model.net, experiment.codec.shape)


def test_a_file_cut_short(files, tmp_path):
    path = tmp_path / "cut.pt"
    path.write_bytes(files("heads").read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"cut\.pt is damaged or is no file of torch\.save"):
        adm.describe(path)


def test_the_recipes_are_the_rows_to_reproduce():
    """Parameters, steps, batch and FID of a row, the docstring and the config."""
    text = (ROOT / "docs/results/reproduce.md").read_text()
    rows = dict(re.findall(r"^\| `configs/adm\.py:(\w+)` \|(.*)\|$", text, re.MULTILINE))
    assert rows.keys() == recipes.RECIPES.keys()
    for name, row in rows.items():
        config = recipes.get_config(name)
        size, steps, batch, rate, fid = (cell.strip() for cell in row.split("|")[:5])
        assert int(steps.replace(",", "")) == config.train.steps
        assert (int(batch), float(rate)) == (config.train.batch_size, config.optim.learning_rate)
        if fid:
            line = re.search(rf"^- {name}: .*", recipes.__doc__, re.MULTILINE)[0]
            for figure in (f" {size} ", f" {steps} steps of {batch},", f" FID {fid}"):
                assert figure in line, figure


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_recipes_are_the_published_networks(name):
    """The whole of a config can be built, and its network is the one of the published file."""
    config = recipes.get_config(name)
    size = config.data.image_size
    experiment = experiments.build_experiment(config, absent(image_size=size, num_classes=1000))
    assert experiment.objective.denoises == ("classifier" not in name)
    known = PUBLISHED.get(f"{size}{' classifier' if 'classifier' in name else ''}")
    if known and "uncond" not in name:
        assert experiment.model.net.clone(dropout=0.0) == known[0]
    sde = experiment.model.sde
    assert (sde.schedule == "cosine") == (size == 64)
    if experiment.objective.denoises:
        assert build("solvers", config.sampling.solver, sde).asks == "moments"
        times = build("sampling.grids", config.sampling.grid, sde, config.sampling.steps)
        assert len(times) == 250


def test_a_config_needs_a_file_or_a_recipe(tmp_path):
    for what in (None, "imagenet65", str(tmp_path / "no.pt"), str(tmp_path)):
        with pytest.raises(ConfigError, match=r"say which file, or which recipe: .*imagenet64"):
            recipes.get_config(what)
