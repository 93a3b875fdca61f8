"""Folders of Hugging Face diffusers that hold a `UNet2DModel`: `describe` tells what a folder
holds, and `load` reads the weights."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict

from score_sde.nets.ncsnpp import NCSNpp
from score_sde.published import torch_file
from score_sde.published.diffusers_config import UNET, Description, describe, own_scheduler
from score_sde.published.diffusers_files import files, read_json
from score_sde.published.matching import (
    Imported,
    Name,
    call_order,
    fit,
    from_torch,
    require_same,
    swap_halves,
)

__all__ = ["Description", "describe", "load"]

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def load(folder: Path, net: NCSNpp, shape: tuple[int, ...]) -> Imported:
    """The weights of a folder. diffusers stores one set of them, and no step.

    Raises:
        ValueError: as `describe`; `net` is not the network that the folder describes; the weights
            are missing or damaged, or do not fit `net`.
    """
    require_same(folder, net, NCSNpp(**describe(folder).net), "diffusers")
    unet, scheduler = files(folder)
    file, given = read_weights(unet.parent)
    _, shapes = call_order(net, shape)
    flip = read_json(unet).get("flip_sin_to_cos", UNET["flip_sin_to_cos"])
    names, arrays = {}, dict(given)
    for ours, spec in flatten_dict(shapes).items():
        theirs = names[ours] = their_name(ours, len(net.ch_mult) - 1)
        if theirs in given:
            arrays[theirs] = _layout(given[theirs], len(spec.shape))
            if ours == ("embed_0", "kernel") and net.embedding == "positional" and flip:
                arrays[theirs] = swap_halves(arrays[theirs])  # from [cos, sin] to [sin, cos]
    params, own = fit(file, shapes, names, arrays), own_scheduler(scheduler)
    return Imported("diffusers, UNet2DModel", file, params, None, 0, own)


# The name in diffusers of a module whose path here begins so. `up` counts the stages from the
# middle.
_MODULES = (
    (r"conv_in", "conv_in"),
    (r"embed_0", "time_embedding.linear_1"),
    (r"embed_1", "time_embedding.linear_2"),
    (r"fourier", "time_proj"),
    (r"mid_attn", "mid_block.attentions.0"),
    (r"mid_(?P<i>0|1)", "mid_block.resnets.{i}"),
    (r"down_(?P<down>\d+)_(?P<i>\d+)_attn", "down_blocks.{down}.attentions.{i}"),
    (r"down_(?P<down>\d+)_(?P<i>\d+)", "down_blocks.{down}.resnets.{i}"),
    (r"down_(?P<down>\d+)_resample/conv", "down_blocks.{down}.downsamplers.0.conv"),
    (r"down_(?P<down>\d+)_resample", "down_blocks.{down}.resnet_down"),
    (r"down_(?P<down>\d+)_pyramid/conv", "down_blocks.{down}.skip_conv"),
    (r"up_(?P<stage>\d+)_(?P<i>\d+)_attn", "up_blocks.{up}.attentions.{i}"),
    (r"up_(?P<stage>\d+)_(?P<i>\d+)", "up_blocks.{up}.resnets.{i}"),
    (r"up_(?P<stage>\d+)_attn", "up_blocks.{up}.attentions.0"),
    (r"up_(?P<stage>\d+)_resample/conv", "up_blocks.{up}.upsamplers.0.conv"),
    (r"up_(?P<stage>\d+)_resample", "up_blocks.{up}.resnet_up"),
    (r"(?:out|up_0)_(?P<layer>norm)", "conv_norm_out"),
    (r"(?:out|up_0)_(?P<layer>conv)", "conv_out"),
    (r"up_(?P<stage>\d+)_(?P<layer>norm|conv)", "up_blocks.{up}.skip_{layer}"),
)
_INNER = {
    "norm_0": "norm1",
    "conv_0": "conv1",
    "dense": "time_emb_proj",
    "norm_1": "norm2",
    "conv_1": "conv2",
    "shortcut": "conv_shortcut",
    "norm": "group_norm",
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "out": "to_out.0",
}
# What diffusers called the layers of attention before version 0.15.
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def their_name(ours: Name, last: int) -> str:
    """The name in diffusers of a parameter; `last` is the number of the stage in the middle."""
    *modules, leaf = ours
    path = "/".join(modules)
    for pattern, template in _MODULES:
        if found := re.match(rf"{pattern}(?:/|$)", path):
            groups = found.groupdict()
            head = template.format(up=last - int(groups.get("stage") or 0), **groups)
            inner = [_INNER[name] for name in path[found.end() :].split("/") if name]
            return ".".join((head, *inner, "bias" if leaf == "bias" else "weight"))
    raise AssertionError(f"{path} has no counterpart")


def read_weights(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """The file of weights beside a network's config.json, and its arrays.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    file = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if file is None:
        raise ValueError(f"{folder} holds neither {' nor '.join(WEIGHTS)}")
    return file, _read_safetensors(file) if file.suffix == ".safetensors" else _read_bin(file)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    try:
        return _today(load_file(path))
    except OSError:
        raise
    except Exception as error:  # whatever a damaged file makes the parser raise
        raise ValueError(
            f"{path} is damaged or is no .safetensors file ({type(error).__name__}: {error})"
        ) from error


def _read_bin(path: Path) -> dict[str, np.ndarray]:
    return _today(torch_file.read_arrays(path))


def _today(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays by the names that diffusers uses today. Its first versions also stored a second
    copy of the Fourier frequencies, which is dropped."""
    return {
        ".".join(_OLD.get(part, part) for part in name.split(".")): value
        for name, value in given.items()
        if name != "time_proj.W"
    }


def _layout(value: np.ndarray, ndim: int) -> np.ndarray:
    """`from_torch`, also of dense layers that are stored as convolutions of one pixel."""
    if ndim == 2 and value.shape[2:] == (1, 1):
        value = value[:, :, 0, 0]
    return from_torch(value)
