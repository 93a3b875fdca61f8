"""LoRA of text encoders in files of diffusers and kohya's sd-scripts: what encoders then give."""

import functools
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from score_sde import published
from score_sde.conditioning import tokenizers
from score_sde.models import adapters, low_rank
from score_sde.published import diffusers_unet, lora, lora_text, text_encoders
from tests.published_cases import GOLDEN
from tests.stored import arrays

FILES = GOLDEN / "adapters" / "text"
OUTPUTS = arrays(FILES / "outputs.npz")
PROMPTS = ["a red bicycle", "the cat's blue hat!", ""]
CASES = ("sd15_mixed", "sd15_plain", "sd15_dora", "sdxl_mixed")


@functools.cache
def networks(base):
    """The U-Net, its kernels, the text encoders, their parameters, and the states that the U-Net
    reads, by parameters of all encoders."""
    folder = GOLDEN / "pipelines" / base
    net = diffusers_unet.module_of(folder)
    kernels = low_rank.kernels_of(diffusers_unet.load(folder, net).params)
    suffixes = ("",) if base == "sd15" else ("", "_2")
    folders = [folder / f"text_encoder{suffix}" for suffix in suffixes]
    modules = tuple(map(text_encoders.module_of, folders))
    params = [text_encoders.load(*both).params for both in zip(folders, modules, strict=True)]
    read = [tokenizers.load(folder / f"tokenizer{suffix}")(PROMPTS) for suffix in suffixes]

    @jax.jit
    def states(params):
        found: Any = [
            module.apply({"params": p}, jnp.asarray(ids))
            for module, p, ids in zip(modules, params, read, strict=True)
        ]
        if base == "sd15":
            return found[0].last, None
        return jnp.concatenate([each.hidden[-2] for each in found], axis=-1), found[1].pooled

    return net, kernels, modules, params, states


def read(path, base):
    net, kernels, modules, *_ = networks(base)
    return published.load_lora(path, net, kernels, modules)


def merged(found, base):
    _, _, modules, params, _ = networks(base)
    return [lora_text.merge(*each) for each in zip(modules, params, found.encoders, strict=True)]


def assert_is(found, name):
    wanted = OUTPUTS[name]
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("ending", ["", "_kohya"])
@pytest.mark.parametrize("case", CASES)
def test_encoders_with_a_file_give_what_peft_gives(case, ending):
    """Attention and perceptrons; ranks and alphas that differ from block to block; norms."""
    base = case[:4]
    found = read(FILES / f"{case}{ending}.safetensors", base)
    states, pooled = networks(base)[-1](merged(found, base))
    assert_is(states, case)
    if pooled is not None:
        assert_is(pooled, f"{case}_pooled")
    assert (found.left_out, bool(found.factors)) == (0, True)
    plain = OUTPUTS[base]  # the change is no small one
    assert np.abs(OUTPUTS[case] - plain).max() > 0.3 * np.abs(plain).max()


def test_two_files_at_once():
    *_, params, states = networks("sd15")
    changed = params
    for case, weight in (("sd15_mixed", 0.7), ("sd15_plain", -0.4)):
        each = merged(read(FILES / f"{case}.safetensors", "sd15"), "sd15")
        changed = adapters.add_change(changed, params, each, weight)
    assert_is(states(changed)[0], "sd15_two")


@pytest.mark.parametrize("form", lora.FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_a_written_file_is_theirs(case, form, tmp_path):
    base = case[:4]
    net, kernels, *_ = networks(base)
    theirs = FILES / (f"{case}_kohya.safetensors" if form == "kohya" else f"{case}.safetensors")
    given = read(theirs, base)
    published.save_lora(tmp_path, net, kernels, given.factors, form, given.encoders)
    ours, wanted = load_file(tmp_path / lora.FORMATS[form]), load_file(theirs)
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in wanted.items()}
    for name, value in wanted.items():
        if form == "kohya" or "lora_A" in name or "magnitude" in name:
            np.testing.assert_array_equal(ours[name], value, err_msg=name)
    states, _ = networks(base)[-1](merged(read(tmp_path, base), base))
    assert_is(states, case)


def test_a_folder_of_peft_holds_the_same(tmp_path):
    (module,), base = networks("sd15")[2], tmp_path / "base"
    for case in ("sd15_mixed", "sd15_dora"):
        (factors,) = read(FILES / f"{case}.safetensors", "sd15").encoders
        lora_text.write(tmp_path / case, factors, str(base))
        assert lora_text.base_of(tmp_path / case) == str(base)
        back = lora_text.read(tmp_path / case, module)
        jax.tree.map(np.testing.assert_array_equal, back, factors)


@pytest.mark.parametrize("dora", [False, True])
def test_a_trained_lora_has_the_names_of_transformers(dora):
    """Our blocks are stacked; merged layer by layer it is what it is in training."""
    module, params = networks("sd15")[2][0], networks("sd15")[3][0]
    adapter = adapters.lora("base", rank=2, alpha=3.0, layers="[qv]$|mlp", dora=dora)
    rng = np.random.default_rng(0)
    delta = jax.tree.map(
        lambda a: rng.normal(0, 0.3, a.shape).astype(np.float32),
        jax.eval_shape(adapter.init, jax.random.key(0), params),
    )
    found = lora_text.named(module, adapter.factors(params, delta))
    assert len(found) == 4 * module.depth
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        lora_text.merge(module, params, found),
        adapter.merge(params, delta),
    )


def test_older_names_of_diffusers(tmp_path):
    """Those of its training script, and those of the processors of attention."""
    content = load_file(FILES / "sd15_plain.safetensors")
    halves = {"A": "down", "B": "up"}

    def layer(found):
        return f"lora_linear_layer.{halves[found[1]]}"

    def processor(found):
        return f"to_{found[1]}_lora.{halves[found[2]]}"

    for pattern, new in ((r"lora_([AB])(?=\.)", layer), (r"(q|v)_proj\.lora_([AB])", processor)):
        renamed = {
            re.sub(pattern, new, k) if k.startswith("text") else k: v for k, v in content.items()
        }
        assert not any("lora_A" in k for k in renamed if k.startswith("text"))
        save_file(renamed, tmp_path / "old.safetensors")
        found = read(tmp_path / "old.safetensors", "sd15")
        assert_is(networks("sd15")[-1](merged(found, "sd15"))[0], "sd15_plain")


LAYER = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
THEIRS = r"encoder\.layers\.0\.self_attn\.q_proj"
WRONG = [
    ("lora_up.weight", None, f"{THEIRS} has no up half"),
    ("lora_down.weight", np.ones((2, 9)), rf"{THEIRS} has a down half of shape \(2, 9\)"),
    ("alpha", np.array(np.inf), f"{THEIRS} has an alpha that is no positive number"),
    ("lora_mid.weight", np.ones((2, 2)), f"{LAYER}.lora_mid.weight is no part of a LoRA"),
]


@pytest.mark.parametrize(("part", "value", "message"), WRONG)
def test_files_that_do_not_fit_are_refused(part, value, message, tmp_path):
    content = load_file(FILES / "sd15_plain_kohya.safetensors")
    content[f"{LAYER}.{part}"] = np.asarray(0 if value is None else value, np.float32)
    if value is None:
        del content[f"{LAYER}.{part}"]
    refused(content, message, tmp_path)


def test_layers_that_no_encoder_has_are_refused(tmp_path):
    content = load_file(FILES / "sd15_plain_kohya.safetensors")
    renamed = {k.replace("layers_1_", "layers_7_"): v for k, v in content.items()}
    refused(renamed, "layers_7_.* is no part of a LoRA of its layers", tmp_path)


def refused(content, message, folder):
    save_file(content, folder / "file.safetensors")
    with pytest.raises(ValueError, match=message) as caught:
        read(folder / "file.safetensors", "sd15")
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_without_a_base_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2}))
    assert lora_text.is_change(tmp_path)
    with pytest.raises(ValueError, match="has no base_model_name_or_path"):
        lora_text.base_of(tmp_path)
