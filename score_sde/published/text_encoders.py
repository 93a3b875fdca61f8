"""The weights of encoders of text, and of CLIP's encoder of images, in folders of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from score_sde.nets.clip_text import CLIPText
from score_sde.nets.clip_vision import CLIPVision
from score_sde.nets.t5 import T5Encoder
from score_sde.published.matching import Imported, Name, difference, misfit
from score_sde.published.text_config import clip_modules, config_of, module_of
from score_sde.published.weights import Stored, read_folder
from score_sde.types import PyTree

__all__ = ["Place", "clip_modules", "kernel_places", "load", "module_of"]


def load(folder: Path, module: nn.Module) -> Imported:
    """The weights of an encoder, as float32. `module` is that of `module_of`, or one of
    `clip_modules`.

    Raises:
        OSError: as `open`. ValueError: `module` is another one; the weights are missing or damaged,
            or do not fit it. One line, which lists the names of the first ten that do not fit.
    """
    name, path, _ = config_of(folder)
    known = clip_modules(folder) if name == "CLIPModel" else (module_of(folder),)
    theirs = next((other for other in known if type(other) is type(module)), None)
    if theirs is None:
        raise ValueError(f"{path} describes no {type(module).__name__}")
    if found := difference(module, theirs):
        field, ours, value = found
        raise ValueError(
            f"{path} does not fit the network: {field} is {ours!r}, and {value!r} there; "
            "module_of(folder) sets every field"
        )
    file, given = read_folder(folder)
    state = _relevant(file, given, module, name == "CLIPModel")
    return Imported(f"transformers, {name}", file, _parameters(file, module, state), None, 0)


class Place(NamedTuple):
    """Where the kernel of a layer is. path: of the parameter. block: its row of that, None for a
    parameter that is not stacked. shape: [n, m]."""

    path: Name
    block: int | None
    shape: tuple[int, ...]


def kernel_places(module: nn.Module) -> dict[str, Place]:
    """The kernels of a text encoder, by the names of their layers in transformers without the level
    that holds all."""
    found = {}
    for path, spec in flatten_dict(_shapes(module)).items():
        if path[-1] not in ("kernel", "projection"):
            continue
        stacked = path[0] == "blocks"
        for i, name in enumerate(_theirs(path, module, spec.shape)):
            place = Place(path, i if stacked else None, spec.shape[stacked:])
            found[name.removesuffix(".weight")] = place
    return found


class _Names(NamedTuple):
    """What transformers calls the parts of an encoder.

    prefix: the level that holds all but the projection; files of some versions lack it. outer:
    parameters, and modules of parameters. block: of block {}; inner: modules of a block. others:
    where names of the rest of a CLIPModel begin.
    """

    prefix: str
    outer: dict[str, str]
    block: str
    inner: dict[str, str]
    others: tuple[str, ...] = ()


_CLIP_INNER = {
    "norm_0": "layer_norm1",
    **{part: f"self_attn.{part}_proj" for part in "qkv"},
    "out": "self_attn.out_proj",
    "norm_1": "layer_norm2",
    "mlp_in": "mlp.fc1",
    "mlp_out": "mlp.fc2",
}
_NAMES = {
    CLIPText: _Names(
        "text_model.",
        {
            "tokens": "embeddings.token_embedding.weight",
            "positions": "embeddings.position_embedding.weight",
            "final_norm": "final_layer_norm",
            "projection": "text_projection.weight",
        },
        "encoder.layers.{}.",
        _CLIP_INNER,
        ("vision_model.", "visual_projection.", "logit_scale"),
    ),
    CLIPVision: _Names(
        "vision_model.",
        {
            "patches": "embeddings.patch_embedding.weight",
            "class_token": "embeddings.class_embedding",
            "positions": "embeddings.position_embedding.weight",
            "first_norm": "pre_layrnorm",
            "final_norm": "post_layernorm",
            "projection": "visual_projection.weight",
        },
        "encoder.layers.{}.",
        _CLIP_INNER,
        ("text_model.", "text_projection.", "logit_scale"),
    ),
    T5Encoder: _Names(
        "encoder.",
        {
            "tokens": "shared.weight",
            "distances": "block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            "final_norm": "final_layer_norm",
        },
        "block.{}.",
        {
            "norm_0": "layer.0.layer_norm",
            **{part: f"layer.0.SelfAttention.{part}" for part in "qkv"},
            "out": "layer.0.SelfAttention.o",
            "norm_1": "layer.1.layer_norm",
            "gate": "layer.1.DenseReluDense.wi_0",
            "value": "layer.1.DenseReluDense.wi_1",
            "mlp_out": "layer.1.DenseReluDense.wo",
        },
    ),
}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
# what .safetensors, and what NumPy, calls them
_REAL = ("F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16")


def _relevant(
    file: Path, given: dict[str, Stored], module: nn.Module, whole: bool
) -> dict[str, Stored]:
    """The arrays of the encoder by their names without the prefix."""
    names, state = _NAMES[type(module)], {}
    for name, stored in given.items():
        if whole and name.startswith(names.others):
            continue
        short = name.removeprefix(names.prefix)
        if short == "embeddings.position_ids":  # 0, 1, 2, ... in files of old versions
            continue
        if short in state:
            raise ValueError(f"{file} holds {short} twice, with and without {names.prefix}")
        state[short] = stored
    copy = state.pop("embed_tokens.weight", None)  # of T5's tokens, in some files
    if copy is not None and state.setdefault("shared.weight", copy) is not copy:
        both = copy.shape == state["shared.weight"].shape
        if not both or not np.array_equal(copy.read(), state["shared.weight"].read()):
            raise ValueError(f"{file} has two tables of tokens, which differ")
    return state


def _parameters(file: Path, module: nn.Module, state: dict[str, Stored]) -> PyTree:
    """The parameters of the module. Raises ValueError of all arrays that do not fit."""
    shapes = flatten_dict(_shapes(module))
    places = {path: _theirs(path, module, spec.shape) for path, spec in shapes.items()}
    left, problems = dict(state), []
    for path, names in places.items():
        shape = _their_shape(path, shapes[path].shape, module)
        for name in names:
            stored = left.pop(name, None)
            if stored is None:
                problems.append(f"{name} is missing")
            elif stored.shape != shape:
                problems.append(f"{name} has shape {stored.shape}, not {shape}")
            elif stored.dtype not in _REAL:
                problems.append(f"{name} holds {stored.dtype}, not real numbers")
    problems += [f"{name} is left over" for name in left]
    if problems:
        raise ValueError(f"{file} {misfit(problems)}")
    params = {}
    for path, names in places.items():
        shape = shapes[path].shape
        value = np.empty(shape, np.float32)
        rows = value if path[0] == "blocks" else value[None]
        for i, name in enumerate(names):
            rows[i] = _ours(path, state[name].read())
            if not np.isfinite(rows[i]).all():
                raise ValueError(f"{file} has numbers that are not finite, the first in {name}")
        params[path] = jnp.asarray(value)
    return unflatten_dict(params)


def _shapes(module: nn.Module) -> PyTree:
    """Of the parameters. Nothing is computed."""

    def init(key):
        if isinstance(module, CLIPVision):
            x = jnp.zeros((1, module.size, module.size, 3))
        else:
            x = jnp.zeros((1, 1), jnp.int32)
        return module.init(key, x)["params"]

    return jax.eval_shape(init, jax.random.key(0))


def _theirs(path: Name, module: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """The name of a parameter, or of each of its rows for that of all blocks."""
    names = _NAMES[type(module)]
    part, *within = path
    if part != "blocks":
        return [".".join([names.outer[part], *(_LEAVES[leaf] for leaf in within)])]
    inner, leaf = within
    name = f"{names.inner[inner]}.{_LEAVES[leaf]}"
    return [names.block.format(i) + name for i in range(shape[0])]


def _their_shape(path: Name, shape: tuple[int, ...], module: nn.Module) -> tuple[int, ...]:
    if isinstance(module, CLIPVision) and path == ("patches",):
        return (module.width, 3, module.patch, module.patch)
    row = shape[1:] if path[0] == "blocks" else shape
    return row[::-1] if path[-1] in ("kernel", "projection") else row


def _ours(path: Name, value: np.ndarray) -> np.ndarray:
    if path == ("patches",):  # a convolution, [width, 3, p, p]
        return value.transpose(2, 3, 1, 0).reshape(-1, len(value))
    return value.T if path[-1] in ("kernel", "projection") else value
