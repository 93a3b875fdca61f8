"""From a file of LoRA to a workdir, to samples of several at once, and back to a file."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from configs import diffusers as config_file
from score_sde.errors import CheckpointError, ConfigError
from score_sde.experiment import workdirs
from score_sde.experiment.requests import build_request
from score_sde.modes.export import export
from score_sde.modes.import_ import import_
from score_sde.published import lora
from tests.golden import make_words
from tests.modes.test_train import small
from tests.published_cases import GOLDEN
from tests.stored import arrays

FILES, WORDS = GOLDEN / "adapters", GOLDEN / "words"


def config_of(**changes):
    config = config_file.get_config(str(GOLDEN / "pipelines" / "sd15"))
    config.train.ema_rates = (0.9,)
    config.update_from_flattened_dict(changes)
    return config


def adapter(folder):
    return f"lora(workdir={str(folder / 'base')!r})"


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A tiny Stable Diffusion and two LoRAs of it, imported as a user does."""
    folder = tmp_path_factory.mktemp("imported")
    import_(config_of(), folder / "base", GOLDEN / "pipelines" / "sd15")
    results = {}
    for name in ("sd15_attention", "sd15_mixed_kohya"):
        config = config_of(adapter=adapter(folder))
        results[name] = import_(config, folder / name, FILES / f"{name}.safetensors")
        stored = json.loads((folder / name / "config.json").read_text())["adapter"]
        assert stored == config.adapter  # so that the next mode of one command has it
    return folder, results


def test_two_imported_files_over_their_base_give_what_diffusers_gives(imported):
    folder, results = imported
    names, weights = ("sd15_attention", "sd15_mixed_kohya"), (0.7, -0.4)
    config = config_of()
    config.sampling.adapters = tuple(str(folder / name) for name in names)
    config.sampling.adapter_weights = weights
    trained = workdirs.restore(config, folder / "base")
    found = arrays(FILES / "outputs.npz")
    x, noise, context = (found[f"{name}_sd15"] for name in ("x", "noise", "context"))
    net = trained.experiment.model.net
    given = map(jnp.asarray, (x.transpose(0, 2, 3, 1), noise))
    cond = {"context": jnp.asarray(context)}
    out = jax.jit(lambda params: net.apply({"params": params}, *given, cond))(trained.params)
    wanted = found["sd15_two"]
    assert np.abs(out - wanted).max() < 1e-4 * np.abs(wanted).max()
    for name, result in results.items():  # the small tree alone
        content = load_file(FILES / f"{name}.safetensors")
        halves = sum(value.size for key, value in content.items() if "weight" in key)
        assert (result["kind"], result["parameters"], result["step"]) == ("LoRA", halves, 0)
    base = json.loads((folder / "base" / "import.json").read_text())
    assert results["sd15_attention"]["parameters"] < base["parameters"] / 8


def test_a_workdir_reads_words_of_files(imported):
    """Beside an adapter, and through the request of mode `sample`."""
    folder, _ = imported
    words = tuple(str(WORDS / f"{name}.safetensors") for name in ("cat-toy", "lines"))
    config = config_of()
    config.sampling.update(words=words, adapters=(str(folder / "sd15_attention"),))
    config.sampling.prompts = tuple(make_words.PROMPTS)
    trained = workdirs.restore(config, folder / "base")
    # in the workdir of the adapter it is the same network
    config.sampling.adapters = ()
    config.adapter = workdirs.stored_config(folder / "sd15_attention").adapter
    own = workdirs.restore(config, folder / "sd15_attention")
    x, context = jnp.ones((1, *own.experiment.codec.shape)), jnp.ones((1, 77, 12))
    values = [
        jax.jit(each.experiment.objective.result(each.params, {"context": context}))(x, 0.5)
        for each in (trained, own)
    ]
    np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-5)
    experiment = own.experiment
    request = build_request(config, experiment)
    numbers = jnp.arange(len(make_words.PROMPTS))
    raw = request(jax.random.split(jax.random.key(0), len(make_words.PROMPTS)), numbers)
    found = experiment.conditioner.encode(raw)["context"][:, :16]
    wanted = arrays(WORDS / "outputs.npz")["sd15"]
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_an_exported_file_is_the_imported_one(imported, tmp_path):
    folder, _ = imported
    workdir = folder / "sd15_mixed_kohya"
    config = config_of(adapter=workdirs.stored_config(workdir).adapter)
    config.export.format = "kohya"
    export(config, workdir, tmp_path / "kohya")
    ours = load_file(tmp_path / "kohya" / lora.FORMATS["kohya"])
    theirs = load_file(FILES / "sd15_mixed_kohya.safetensors")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)
    config.export.format = "diffusers"
    export(config, workdir, tmp_path / "diffusers")
    assert [path.name for path in (tmp_path / "diffusers").iterdir()] == [lora.FORMATS["diffusers"]]
    # the whole network, with the change in it
    whole = config_of(**{"export.format": "safetensors"})
    whole.sampling.adapters = (str(workdir),)
    export(whole, folder / "base", tmp_path / "whole")
    merged = workdirs.restore(config, workdir).whole["conv_in"]["kernel"]
    found = load_file(tmp_path / "whole" / "model.safetensors")["conv_in/kernel"]
    np.testing.assert_allclose(found, merged, rtol=1e-6, atol=1e-6)


def refused(kind, message, call, *arguments):
    with pytest.raises(kind, match=message) as caught:
        call(*arguments)
    assert len(str(caught.value).splitlines()) == 1


def test_what_does_not_fit_is_refused_and_nothing_is_written(imported, tmp_path):
    folder, _ = imported
    new, config = tmp_path / "new", config_of(adapter=adapter(folder))
    content = load_file(FILES / "sd15_attention.safetensors")
    name = next(iter(content))
    save_file(content | {name: content[name] * np.nan}, tmp_path / "nan.safetensors")
    for source, message in (
        (FILES / "sdxl_mixed.safetensors", "is no part of a LoRA of its layers"),
        (tmp_path / "none.safetensors", "none.safetensors does not exist"),
        (tmp_path / "nan.safetensors", "has weights that are not finite"),
    ):
        refused(CheckpointError, message, import_, config, new, source)
        assert not new.exists()
    source, call = FILES / "sd15_attention.safetensors", f"full(workdir={str(folder / 'base')!r})"
    refused(ConfigError, "makes a LoRA of a file", import_, config_of(adapter=call), new, source)
    away = config_of(adapter=adapter(tmp_path))
    refused(CheckpointError, "base has no checkpoint", import_, away, new, source)
    assert not new.exists()
    for fields, message in (
        ({"export.format": "kohya"}, "'kohya' writes a LoRA, and config.adapter is none"),
        ({"export.format": "lora"}, "export.format is 'lora': one of diffusers, kohya"),
    ):
        refused(ConfigError, message, export, config_of(**fields), folder / "base", new)
        assert not new.exists()
    other = small(adapter=config.adapter)  # another family
    refused(ConfigError, "base holds another model", import_, other, new, source)


TEXT = FILES / "text"
PROMPTS = ["a red bicycle", "the cat's blue hat!", ""]


@pytest.fixture(scope="module")
def with_text(imported):
    """The workdir of the base, and those of two files that change its text encoder too."""
    folder, _ = imported
    for name in ("sd15_mixed", "sd15_plain_kohya"):
        source = TEXT / f"{name}.safetensors"
        import_(config_of(adapter=adapter(folder)), folder / f"text_{name}", source)
    return folder


def states_of(trained):
    """What the U-Net reads of PROMPTS."""
    conditioner = trained.experiment.conditioner
    raw = conditioner.read({"caption": PROMPTS})
    return conditioner.encode({"token": raw["token"][:, None]})["context"]


def assert_is(found, name):
    wanted = arrays(TEXT / "outputs.npz")[name]
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_imported_files_change_the_text_encoder(with_text):
    """One alone, in its own workdir, and two at once over their base; the base stays."""
    own = with_text / "text_sd15_mixed"
    assert_is(states_of(workdirs.restore(config_of(adapter=adapter(with_text)), own)), "sd15_mixed")
    config = config_of()
    assert_is(states_of(workdirs.restore(config, with_text / "base")), "sd15")
    names = ("text_sd15_mixed", "text_sd15_plain_kohya")
    config.sampling.adapters = tuple(str(with_text / name) for name in names)
    config.sampling.adapter_weights = (0.7, -0.4)
    trained = workdirs.restore(config, with_text / "base")
    assert_is(states_of(trained), "sd15_two")
    # guidance leads away from what the changed encoder makes of the empty prompt
    nothing = trained.experiment.conditioner.nothing["context"]
    np.testing.assert_allclose(nothing, states_of(trained)[2:], rtol=1e-4, atol=1e-4)
    # one that leaves the encoder as it is may be among them
    config.sampling.adapters += (str(with_text / "sd15_attention"),)
    config.sampling.adapter_weights += (0.5,)
    assert_is(states_of(workdirs.restore(config, with_text / "base")), "sd15_two")


def test_the_text_encoder_of_an_exported_file_is_the_imported_one(with_text, tmp_path):
    workdir = with_text / "text_sd15_plain_kohya"
    config = workdirs.stored_config(workdir)
    config.export.format = "kohya"
    export(config, workdir, tmp_path / "kohya")
    ours = load_file(tmp_path / "kohya" / lora.FORMATS["kohya"])
    theirs = load_file(TEXT / "sd15_plain_kohya.safetensors")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)


def test_changes_of_another_text_encoder_are_refused(with_text, tmp_path):
    shutil.copytree(with_text / "text_sd15_mixed", tmp_path / "moved")
    changed = tmp_path / "moved" / "text_encoder"
    other = GOLDEN / "pipelines" / "sdxl" / "text_encoder"
    spec = json.loads((changed / "adapter_config.json").read_text())
    spec["base_model_name_or_path"] = str(other)
    (changed / "adapter_config.json").write_text(json.dumps(spec))
    config = config_of()
    config.sampling.adapters = (str(tmp_path / "moved"),)
    stored = json.loads((tmp_path / "moved" / "config.json").read_text())
    text = stored["conditioner"].replace(str(with_text / "text_sd15_mixed"), str(changed.parent))
    (tmp_path / "moved" / "config.json").write_text(json.dumps({**stored, "conditioner": text}))
    refused(
        ConfigError,
        "moved was trained with another text encoders",
        workdirs.restore,
        config,
        with_text / "base",
    )


def test_numbers_of_a_text_encoder_that_are_not_finite_are_refused(with_text, tmp_path):
    content = load_file(TEXT / "sd15_plain.safetensors")
    name = next(name for name in content if name.startswith("text_encoder."))
    save_file(content | {name: content[name] * np.nan}, tmp_path / "nan.safetensors")
    config, new = config_of(adapter=adapter(with_text)), tmp_path / "new"
    refused(CheckpointError, "not finite", import_, config, new, tmp_path / "nan.safetensors")
    assert not new.exists()
