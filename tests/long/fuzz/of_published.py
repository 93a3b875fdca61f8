"""Readers of other people's networks, tokenizers and words."""

import functools
import json
import shutil

import numpy as np
from flax.serialization import msgpack_serialize
from safetensors.numpy import save_file

from score_sde import published
from score_sde.conditioning import tokenizers
from score_sde.models.low_rank import kernels_of
from score_sde.published import (
    diffusers,
    diffusers_unet,
    edm_pickle,
    jax_2021,
    lora_text,
    stable_diffusion,
    textual_inversion,
    torch_file,
    weights,
)
from tests.edm_file import network, write
from tests.long.fuzz.case import Case, numbers
from tests.published_cases import GOLDEN
from tests.torch_zip import save as save_torch

PIPELINE = GOLDEN / "pipelines" / "sd15"
ARRAYS = {"a.weight": numbers(2, 3), "b": np.arange(4)}


def copied(*places):
    """A folder of the golden files of these places."""

    def make(at):
        for place in places:
            path = GOLDEN / place
            if path.is_dir():
                shutil.copytree(path, at, dirs_exist_ok=True)
            else:
                shutil.copy(path, at)

    return make


def _weights(at):
    save_file(ARRAYS, at / "model-1.safetensors", {"format": "pt"})
    save_torch(at / "model-2.bin", {"c": numbers(3)})
    places = {"a.weight": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.bin"}
    (at / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def _read_weights(at):
    for each in weights.read_folder(at)[1].values():
        each.read()


def _torch(at):
    copied("torch_sequence.pth", "torch_zip.pth")(at)
    save_torch(at / "made.pth", ARRAYS)


def _read_torch(at):
    for name in ("torch_sequence.pth", "torch_zip.pth"):
        torch_file.read(at / name)
    torch_file.read_arrays(at / "made.pth")


def _edm(at):
    inner = {"a.weight": numbers(2, 3), "b": numbers(2)}
    net = network(
        "EDMPrecond",
        "SongUNet",
        {"img_resolution": 8},
        {f"model.{k}": v for k, v in inner.items()},
        {"sigma_data": 0.5},
    )
    write(at / "net.pkl", {"ema": net})


def _read_edm(at):
    found = edm_pickle.read(at / "net.pkl")
    try:
        for each in found.values():
            if isinstance(each, edm_pickle.Module):
                each.arrays()
    except ValueError as error:  # whoever calls it says which file it is
        raise ValueError(f"{at / 'net.pkl'}: {error}") from error


def _msgpack(at):
    params = {"Conv_0": {"kernel": numbers(1, 1, 2, 2), "bias": numbers(2)}}
    state = {"optimizer": {"target": params}, "params_ema": params, "step": np.array(3)}
    (at / "checkpoint_1").write_bytes(msgpack_serialize(state))


def _words(at):
    copied("words")(at)


def _read_words(at):
    for name in ("cat-toy.bin", "cat-toy.safetensors", "gnome.safetensors"):
        textual_inversion.read(at / name)


@functools.cache
def _unet():
    net = diffusers_unet.module_of(PIPELINE)
    return net, kernels_of(diffusers_unet.load(PIPELINE, net).params)


def _loras(at):
    for name in ("sd15_attention.safetensors", "sd15_dora_kohya.safetensors"):
        copied(f"adapters/{name}")(at)
    shutil.copytree(GOLDEN / "adapters" / "sd15_peft", at / "peft")


def _read_loras(at):
    for name in ("sd15_attention.safetensors", "sd15_dora_kohya.safetensors", "peft"):
        published.load_lora(at / name, *_unet())


def _text_change(at):
    shutil.copytree(GOLDEN / "adapters" / "sd15_peft", at, dirs_exist_ok=True)
    told = json.loads((at / "adapter_config.json").read_text())
    (at / "adapter_config.json").write_text(json.dumps(told | {"base_model_name_or_path": "x"}))


def _modules(at):
    for name in ("pipelines/sd15/unet", "pipelines/sd15/vae", "text/clip_quick", "text/t5"):
        (at / name).mkdir(parents=True)
        shutil.copy(GOLDEN / name / "config.json", at / name)
    (at / "controlnet").mkdir()
    shutil.copy(GOLDEN / "controlnet" / "sd15" / "config.json", at / "controlnet")


def _read_modules(at):
    for name in ("pipelines/sd15/unet", "pipelines/sd15/vae", "text/clip_quick", "text/t5"):
        if published.describes_network(at / name):
            published.module_of(at / name)
    published.hint_options(at / "controlnet")


def _network(at):
    copied("text/clip_quick")(at)


def _read_pipeline(at):
    about = stable_diffusion.describe(at)
    assert about.sampling


def _unet2d(at):
    shutil.copytree(GOLDEN / "diffusers" / "tutorial", at, dirs_exist_ok=True)


def _clip(at):
    shutil.copytree(PIPELINE / "tokenizer", at / "plain")
    shutil.copytree(GOLDEN / "text" / "clip_json", at / "json")
    shutil.copytree(GOLDEN / "text" / "t5_json", at / "t5")


def _read_tokenizers(at):
    for name in ("plain", "json", "t5"):
        found = tokenizers.load(at / name)
        found.texts(found(["the cat sat on the mat", ""]))


CASES = {
    "weights of a folder": Case(
        _weights,
        _read_weights,
        {
            "model-1.safetensors": "safetensors",
            "model-2.bin": "zip",
            "model.safetensors.index.json": "json",
        },
    ),
    "files of PyTorch": Case(
        _torch,
        _read_torch,
        {"torch_sequence.pth": "pickle", "torch_zip.pth": "zip", "made.pth": "zip"},
    ),
    "networks of EDM": Case(_edm, _read_edm, {"net.pkl": "pickle"}),
    "checkpoints of 2021": Case(
        _msgpack, lambda at: jax_2021._read(at / "checkpoint_1"), {"checkpoint_1": "bytes"}
    ),
    "new words": Case(
        _words,
        _read_words,
        {
            "cat-toy.bin": "zip",
            "cat-toy.safetensors": "safetensors",
            "gnome.safetensors": "safetensors",
        },
    ),
    "LoRA": Case(
        _loras,
        _read_loras,
        {
            "sd15_attention.safetensors": "safetensors",
            "sd15_dora_kohya.safetensors": "safetensors",
            "peft/adapter_model.safetensors": "safetensors",
            "peft/adapter_config.json": "json",
        },
        100,
    ),
    "LoRA of text encoders": Case(
        _text_change, lambda at: lora_text.base_of(at), {"adapter_config.json": "json"}
    ),
    "configs of networks": Case(
        _modules,
        _read_modules,
        {
            "pipelines/sd15/unet/config.json": "json",
            "pipelines/sd15/vae/config.json": "json",
            "text/clip_quick/config.json": "json",
            "text/t5/config.json": "json",
            "controlnet/config.json": "json",
        },
    ),
    "a pipeline": Case(
        copied("pipelines/sd15"),
        _read_pipeline,
        {
            "model_index.json": "json",
            "scheduler/scheduler_config.json": "json",
            "unet/config.json": "json",
            "vae/config.json": "json",
        },
    ),
    "a pipeline without text": Case(
        _unet2d,
        diffusers.describe,
        {"unet/config.json": "json", "scheduler/scheduler_config.json": "json"},
    ),
    "tokenizers": Case(
        _clip,
        _read_tokenizers,
        {
            "plain/vocab.json": "json",
            "plain/merges.txt": "lines",
            "plain/tokenizer_config.json": "json",
            "plain/special_tokens_map.json": "json",
            "json/tokenizer.json": "json",
            "json/tokenizer_config.json": "json",
            "t5/tokenizer.json": "json",
            "t5/tokenizer_config.json": "json",
        },
    ),
}
