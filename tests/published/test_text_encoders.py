"""Folders of transformers with CLIP and T5: encoders give the numbers of those programs."""

import json
import pickle
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from score_sde import published
from score_sde.nets.clip_text import CLIPText
from score_sde.nets.dit import DiT
from score_sde.nets.t5 import T5Encoder, buckets_of
from score_sde.published.text_encoders import clip_modules, load, module_of
from tests.golden.make_text import CLIP, IDS, T5, VISION
from tests.published_cases import GOLDEN
from tests.stored import arrays
from tests.torch_zip import save as save_torch

TEXT = GOLDEN / "text"
CASES = ("clip_quick", "clip_end", "clip_projection", "clip_both", "t5")


def modules(case, folder=None):
    folder = folder or TEXT / case
    return clip_modules(folder) if case == "clip_both" else (module_of(folder),)


def params_of(case):
    return published.load(TEXT / case, modules(case)[0]).params


def states(module, params, ids, *mask):
    ids = jnp.asarray(ids, jnp.int32)
    return jax.jit(module.apply)({"params": params}, ids, *map(jnp.asarray, mask))


def worst(ours, theirs):
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("case", CASES)
def test_encoders_are_those_of_transformers(case):
    """Every parameter is noise, so each reaches the output. One text has a token of a larger id
    than the end's, where the two ways to find the end differ."""
    golden, (module, *_) = arrays(TEXT / case / "states.npz"), modules(case)
    found = states(module, params_of(case), golden["ids"])
    for name in ("hidden", "last", "pooled"):
        if name in golden:
            # T5's logits are large, for they are not divided by sqrt d
            bound = 3e-5 if case == "t5" else 1e-5
            assert worst(getattr(found, name), golden[name]) < bound, name
    assert (found.pooled is None) == (case == "t5")


def test_the_ends_of_texts():
    """The rows of `last` that the two networks take; the golden pooled vectors are these rows."""
    for case, end in (("clip_quick", 4), ("clip_end", 11)):
        golden = arrays(TEXT / case / "states.npz")
        np.testing.assert_array_equal(golden["pooled"][3], golden["last"][3, end])
    assert module_of(TEXT / "clip_quick").eos == 2
    assert module_of(TEXT / "clip_end").eos == IDS - 2


def test_masked_tokens_of_t5():
    golden, module = arrays(TEXT / "t5" / "states.npz"), module_of(TEXT / "t5")
    found = states(module, params_of("t5"), golden["ids"], golden["mask"])
    assert worst(found.last, golden["masked"]) < 3e-5
    assert worst(found.last, golden["last"]) > 0.1


def test_buckets_of_distances():
    golden = arrays(TEXT / "t5" / "states.npz")
    for name, count, most in (("buckets", 32, 128), ("few_buckets", 16, 20)):
        np.testing.assert_array_equal(buckets_of(golden["distances"], count, most), golden[name])


def test_images_of_clip():
    golden, (_, vision) = arrays(TEXT / "clip_both" / "states.npz"), modules("clip_both")
    params = published.load(TEXT / "clip_both", vision).params
    found = jax.jit(vision.apply)({"params": params}, jnp.asarray(golden["images"]))
    assert worst(found.hidden[-1], golden["image_last"]) < 1e-5
    assert worst(found.pooled, golden["image"]) < 1e-5


def test_fields():
    text, vision = modules("clip_both")
    assert text == CLIPText(IDS, 16, 3, 2, 24, 12, "quick_gelu", CLIP["projection_dim"], 2)
    assert (vision.size, vision.patch, vision.width, vision.depth) == (12, 4, 24, 2)
    assert (vision.num_heads, vision.hidden) == (3, VISION["intermediate_size"])
    assert module_of(TEXT / "t5") == T5Encoder(IDS, 16, 3, 2, T5["d_kv"], 20, 16, 20)
    assert module_of(TEXT / "clip_quick").projection == 0


def test_a_config_of_an_old_version(tmp_path):
    """The fields of text_config_dict replace all of text_config."""
    content = json.loads((TEXT / "clip_both" / "config.json").read_text())
    content["text_config_dict"] = {"hidden_size": 20, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(content))
    text, _ = clip_modules(tmp_path)
    assert text == CLIPText(49408, 20, 12, 4, 2048, 77, "quick_gelu", 10, 49407)


# --- kinds of files --------------------------------------------------------------------------


def copy_of(case, tmp_path):
    folder = tmp_path / case
    shutil.copytree(TEXT / case, folder)
    stored = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return folder, stored


def sharded(folder, stored, name="model.safetensors.index.json"):
    names = sorted(stored)
    parts = {f"model-{i + 1:05d}-of-00003.safetensors": names[i::3] for i in range(3)}
    for part, within in parts.items():
        save_file({key: stored[key] for key in within}, folder / part)
    places = {key: part for part, within in parts.items() for key in within}
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def same(folder, case, expected):
    imported = load(folder, modules(case, folder)[0])
    found = flatten_dict(imported.params)
    assert {value.dtype for value in found.values()} == {jnp.dtype("float32")}
    for name, value in flatten_dict(expected).items():
        np.testing.assert_array_equal(found[name], value, str(name))
    return imported


@pytest.mark.parametrize("case", ["clip_quick", "t5"])
def test_kinds_of_files(case, tmp_path):
    expected = params_of(case)
    for index in ("model.safetensors.index.json", "model.safetensors.index.fp16.json"):
        folder, stored = copy_of(case, tmp_path / index)
        sharded(folder, stored, index)
        assert same(folder, case, expected).file.name == index
    folder, stored = copy_of(case, tmp_path / "old")
    save_torch(folder / "pytorch_model.bin", stored)
    assert same(folder, case, expected).file.name == "pytorch_model.bin"


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("model.safetensors", ml_dtypes.bfloat16), ("model.fp16.safetensors", np.float16)],
)
def test_half_precision_becomes_float32(name, dtype, tmp_path):
    folder, stored = copy_of("t5", tmp_path)
    save_file({key: value.astype(dtype) for key, value in stored.items()}, folder / name)
    rounded = jax.tree.map(lambda x: np.asarray(x).astype(dtype).astype("f4"), params_of("t5"))
    assert same(folder, "t5", rounded).file.name == name


def test_names_of_all_versions(tmp_path):
    """With and without a level text_model, with positions and a copy of the table of tokens."""
    expected = params_of("clip_quick")
    folder, stored = copy_of("clip_quick", tmp_path)
    assert not any(name.startswith("text_model.") for name in stored)
    hub = {f"text_model.{name}": value for name, value in stored.items()}
    hub["text_model.embeddings.position_ids"] = np.arange(12)[None]
    save_file(hub, folder / "model.safetensors")
    assert same(folder, "clip_quick", expected).kind == "transformers, CLIPTextModel"
    expected = params_of("t5")
    folder, stored = copy_of("t5", tmp_path)
    stored["encoder.embed_tokens.weight"] = stored["shared.weight"]
    save_file(stored, folder / "model.safetensors")
    same(folder, "t5", expected)
    del stored["shared.weight"]
    save_file(stored, folder / "model.safetensors")
    same(folder, "t5", expected)


# --- what is refused -------------------------------------------------------------------------


def refused(message, call, *arguments):
    with pytest.raises(ValueError, match=message) as found:
        call(*arguments)
    assert len(str(found.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        ("t5", {"architectures": ["BertModel"]}, "is of class 'BertModel': those read are CLIP"),
        ("t5", {"architectures": None}, "is of class None"),
        ("t5", {"feed_forward_proj": "relu"}, "feed_forward_proj='relu' is not supported"),
        ("t5", {"feed_forward_proj": "absent"}, "feed_forward_proj='relu' is not supported"),
        ("t5", {"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon=1e-05 is not supported"),
        ("t5", {"num_layers": 0}, "num_layers=0 is below 1"),
        ("t5", {"d_model": "wide"}, "d_model='wide' makes no sense"),
        ("clip_end", {"num_attention_heads": 3}, "num_attention_heads=3 does not divide 16"),
        ("clip_end", {"hidden_act": "relu"}, "hidden_act is none of quick_gelu, gelu"),
        ("clip_end", {"layer_norm_eps": 1e-6}, "layer_norm_eps=1e-06 is not supported"),
        ("clip_projection", {"projection_dim": -1}, "projection_dim=-1 is not from 0"),
        ("clip_both", {}, "is of class 'CLIPModel'.*clip_modules reads both encoders"),
    ],
)
def test_configs_that_are_refused(case, change, message, tmp_path):
    content = json.loads((TEXT / case / "config.json").read_text()) | change
    content = {key: value for key, value in content.items() if value != "absent"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    refused(message, module_of, tmp_path)


def test_folders_that_are_refused(tmp_path):
    refused("has no config.json: give the folder of an encoder", module_of, tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    refused("give one of its folders text_encoder", module_of, tmp_path)
    (tmp_path / "config.json").write_bytes(pickle.dumps({"architectures": 1}))
    refused("config.json is not valid JSON", module_of, tmp_path)
    refused("is of class 'T5EncoderModel', and not CLIPModel", clip_modules, TEXT / "t5")
    refused("describes no T5Encoder", load, TEXT / "clip_end", T5Encoder())
    wrong = module_of(TEXT / "clip_end").clone(eos=2)
    refused("eos is 2, and 58 there; module_of", load, TEXT / "clip_end", wrong)
    refused("a DiT is read with the shape of an example", published.load, TEXT / "t5", DiT())
    folder, _ = copy_of("t5", tmp_path)
    refused("has no weights: none of model.safetensors,", load, folder, module_of(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("encoder.layers.1.mlp.fc2.bias"),
            r"does not fit the network: encoder.layers.1.mlp.fc2.bias is missing$",
        ),
        (lambda s: s.update(extra=np.ones(2, "f4")), "extra is left over$"),
        (
            lambda s: s.update({"final_layer_norm.bias": np.ones(5, "f4")}),
            r"final_layer_norm.bias has shape \(5,\), not \(16,\)$",
        ),
        (
            lambda s: s.update({"final_layer_norm.bias": np.ones(16, "i4")}),
            "final_layer_norm.bias holds I32, not real numbers$",
        ),
        (
            lambda s: s.update({"text_model.final_layer_norm.bias": np.ones(16, "f4")}),
            "holds final_layer_norm.bias twice",
        ),
        (
            lambda s: s["encoder.layers.2.self_attn.k_proj.bias"].__setitem__(3, np.inf),
            "not finite, the first in encoder.layers.2.self_attn.k_proj.bias$",
        ),
        (
            lambda s: [s.pop(name) for name in list(s) if "layers.2" in name],
            r"(encoder\.layers\.2\.\S+ is missing; ){8}and 8 more$",
        ),
    ],
)
def test_weights_that_are_refused(change, message, tmp_path):
    folder, stored = copy_of("clip_end", tmp_path)
    stored = {name: np.array(value) for name, value in stored.items()}
    change(stored)
    save_file(stored, folder / "model.safetensors")
    refused(message, load, folder, module_of(folder))


def test_damaged_files_are_refused(tmp_path):
    folder, stored = copy_of("t5", tmp_path)
    module, path = module_of(folder), folder / "model.safetensors"
    whole = (TEXT / "t5" / "model.safetensors").read_bytes()
    for content, message in (
        (pickle.dumps(Trap()), "is a pickle and no .safetensors file; nothing in it was executed"),
        (whole[:20_000], "is damaged or is no .safetensors file"),
        (b"", "is damaged or is no .safetensors file"),
        (b"\xff" * 8 + b"{}", "is damaged or is no .safetensors file"),
    ):
        path.write_bytes(content)
        refused(message, load, folder, module)
    path.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    refused("is refused: it names _pytest.* and only tensors", load, folder, module)
    (folder / "pytorch_model.bin").unlink()
    save_file(stored | {"encoder.embed_tokens.weight": stored["shared.weight"] + 1}, path)
    refused("two tables of tokens, which differ", load, folder, module)
    path.unlink()
    sharded(folder, stored)
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    for change, message in (
        ({}, None),
        ({"shared.weight": "../t5/model.safetensors"}, "which is no file of its folder"),
        ({"shared.weight": "other.safetensors"}, "names other.safetensors, which is not there"),
        ({"extra": places["shared.weight"]}, "holds extra, and it does not"),
    ):
        index.write_text(json.dumps({"weight_map": places | change}))
        if message:
            refused(message, load, folder, module)
        else:
            load(folder, module)
    index.write_text("{}")
    refused("does not say which file holds which array", load, folder, module)


class Trap:
    """What a pickle must never do."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was executed",)


def test_the_trap_works():
    with pytest.raises(pytest.fail.Exception, match="was executed"):
        pickle.loads(pickle.dumps(Trap()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dropout": 1.0}, r"unet/config\.json: dropout=1\.0 is not"),
        ({"_class_name": ["a"]}, r"unet/config\.json is of class \['a'\]"),
        ({"down_block_types": ["a\nb"] * 3}, r"unet/config\.json"),
    ],
)
def test_what_a_network_refuses_names_the_file(change, message, tmp_path):
    content = json.loads((GOLDEN / "pipelines/sd15/unet/config.json").read_text())
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps(content | change))
    with pytest.raises(ValueError, match=message) as error:
        published.module_of(tmp_path / "unet")
    assert "\n" not in str(error.value)
