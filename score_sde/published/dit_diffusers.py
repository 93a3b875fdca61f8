"""Folders of Hugging Face diffusers that hold a `DiTTransformer2DModel`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.published import diffusers_files
from score_sde.published.diffusers_config import process
from score_sde.published.diffusers_files import checked, files, read_json, shown
from score_sde.published.diffusers_weights import read_weights

# The fields of DiTTransformer2DModel with their defaults.
_FIELDS = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 28,
    "dropout": 0.0,
    "sample_size": 32,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
}
# The fields that choose an architecture, with the values of the only one known here; and those that
# it does not read.
_FIXED = {
    "activation_fn": ("gelu-approximate",),
    "attention_bias": (True,),
    "norm_type": ("ada_norm_zero",),
    "norm_elementwise_affine": (False,),
    "norm_eps": (1e-5, 1e-6),
}
_UNREAD = (
    "norm_num_groups",
    "upcast_attention",
    *("attention_type", "caption_channels", "cross_attention_dim", "double_self_attention"),
    *(
        "interpolation_scale",
        "num_vector_embeds",
        "only_cross_attention",
        "use_additional_conditions",
    ),
    "use_linear_projection",
)


def describe(folder: Path) -> tuple[dict[str, Any], tuple[int, int, int], int, dict[str, Any]]:
    """The fields of DiT, the shape of an example, the channels of the head, and the fields of a
    config that the scheduler decides.

    diffusers computes the features of the noise with a shift of 1 in the frequencies, and DiT's own
    code with none. Its default norm_eps, 1e-5, is that of one of three normalisations of a block,
    which DiT's code computes with 1e-6, as here.

    Raises:
        ValueError: a file is missing or damaged, or a field asks for what is not supported.
    """
    path, scheduler = files(folder, "transformer")
    content = read_json(path)
    if content.get("_class_name") != "DiTTransformer2DModel":
        raise ValueError(
            f"{path} is of class {shown(content.get('_class_name'))}; only DiTTransformer2DModel "
            "can be imported as a DiT"
        )
    content = {key: value for key, value in content.items() if key not in _UNREAD}
    if content.get("out_channels", 0) is None:
        del content["out_channels"]
    channels = content.get("in_channels", _FIELDS["in_channels"])
    fields = checked(path, content, {**_FIELDS, "out_channels": channels}, _FIXED)
    heads, patch, size = (
        fields[name] for name in ("num_attention_heads", "patch_size", "sample_size")
    )
    if min(heads, patch, size, fields["num_layers"], fields["in_channels"]) < 1 or size % patch:
        raise ValueError(f"{path}: sample_size={size} is no multiple of patch_size={patch}")
    net = {
        "patch_size": patch,
        "width": heads * fields["attention_head_dim"],
        "depth": fields["num_layers"],
        "num_heads": heads,
        "num_classes": fields["num_embeds_ada_norm"],
        "dropout": float(fields["dropout"]),
        "freq_shift": 1,
    }
    shape = (size, size, fields["in_channels"])
    return net, shape, fields["out_channels"], process(scheduler, path, "positional")


def own_scheduler(folder: Path) -> str:
    """As `diffusers_files.own_scheduler`, of a folder."""
    return diffusers_files.own_scheduler(files(folder, "transformer")[1])


_NAMES = (
    (r"pos_embed\.proj", "x_embedder.proj"),
    (r"transformer_blocks\.0\.norm1\.emb\.timestep_embedder\.linear_1", "t_embedder.mlp.0"),
    (r"transformer_blocks\.0\.norm1\.emb\.timestep_embedder\.linear_2", "t_embedder.mlp.2"),
    (
        r"transformer_blocks\.0\.norm1\.emb\.class_embedder\.embedding_table",
        "y_embedder.embedding_table",
    ),
    (r"transformer_blocks\.(\d+)\.norm1\.linear", r"blocks.\1.adaLN_modulation.1"),
    (r"transformer_blocks\.(\d+)\.attn1\.to_out\.0", r"blocks.\1.attn.proj"),
    (r"transformer_blocks\.(\d+)\.ff\.net\.0\.proj", r"blocks.\1.mlp.fc1"),
    (r"transformer_blocks\.(\d+)\.ff\.net\.2", r"blocks.\1.mlp.fc2"),
    (r"proj_out_1", "final_layer.adaLN_modulation.1"),
    (r"proj_out_2", "final_layer.linear"),
)


def read(folder: Path, depth: int) -> tuple[Path, dict[str, np.ndarray]]:
    """The file of the weights, and the weights by the names of DiT's own code.

    Each block there has a copy of the embeddings of noise and class.

    Raises:
        ValueError: the weights are missing or damaged, or the copies differ.
    """
    path, _ = files(folder, "transformer")
    file, stored = read_weights(path.parent)
    given = {name: array.read() for name, array in stored.items()}
    state = {}
    for name, value in given.items():
        copied = re.sub(
            r"^transformer_blocks\.\d+\.norm1\.emb", "transformer_blocks.0.norm1.emb", name
        )
        if copied != name and copied in given:
            if not np.array_equal(value, given[copied]):
                raise ValueError(
                    f"{file} has embeddings of its own in each block: {name} differs from {copied}"
                )
            continue
        module, _, leaf = name.rpartition(".")
        matches = (re.sub(f"^{p}$", new, module) for p, new in _NAMES if re.match(f"{p}$", module))
        state[f"{next(matches, module)}.{leaf}"] = value
    for i in range(depth):
        for leaf in ("weight", "bias"):
            parts = [f"transformer_blocks.{i}.attn1.to_{part}.{leaf}" for part in "qkv"]
            if all(part in state for part in parts):
                arrays = [state.pop(part) for part in parts]
                state[f"blocks.{i}.attn.qkv.{leaf}"] = np.concatenate(arrays)
    return file, state


def to_diffusers(state: dict[str, np.ndarray], depth: int) -> dict[str, np.ndarray]:
    """The weights by the names of diffusers: what `read` reads, with the copies in each block."""
    arrays = {}
    for name, value in state.items():
        module, _, leaf = name.rpartition(".")
        if module.endswith("attn.qkv"):
            block = module.removesuffix("attn.qkv").removeprefix("blocks.")
            for part, array in zip("qkv", np.split(value, 3), strict=True):
                theirs = f"transformer_blocks.{block}attn1.to_{part}.{leaf}"
                arrays[theirs] = np.ascontiguousarray(array)
            continue
        theirs = f"{_theirs(module)}.{leaf}"
        first = "transformer_blocks.0.norm1.emb"
        copies = range(depth) if theirs.startswith(first) else (0,)
        for i in copies:
            arrays[theirs.replace(first, f"transformer_blocks.{i}.norm1.emb")] = value
    return arrays


def _theirs(module: str) -> str:
    """The module of diffusers for one of DiT's own code. Some names hold the number of a block."""
    for theirs, ours in _NAMES:
        of_block = re.fullmatch(re.escape(ours).replace(r"\\1", r"(\d+)"), module)
        if of_block:
            name = theirs.replace(r"(\d+)", "{}").replace("\\.", ".")
            return name.format(*of_block.groups())
    return module
