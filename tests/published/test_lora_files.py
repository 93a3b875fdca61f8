"""Files of LoRA of diffusers, peft and kohya's sd-scripts: their numbers, from tiny networks."""

import functools
import json
import pickle
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from score_sde import published
from score_sde.config import build
from score_sde.models import adapters, low_rank
from score_sde.nets.mlp import MLP
from score_sde.published import diffusers_unet, lora
from tests.published_cases import GOLDEN
from tests.stored import arrays

FILES = GOLDEN / "adapters"
KEY = jax.random.key(0)
OUTPUTS = arrays(FILES / "outputs.npz")
# The file, and the case whose output is its.
CASES = {
    "sd15_attention.safetensors": "sd15_attention",
    "sd15_attention_kohya.safetensors": "sd15_attention",
    "sd15_old.safetensors": "sd15_attention",
    "sd15_mixed.safetensors": "sd15_mixed",
    "sd15_mixed_kohya.safetensors": "sd15_mixed",
    "sd15_peft": "sd15_mixed",
    "sd15_rslora.safetensors": "sd15_rslora",
    "sd15_dora.safetensors": "sd15_dora",
    "sd15_dora_kohya.safetensors": "sd15_dora",
    "sdxl_mixed.safetensors": "sdxl_mixed",
    "sdxl_mixed_kohya.safetensors": "sdxl_mixed",
}


@functools.cache
def network(base):
    """A U-Net, its parameters, and its output by parameters."""
    folder = GOLDEN / "pipelines" / base
    net = diffusers_unet.module_of(folder)
    x = OUTPUTS[f"x_{base}"].transpose(0, 2, 3, 1)
    cond = {"context": OUTPUTS[f"context_{base}"]}
    if base == "sdxl":
        cond |= {"vector": OUTPUTS["vector_sdxl"], "sizes": OUTPUTS["sizes_sdxl"]}
    given = jax.tree.map(jnp.asarray, (x, OUTPUTS[f"noise_{base}"], cond))
    output = jax.jit(lambda params: net.apply({"params": params}, *given))
    return net, diffusers_unet.load(folder, net).params, output


def read(path, base):
    net, params, _ = network(base)
    return published.load_lora(path, net, low_rank.kernels_of(params))


def merged(path, base):
    """The parameters with a file's LoRA, by the adapter that the config would name."""
    _, params, _ = network(base)
    kernels, found = low_rank.kernels_of(params), read(path, base)
    adapter = build("models.adapters", low_rank.spec_of("base", kernels, found.factors))
    return adapter.merge(params, low_rank.delta_of(kernels, found.factors))


def assert_is(found, case):
    wanted = OUTPUTS[case]
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("file", CASES)
def test_a_network_with_a_file_gives_what_peft_gives(file):
    """Attention, perceptrons, convolutions and embeddings; ranks and alphas of each layer; norms;
    all the ways to name a layer."""
    base = file[:4]
    _, _, output = network(base)
    assert_is(output(merged(FILES / file, base)), CASES[file])
    plain = OUTPUTS[base]  # the change is no small one
    assert np.abs(OUTPUTS[CASES[file]] - plain).max() > 0.3 * np.abs(plain).max()


def test_two_files_at_once_are_two_adapters_of_diffusers():
    _, base, output = network("sd15")
    params = base
    for file, weight in (("sd15_attention", 0.7), ("sd15_mixed", -0.4)):
        changed = merged(FILES / f"{file}.safetensors", "sd15")
        params = adapters.add_change(params, base, changed, weight)
    assert_is(output(params), "sd15_two")


@pytest.mark.parametrize("form", lora.FORMATS)
@pytest.mark.parametrize("case", ["sd15_mixed", "sd15_dora", "sdxl_mixed"])
def test_a_written_file_is_theirs(case, form, tmp_path):
    """The names and shapes are those of their file, and so is the product of the halves; alpha is
    kept, or in the halves where diffusers reads none."""
    base = case[:4]
    theirs = FILES / (f"{case}_kohya.safetensors" if form == "kohya" else f"{case}.safetensors")
    net, params, _ = network(base)
    kernels, factors = low_rank.kernels_of(params), read(theirs, base).factors
    published.save_lora(tmp_path, net, kernels, factors, form)
    ours, wanted = load_file(tmp_path / lora.FORMATS[form]), load_file(theirs)
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in wanted.items()}
    for name, value in wanted.items():
        if form == "kohya" or "lora_A" in name or "magnitude" in name:
            np.testing.assert_array_equal(ours[name], value, err_msg=name)
    back = read(tmp_path, base).factors
    assert back.keys() == factors.keys()
    for layer, (a, b, alpha, _) in factors.items():
        other, rank = back[layer], a.shape[-1]
        assert other.alpha == (alpha if form == "kohya" else rank)
        scale = other.alpha / other.a.shape[-1]
        np.testing.assert_allclose(
            scale * (other.a @ other.b), alpha / rank * (a @ b), rtol=1e-5, atol=1e-6
        )


def test_layers_of_text_encoders_that_are_not_there_are_counted(tmp_path):
    content = load_file(FILES / "sd15_attention_kohya.safetensors")
    for layer in ("0_self_attn_q_proj", "1_mlp_fc1"):
        stem = f"lora_te_text_model_encoder_layers_{layer}"
        content[f"{stem}.lora_down.weight"] = np.ones((4, 12), np.float32)
        content[f"{stem}.lora_up.weight"] = np.ones((12, 4), np.float32)
        content[f"{stem}.alpha"] = np.array(4, np.float32)
    save_file(content, tmp_path / "both.safetensors")
    found = read(tmp_path / "both.safetensors", "sd15")
    assert (found.left_out, len(found.factors), found.encoders) == (2, 32, ())
    save_file({k: v for k, v in content.items() if "_te_" in k}, tmp_path / "text.safetensors")
    refused(tmp_path / "text.safetensors", "has no LoRA of the U-Net, but of text encoders alone")


def refused(path, message, base="sd15"):
    with pytest.raises(ValueError, match=message) as caught:
        read(path, base)
    assert len(str(caught.value).splitlines()) == 1


class Bomb:
    def __reduce__(self):
        return (pytest.exit, ("a pickle was executed",))


LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
THEIRS = r"mid_block\.attentions\.0\.transformer_blocks\.0\.attn1\.to_q"
WRONG = [  # of that layer
    ("lora_up.weight", None, "has no up half"),
    ("lora_down.weight", None, "has no down half"),
    ("lora_down.weight", np.ones((4, 9)), r"has a down half of shape \(4, 9\)"),
    ("lora_up.weight", np.ones((16, 3)), r"has an up half of shape \(16, 3\)"),
    ("alpha", np.array(np.nan), "has an alpha that is no positive number"),
    ("alpha", np.ones(3), "has an alpha that is no positive number"),
    ("dora_scale", np.ones((1, 16)), r"has norms of shape \(1, 16\), and those of its 16 outputs"),
    ("lora_mid.weight", np.ones((4, 4, 3, 3)), "is no part of a LoRA of its layers"),
    ("hada_w1_a", np.ones((4, 4)), "is no part of a LoRA of its layers"),
    ("other.lora_up.weight", np.ones((4, 4)), "is no part of a LoRA of its layers"),
]


@pytest.mark.parametrize(("part", "value", "message"), WRONG)
def test_files_that_do_not_fit_are_refused(part, value, message, tmp_path):
    content = load_file(FILES / "sd15_attention_kohya.safetensors")
    content[f"{LAYER}.{part}"] = np.float32(0) if value is None else value.astype(np.float32)
    if value is None:
        del content[f"{LAYER}.{part}"]
    save_file(content, tmp_path / "file.safetensors")
    refused(tmp_path / "file.safetensors", f"({THEIRS}|{LAYER}.{part}) {message}")


def test_files_that_are_none_are_refused(tmp_path):
    path, whole = tmp_path / "file.safetensors", FILES / "sd15_mixed.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    refused(path, "is a pickle and no .safetensors file; nothing in it was executed")
    path.write_bytes(whole.read_bytes()[:5000])
    refused(path, "is damaged or is no .safetensors file")
    content = load_file(FILES / "sd15_attention_kohya.safetensors")
    save_file({k: v.astype(np.int32) for k, v in content.items()}, path)
    refused(path, "holds int32, not real numbers")
    refused(FILES / "sdxl_mixed.safetensors", "is no part of a LoRA of its layers")  # another net
    refused(tmp_path / "..", "give the file of the LoRA")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.safetensors", "sd15")
    with pytest.raises(ValueError, match=r"over U-Nets of Stable Diffusion, .* not over a MLP"):
        published.load_lora(whole, MLP(), {})


def test_what_peft_tells_is_checked(tmp_path):
    """The alphas in the head of a file, and in the config beside it."""
    whole = FILES / "sd15_mixed.safetensors"
    with safe_open(whole, framework="np") as opened:
        told = json.loads(opened.metadata()["lora_adapter_metadata"])
    path, content = tmp_path / "file.safetensors", load_file(whole)
    for changes, message in (
        ({"unet.lora_alpha": -1}, "has an alpha that is no positive number"),
        ({"unet.alpha_pattern": {"to_q": "1"}}, "has an alpha that is no positive number"),
        ({"unet.alpha_pattern": {"(": 1.0}}, r"has the pattern '\(', which cannot be read"),
        ({"unet.alpha_pattern": {"(.*)*_": 1.0}}, r"has the pattern '\(\.\*\)\*_', which cannot"),
        ({"unet.peft_type": "LOHA"}, "is of the kind 'LOHA', and not LORA"),
    ):
        save_file(content, path, {"lora_adapter_metadata": json.dumps(told | changes)})
        refused(path, message)
    for text in ("{", "[1]", "[" * 100_000):
        save_file(content, path, {"lora_adapter_metadata": text})
        refused(path, "has lora_adapter_metadata that cannot be read")
    shutil.copytree(FILES / "sd15_peft", tmp_path / "peft")
    (tmp_path / "peft" / "adapter_config.json").write_text('{"r": 3}')
    refused(tmp_path / "peft", "has an alpha that is no positive number")


def test_a_file_of_16_bits(tmp_path):
    content = load_file(FILES / "sd15_attention.safetensors")
    save_file({k: v.astype(np.float16) for k, v in content.items()}, tmp_path / "half.safetensors")
    ours = read(tmp_path / "half.safetensors", "sd15").factors
    for layer, (a, b, *_) in read(FILES / "sd15_attention.safetensors", "sd15").factors.items():
        for found, wanted in ((ours[layer].a, a), (ours[layer].b, b)):
            assert found.dtype == jnp.float32
            np.testing.assert_allclose(found, wanted, rtol=2**-11, atol=1e-7)


def test_patterns_of_the_guide():
    """docs/guides/adapters.md: attention, as in the file of attention; perceptrons; the rest."""
    _, params, _ = network("sd15")
    attention = set(read(FILES / "sd15_attention.safetensors", "sd15").factors)
    found = {
        pattern: {
            path[:-1]
            for path in flatten_dict(adapters.lora("b", layers=pattern).init(KEY, params))
            if path[-1] == "a"
        }
        for pattern in ("attention/", "mlp_", "conv|shortcut|proj_")
    }
    assert found["attention/"] == attention
    assert {path[-1] for path in found["mlp_"]} == {"mlp_in", "mlp_out"}
    wanted = {k for k, v in low_rank.kernels_of(params).items() if v.ndim == 4}
    assert found["conv|shortcut|proj_"] == wanted


def test_every_kernel_has_one_name_of_each_kind():
    for base in ("sd15", "sdxl"):
        net, params, _ = network(base)
        kernels = [path[:-1] for path in flatten_dict(params) if path[-1] == "kernel"]
        theirs = lora.layers_of(net, kernels)
        names = [name for layer in theirs for name in set(lora.kohya_names(net, layer))]
        assert len(theirs) == len(kernels)
        assert len(set(names)) == len(names)
