"""From a folder of a ControlNet to a workdir, to samples, and back to a folder."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from configs import diffusers as config_file
from score_sde.errors import CheckpointError, ConfigError
from score_sde.experiment import workdirs
from score_sde.modes.export import export
from score_sde.modes.import_ import import_
from score_sde.modes.sample import sample
from score_sde.nets.controlnet import control_of
from score_sde.published import diffusers_controlnet
from tests.modes.test_train import small
from tests.published_cases import GOLDEN
from tests.stored import arrays

PIPELINE = GOLDEN / "pipelines" / "sd15"
FILE = "diffusion_pytorch_model.safetensors"


def config_of(**changes):
    config = config_file.get_config(str(PIPELINE))
    config.train.ema_rates = (0.9,)
    config.sampling.update(num_samples=2, batch_size=2, steps=2, prompts=("a red cat",))
    config.sampling.update(solver="ddim", grid="uniform", t_min=None)
    config.update_from_flattened_dict(changes)
    return config


def adapter(folder):
    return f"controlnet(workdir={str(folder / 'base')!r})"


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A tiny Stable Diffusion, and a ControlNet over it of random parameters, from a folder."""
    folder = tmp_path_factory.mktemp("imported")
    import_(config_of(), folder / "base", PIPELINE)
    experiment = workdirs.restore(config_of(), folder / "base").experiment
    factor = experiment.codec.inner.shape[0] // experiment.codec.shape[0]
    channels = tuple(range(4, 5 + int(np.log2(factor))))
    control = control_of(experiment.model.net, "picture", hint_channels=channels)
    shapes = diffusers_controlnet.parameter_shapes(control, experiment.codec.shape[-1])
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: 0.3 * rng.normal(size=a.shape).astype(np.float32), shapes)
    diffusers_controlnet.save(folder / "published", control, params)
    config = config_of(adapter=adapter(folder))
    result = import_(config, folder / "control", folder / "published")
    return folder, config, result, params


def drawn(folder, picture, **changes):
    config = config_of(**{"sampling.images": str(picture), **changes})
    workdir = folder / ("control" if config.adapter is not None else "base")
    sample(config, workdir)
    return arrays(workdir / "samples.npz")["samples"]


def test_an_imported_one_acts_in_its_own_workdir_and_over_its_base(imported, tmp_path):
    """With the plain config: its options and its conditioner are those of the workdir."""
    folder, _, result, params = imported
    assert result["kind"] == "diffusers, ControlNetModel"
    assert result["parameters"] == sum(a.size for a in jax.tree.leaves(params))
    size = workdirs.stored_config(folder / "base").data.image_size
    pictures = []
    for name, value in (("black", 0), ("white", 255)):
        pictures.append(tmp_path / f"{name}.png")
        Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(pictures[-1])
    black, white = (drawn(folder, path, adapter=adapter(folder)) for path in pictures)
    assert np.any(black != white)
    over = {"sampling.adapters": (str(folder / "control"),)}
    np.testing.assert_array_equal(drawn(folder, pictures[0], **over), black)


def test_an_exported_folder_is_the_imported_one(imported, tmp_path):
    folder, config, _, _ = imported
    export(config, folder / "control", tmp_path / "out")
    written, theirs = (load_file(f / FILE) for f in (tmp_path / "out", folder / "published"))
    assert set(written) == set(theirs)
    for name, value in theirs.items():
        np.testing.assert_array_equal(written[name], value)
    about = (json.loads((f / "config.json").read_text()) for f in (tmp_path / "out",))
    assert next(about)["_class_name"] == "ControlNetModel"


def test_what_does_not_fit_is_refused_and_nothing_is_written(imported, tmp_path):
    folder, *_ = imported
    for name, change, message in (
        ("class", {"_class_name": "UNet2DConditionModel"}, "only ControlNetModel can be read"),
        ("size", {"cross_attention_dim": 24}, "net.context_features is"),
        ("order", {"controlnet_conditioning_channel_order": "bgr"}, "it is 'rgb'"),
    ):
        changed = tmp_path / name
        shutil.copytree(folder / "published", changed)
        content = json.loads((changed / "config.json").read_text())
        (changed / "config.json").write_text(json.dumps(content | change))
        with pytest.raises(CheckpointError, match=message) as told:
            import_(config_of(adapter=adapter(folder)), tmp_path / f"{name}_workdir", changed)
        assert "\n" not in str(told.value)
        assert not (tmp_path / f"{name}_workdir").exists()
    other = small(adapter=adapter(folder), conditioner="hints(text='labels')")
    with pytest.raises(ConfigError, match="MLP"):
        import_(other, tmp_path / "other", folder / "published")
