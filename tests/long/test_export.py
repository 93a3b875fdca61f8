"""Mode export: what is written is read back to the last bit, and what cannot be is named."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from configs import diffusers as config_file
from score_sde.errors import CheckpointError, ConfigError
from score_sde.experiment import build, workdirs
from score_sde.modes.export import export
from score_sde.modes.import_ import import_
from score_sde.published import diffusers
from tests.command import main
from tests.modes.test_guided_modes import put, small
from tests.modes.test_train import equal
from tests.published.test_published_dit import SOURCES, config_of
from tests.published_cases import FOLDERS

CASES = ["ho", "tutorial", "velocity", "skip"]


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    root = tmp_path_factory.mktemp("export")
    for case in CASES:
        config = config_file.get_config(str(FOLDERS / case))
        import_(config, root / case, FOLDERS / case)
    return root


@pytest.mark.parametrize("case", CASES)
def test_an_export_is_imported_again_to_the_last_bit(case, imported, tmp_path):
    """Chains with three tables and predictions, and VE with pyramids. The files are those of the
    diffusers folder that the workdir came from, in the words of today's version."""
    config = config_file.get_config(str(FOLDERS / case))
    result = export(config, imported / case, tmp_path / "folder")
    assert result["parameters"] > 10_000
    assert json.loads((imported / case / "export.json").read_text()) == result
    again = config_file.get_config(str(tmp_path / "folder"))
    import_(again, tmp_path / "again", tmp_path / "folder")
    one, other = (
        workdirs.restore(each, place)
        for each, place in ((config, imported / case), (again, tmp_path / "again"))
    )
    equal(one.params, other.params)
    first, second = (diffusers.describe(path) for path in (FOLDERS / case, tmp_path / "folder"))
    assert first._replace(sampling={}, net={}) == second._replace(sampling={}, net={})
    assert {**first.net, "max_groups": 0} == {**second.net, "max_groups": 0}


def test_the_names_and_shapes_are_those_of_diffusers(imported, tmp_path):
    """Every array of the folder that diffusers itself wrote, and no other; with sines first."""
    config = config_file.get_config(str(FOLDERS / "velocity"))
    export(config, imported / "velocity", tmp_path / "folder")
    name = "unet/diffusion_pytorch_model.safetensors"
    theirs, ours = (load_file(path / name) for path in (FOLDERS / "velocity", tmp_path / "folder"))
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items()
    }
    turned = "time_embedding.linear_1.weight"  # theirs has cosines first
    for key, value in ours.items():
        if key == turned:
            value = np.roll(value, value.shape[1] // 2, axis=1)
        np.testing.assert_array_equal(value, theirs[key].astype(np.float32), err_msg=key)
    index = json.loads((tmp_path / "folder" / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DModel"]


def test_a_transformer_is_exported_as_diffusers_wrote_it(tmp_path):
    """Every array and no other, to the last bit.
    The folder makes the same workdir again."""
    theirs = SOURCES["diffusers"]
    config = config_of("diffusers")
    config.net.out_channels = 8  # the whole head
    import_(config, tmp_path / "run", theirs)
    export(config, tmp_path / "run", tmp_path / "folder")
    name = "transformer/diffusion_pytorch_model.safetensors"
    there, here = (load_file(path / name) for path in (theirs, tmp_path / "folder"))
    assert here.keys() == there.keys()
    for key, value in there.items():
        np.testing.assert_array_equal(here[key], value.astype(np.float32), err_msg=key)
    again = config_of("diffusers", tmp_path / "folder")
    again.net.out_channels = 8
    import_(again, tmp_path / "again", tmp_path / "folder")
    for field in ("net", "sde", "parametrization", "c_noise", "data"):
        assert again[field] == config[field], field
    one, other = (workdirs.restore(config, tmp_path / run) for run in ("run", "again"))
    equal(one.params, other.params)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"net.freq_shift": 0}, "DiTTransformer2DModel has no counterpart of net.freq_shift=0 "),
        ({"net.mlp": "swiglu"}, "no counterpart of net.mlp='swiglu'"),
        ({"sde": "Flow(t_max=0.999)"}, "no scheduler for Flow"),
    ],
)
def test_transformers_that_diffusers_does_not_have(changes, message, tmp_path):
    config = config_of("diffusers")
    config.update_from_flattened_dict(changes)
    put(config, tmp_path / "run")
    with pytest.raises(ConfigError, match=message):
        export(config, tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_safetensors_of_any_network(tmp_path):
    config = small(**{"export.format": "safetensors"})
    put(config, tmp_path / "run")
    export(config, tmp_path / "run", tmp_path / "out")
    trained = workdirs.restore(config, tmp_path / "run")
    arrays = load_file(tmp_path / "out" / "model.safetensors")
    truth = {"/".join(path): leaf for path, leaf in flatten_dict(trained.params).items()}
    assert arrays.keys() == truth.keys()
    for key, value in truth.items():
        np.testing.assert_array_equal(arrays[key], value)
    stored = json.loads((tmp_path / "out" / "config.json").read_text())
    assert stored == workdirs.as_json(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"net": {"name": "mlp.MLP"}},
            "networks of class NCSNpp, DiT, .*, and none of MLP: ",
        ),
        (
            {"sde": "VP"},
            r"no scheduler for VP: it has those of DDPM .*export\.format='safetensors'",
        ),
        ({"parametrization": "flow"}, "no scheduler for parametrization=flow on a chain, only for"),
        ({"c_noise": "log_snr"}, "no scheduler for c_noise=log_snr"),
        ({"codec.centered": False}, r"codec.centered is False, .*takes data for \[-1, 1\]"),
        ({"net.resblock": "biggan"}, "has no counterpart of net.resblock='biggan' .* 'ddpm'"),
        ({"net.num_classes": 1}, "has no counterpart of net.num_classes=1 "),
        ({"net.ch_mult": (1, 3)}, None),
        ({"net.min_group_size": 4}, "has no counterpart of net.min_group_size=4"),
        ({"net.input_fourier": (2,)}, r"has no counterpart of net.input_fourier=\(2,\)"),
        (
            {"net.skip_rescale": True},
            r"no such network: unet/config.json: mid_block_scale_factor=1",
        ),
        ({"export.format": "onnx"}, "is 'onnx': one of diffusers, kohya, automatic1111"),
    ],
)
def test_what_diffusers_does_not_have(changes, message, tmp_path):
    config = config_file.get_config(str(FOLDERS / "tutorial"))
    config.data.image_size = 4
    config.net.update(nf=8, max_groups=4, num_res_blocks=1, ch_mult=(1, 1))
    if "net" in changes:
        config.net = changes["net"]
    config.update_from_flattened_dict({k: v for k, v in changes.items() if k != "net"})
    put(config, tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    if message is None:
        export(config, tmp_path / "run", tmp_path / "out")
        return
    with pytest.raises(ConfigError, match=message) as error:
        export(config, tmp_path / "run", tmp_path / "out")
    assert len(str(error.value).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_target_that_is_there_and_a_workdir_that_is_not(imported, tmp_path):
    config = config_file.get_config(str(FOLDERS / "velocity"))
    with pytest.raises(ConfigError, match="is there already: choose another"):
        export(config, imported / "velocity", tmp_path)
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        export(config, tmp_path / "none", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_trained_network_on_the_command_line(imported, tmp_path):
    """And the folder samples like the workdir."""
    target = tmp_path / "folder"
    code, out, err = main(
        *("--mode", "export", "--config", f"configs/diffusers.py:{FOLDERS / 'velocity'}"),
        *("--workdir", str(imported / "velocity"), "--target", str(target)),
    )
    assert code == 0, err
    assert str(target) in out
    config = config_file.get_config(str(FOLDERS / "velocity"))
    model = build.build_model(config_file.get_config(str(target)))
    golden = np.load(FOLDERS / "velocity" / "golden.npz")
    params = workdirs.restore(config, imported / "velocity").params
    x, t = (jnp.asarray(golden[key], jnp.float32) for key in ("x", "t"))
    x_0 = jax.jit(model.denoiser(params))(x, t / (model.sde.num_steps - 1))
    assert np.abs(x_0 - golden["x_0"]).max() < 1e-4 * np.abs(golden["x_0"]).max()


def test_export_needs_a_target(imported):
    code, _, err = main(
        *("--mode", "export", "--config", f"configs/diffusers.py:{FOLDERS / 'velocity'}"),
        *("--workdir", str(imported / "velocity")),
    )
    assert (code, err) == (1, "error: --target is missing: --mode export --target FOLDER\n")
