"""Folders of Stable Diffusion: what they say, and what is refused. What they draw is in
tests/long/test_pipelines.py."""

import functools
import json
import pickle
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import diffusers as config_file
from score_sde import modes
from score_sde.conditioning import tokenizers
from score_sde.conditioning.clip_vocabulary import BEGIN, END
from score_sde.config import build
from score_sde.errors import CheckpointError, ConfigError, DataError
from score_sde.experiment import frozen, requests, trained, workdirs
from score_sde.published import diffusers_vae, stable_diffusion
from tests.pipelines import FOLDERS, loaded, sampling_of

KEY = jax.random.key(0)
SCHEDULERS = json.loads((FOLDERS / "schedulers.json").read_text())


def fields_of(row):
    fields = {**SCHEDULERS["common"], **row["scheduler"]}
    return {key: value for key, value in fields.items() if value is not None}


process = functools.cache(lambda spec: build("processes", spec))


def in_log_noise(sde, times):
    """The steps of the chain at which the noise is that at these times."""
    log_noise = np.log(np.asarray(sde.sigma(times) / sde.alpha(times), np.float64))
    signal = np.cumprod(1 - np.asarray(sde.betas, np.float64))
    return np.interp(log_noise, np.log(1 / signal - 1) / 2, np.arange(len(signal)))


def test_the_steps_of_schedulers():
    """Where diffusers' schedulers call the network, and the noise that they leave, are the grid and
    the end here. With Karras' noise levels they tell the network the nearest whole step, and they
    find a step by linear interpolation in the logarithm of the noise."""
    classes = set()
    for row in SCHEDULERS["rows"]:
        fields = fields_of(row)
        classes.add(fields["_class_name"])
        found = sampling_of(fields, row["calls"])
        sde, sampling = process(found["sde"]), found["sampling"]
        grid = build("sampling.grids", sampling["grid"], sde, sampling["steps"])
        steps, end = np.asarray(grid, np.float64) * 999, 1.0
        if not sampling["denoise"]:
            end = np.prod(1 - sde.betas[: round(steps[-1]) + 1])
        # the last time is none of the steps if no network is called there
        steps = steps[: len(row["steps"])]
        tolerance = 1e-3
        if "use_karras_sigmas" in fields:
            steps, tolerance = in_log_noise(sde, grid[: len(steps)]), 0.5
        np.testing.assert_allclose(steps, row["steps"], atol=tolerance, err_msg=str(row))
        assert end == pytest.approx(row["alpha2"], abs=1e-6), row
    assert len(classes) == 8


def test_what_a_folder_says():
    """The fields of a config, by case: what differs between the versions of Stable Diffusion."""
    for case, wanted in {
        "sd15": ("eps", "pndm(skip_prk=True)", "leading(offset=1, last=0)", 50, False, 7.5),
        "sd21": ("v", "ddim", "leading(offset=1, last=0)", 50, False, 7.5),
        "sdxl": ("eps", "ddim", "leading(offset=1)", 49, True, 5.0),
    }.items():
        config = config_file.get_config(str(FOLDERS / case))
        names = ("solver", "grid", "steps", "denoise", "guidance")
        sampling = [config.sampling[name] for name in names]
        *fields, weight = wanted
        assert [config.parametrization, *sampling] == [
            *fields,
            f"classifier_free(weight={weight})",
        ]
        assert (config.data.name, config.data.image_size) == ("absent", 32)
        sde = build("processes", config.sde)
        assert (sde.beta_min, sde.beta_max, sde.schedule) == (0.85, 12.0, "scaled_linear")
        assert config.codec.workdir == str(FOLDERS / case / "vae")
    assert "zeros=True" in config.conditioner
    assert "sizes=(32.0, 32.0, 0.0, 0.0, 32.0, 32.0)" in config.conditioner


def no_workdir(folder):
    raise AssertionError(folder)


def test_networks_of_published_files():
    """What a codec and a conditioner get of a folder: the digest is that of the parameters; an
    autoencoder states the scale of its latents."""
    for case, scale in (("sd15", 0.18215), ("sdxl", 0.13025)):
        found = frozen.load(str(FOLDERS / case / "vae"), no_workdir)
        assert (found.about["shift"], found.about["scale"]) == (0.0, scale)
        net = diffusers_vae.module_of(FOLDERS / case)
        assert found.module == net
        assert found.digest == trained.digest(found.params)
    _, experiment, _ = loaded("sdxl")
    raw = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    x = 2 * raw.astype(np.float32) / 255 - 1
    moments = jax.jit(lambda p, x: net.apply({"params": p}, x, method="encode"))(found.params, x)
    middle = jax.jit(experiment.codec.middle)(raw)
    np.testing.assert_allclose(middle, 0.13025 * moments[..., :4], rtol=1e-4, atol=1e-5)
    text = frozen.load(str(FOLDERS / "sdxl" / "text_encoder_2"), no_workdir)
    assert text.about == {}
    assert experiment.conditioner.digests["text encoders"] is not None


@pytest.fixture
def folder(tmp_path):
    """A copy of a pipeline."""
    target = tmp_path / "sd15"
    shutil.copytree(FOLDERS / "sd15", target)
    return target


def edited(folder, name, fields):
    path = folder / name
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


class Bomb:
    def __reduce__(self):
        return (pytest.exit, ("a pickle was executed",))


INDEX, UNET = "model_index.json", "unet/config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
REFUSED = [
    (INDEX, {"_class_name": "StableDiffusion3Pipeline"}, "those of U-Nets that read text are St"),
    (INDEX, {"requires_aesthetics_score": True}, "a refiner of XL reads another score"),
    (INDEX, {"text_encoder": [None, None]}, "names no text_encoder"),
    (UNET, {"in_channels": 7}, "in_channels=7 is not supported: the latents have 4 channels. Bes"),
    (UNET, {"in_channels": 3}, "in_channels=3 is not supported: the latents have 4 channels. Bes"),
    (UNET, {"sample_size": [8, 16]}, "sample_size=.8, 16. is not supported: it is one number"),
    ("vae/config.json", {"_class_name": "AutoencoderTiny"}, "only AutoencoderKL can be imported"),
    (
        "scheduler/scheduler_config.json",
        {"_class_name": "EDMEulerScheduler"},
        "is of class 'EDMEulerScheduler'; known are DDPM",
    ),
    (
        "scheduler/scheduler_config.json",
        {"timestep_spacing": "Leading"},
        "timestep_spacing='Leading' is not supported: it is one of leading, linspace, trailing",
    ),
    ("scheduler/scheduler_config.json", {"steps_offset": "1"}, "steps_offset='1' makes no sense"),
]


@pytest.mark.parametrize(("name", "fields", "message"), REFUSED)
def test_folders_that_are_refused(name, fields, message, folder):
    edited(folder, name, fields)
    with pytest.raises(ConfigError, match=message) as caught:
        config_file.get_config(str(folder))
    assert len(str(caught.value).splitlines()) == 1
    assert name.rsplit("/")[-1] in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (INDEX, "has no model_index.json, which says what its parts are"),
        ("vae/config.json", "has no vae/config.json: give the folder of the whole pipeline"),
        ("scheduler/scheduler_config.json", "has no scheduler_config.json, which says what noise"),
    ],
)
def test_missing_files_are_named(name, message, folder):
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=message):
        config_file.get_config(str(folder))


def test_the_size_of_images_may_be_that_of_the_autoencoder(folder):
    edited(folder, UNET, {"sample_size": None})
    assert config_file.get_config(str(folder)).data.image_size == 32
    edited(folder, "vae/config.json", {"sample_size": ...})
    with pytest.raises(ConfigError, match="sample_size=None is not supported: it is one number"):
        config_file.get_config(str(folder))


@pytest.mark.parametrize(("part", "name"), [("vae", WEIGHTS), ("text_encoder", "model.safeten")])
def test_frozen_networks_that_are_missing_or_damaged(part, name, folder):
    """One line each, after the config was made: the folder holds networks of the model."""
    file = next((folder / part).glob("*.safetensors"))
    content = file.read_bytes()
    for damaged, message in (
        (pickle.dumps(Bomb()), "is a pickle and no .safetensors file; nothing in it was executed"),
        (content[:1000], "is damaged or is no .safetensors file"),
    ):
        file.write_bytes(damaged)
        refused(CheckpointError, message, frozen.load, str(folder / part), no_workdir)
    file.unlink()
    message = f"{part} has no weights: none of {name}"
    refused(CheckpointError, message, frozen.load, str(folder / part), no_workdir)
    edited(folder, f"{part}/config.json", {"_class_name": "AutoencoderTiny"})
    message = "is of class 'AutoencoderTiny'; those read are AutoencoderKL, UNet2DConditionModel"
    refused(CheckpointError, message, frozen.load, str(folder / part), no_workdir)
    shutil.rmtree(folder / part)
    message = f"{part} is no folder, and the config names it for a network: put that back"
    refused(CheckpointError, message, frozen.load, str(folder / part), no_workdir)


def test_tokenizers_that_are_missing_or_of_other_vocabularies(folder):
    config = config_file.get_config(str(folder))
    (folder / "tokenizer").rename(folder / "away")
    message = "tokenizer is no folder: a tokenizer is a folder"
    refused(DataError, message, workdirs.load, config)
    (folder / "away").rename(folder / "tokenizer")
    words = json.loads((folder / "tokenizer/vocab.json").read_text())
    words |= {f"more{i}": len(words) + i for i in range(9)}
    (folder / "tokenizer/vocab.json").write_text(json.dumps(words))
    message = r"gives ids up to \d+, and the encoder knows \d+ tokens: take the tokenizer and"
    refused(ConfigError, message, workdirs.load, config)
    # of too few tokens: those after the first are gone
    few = dict(list(words.items())[:300]) | {BEGIN: 300, END: 301}
    (folder / "tokenizer/vocab.json").write_text(json.dumps(few))
    (folder / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    message = "gives ids up to 301, and the encoder knows 554 tokens: take the tokenizer and"
    refused(ConfigError, message, workdirs.load, config)


def test_prompts_in_any_language():
    """Each is a condition of its own, without a warning; nothing is the empty prompt."""
    conditioner = loaded("sd15")[1].conditioner
    texts = ("a red bicycle", "ein rotes Fahrrad", "红色自行车", "красный велосипед", "😀", "")
    raw = conditioner.request(texts)(jax.random.split(KEY, len(texts)), jnp.arange(len(texts)))
    context = np.asarray(jax.jit(conditioner.encode)(raw)["context"])
    assert np.isfinite(context).all()
    apart = np.abs(context[:, None] - context[None]).max((2, 3))
    assert (apart[~np.eye(len(texts), dtype=bool)] > 0.01).all()
    # two programs
    np.testing.assert_allclose(context[-1:], conditioner.nothing["context"], atol=1e-5)


def test_a_prompt_of_10000_characters_is_cut_in_one_line():
    """To the begin, its first 75 tokens, and the end."""
    conditioner, text = loaded("sd15")[1].conditioner, "a red bicycle " * 715
    assert len(text) > 10_000
    with pytest.warns(UserWarning, match="loses its last .* tokens") as told:
        raw = conditioner.request((text,))(jax.random.split(KEY, 1), jnp.arange(1))
    (line,) = (str(warning.message) for warning in told)
    assert len(line.splitlines()) == 1
    assert len(line) < 300
    whole = tokenizers.load(FOLDERS / "sd15/tokenizer", 20_000)([text])[0]
    wanted = [*whole[:76], whole[whole.tolist().index(whole.max())]]
    np.testing.assert_array_equal(raw["token"][0, 0], wanted)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [(3, "3 is no text: prompts are strings"), ("\ud800", "text 0 is no Unicode: character 0 is")],
)
def test_prompts_that_are_no_text(prompt, message):
    config, experiment, _ = loaded("sd15")
    asked = config.copy_and_resolve_references()
    asked.sampling.prompts = (prompt,)
    refused((ConfigError, DataError), message, requests.build_request, asked, experiment)


def test_a_pickle_in_the_place_of_the_network(folder):
    """Mode import reads nothing of it, and makes no workdir."""
    (folder / "unet" / WEIGHTS).write_bytes(pickle.dumps(Bomb()))
    config, target = config_file.get_config(str(folder)), folder / "workdir"
    message = "is a pickle and no .safetensors file; nothing in it was executed"
    refused(CheckpointError, message, modes.function("import"), config, target, folder)
    assert not target.exists()


def refused(kind, message, call, *arguments):
    with pytest.raises(kind, match=message) as caught:
        call(*arguments)
    assert len(str(caught.value).splitlines()) == 1


def test_networks_that_do_not_fit_each_other(folder):
    """The encoder gives other features than those that the U-Net reads."""
    edited(folder, UNET, {"cross_attention_dim": 16})
    config = config_file.get_config(str(folder))
    message = r"net\.context_features is 16, and the data set absent with the conditioner .* has 12"
    refused(ConfigError, message, workdirs.load, config)


def test_fields_that_a_scheduler_lacks_have_the_defaults_of_its_class():
    """Some classes begin with other betas than the rest; a null is as good as nothing."""
    heun = sampling_of({"_class_name": "HeunDiscreteScheduler", "steps_offset": None}, 10)
    assert "beta_min=0.85, beta_max=12.0" in heun["sde"]
    assert heun["sampling"]["solver"] == "dpmpp"
    euler = sampling_of({"_class_name": "EulerDiscreteScheduler"}, 10)
    assert "beta_min=0.1, beta_max=20.0" in euler["sde"]
    wanted = {"solver": "ddim", "grid": "uniform", "steps": 9, "denoise": True}
    assert euler["sampling"] == wanted


def test_a_zero_terminal_snr_takes_no_solver_in_the_noise():
    fields = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    for name, options in (
        ("DEISMultistepScheduler", {}),
        ("PNDMScheduler", {}),
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ):
        found = sampling_of({"_class_name": name, **fields, **options}, 10)
        sde = build("processes", found["sde"])
        assert float(sde.alpha(jnp.asarray(1.0))) == 0
        build("solvers", found["sampling"]["solver"], sde)
        build("sampling.grids", found["sampling"]["grid"], sde, found["sampling"]["steps"])


def test_only_pipelines_of_text_are_read_so():
    assert stable_diffusion.is_pipeline(FOLDERS / "sdxl")
    assert not stable_diffusion.is_pipeline(FOLDERS / "sdxl" / "unet")
    assert not stable_diffusion.is_pipeline(FOLDERS.parent / "diffusers" / "velocity")
