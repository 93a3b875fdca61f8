"""The parameters of facebookresearch/DiT by their names, and as those of our network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from score_sde.nets.dit import DiT
from score_sde.published.matching import swap_halves
from score_sde.types import PyTree

# Our dense layers, and theirs.
_OUTSIDE = {
    "embed_patch": "x_embedder.proj",
    "embed_0": "t_embedder.mlp.0",
    "embed_1": "t_embedder.mlp.2",
    "out_norm/modulation": "final_layer.adaLN_modulation.1",
    "out": "final_layer.linear",
}
_INSIDE = {
    "heads/qkv": "attn.qkv",
    "out": "attn.proj",
    "residual/mlp/in": "mlp.fc1",
    "residual/mlp/out": "mlp.fc2",
}
_MODULATION = "adaLN_modulation.1"  # of both halves of a block, which have one each here
_TABLE = "y_embedder.embedding_table.weight"


def shapes_of(net: DiT, shape: tuple[int, ...], out_channels: int) -> dict[str, tuple[int, ...]]:
    """The shape of every array of the network in DiT's layout: dense layers [out, in],
    convolutions [out, in, h, w]."""
    width, hidden = net.width, round(net.mlp_ratio * net.width)
    patch: Any = net.patch_size  # one number for both axes
    tokens = (shape[0] // patch) * (shape[1] // patch)
    layers = {
        "x_embedder.proj": (width, shape[2], patch, patch),
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
        "final_layer.linear": (patch**2 * out_channels, width),
    }
    for i in range(net.depth):
        layers |= {
            f"blocks.{i}.attn.qkv": (3 * width, width),
            f"blocks.{i}.attn.proj": (width, width),
            f"blocks.{i}.mlp.fc1": (hidden, width),
            f"blocks.{i}.mlp.fc2": (width, hidden),
            f"blocks.{i}.{_MODULATION}": (6 * width, width),
        }
    biases = {f"{name}.bias": shape[:1] for name, shape in layers.items()}
    weights = {f"{name}.weight": shape for name, shape in layers.items()}
    table = {_TABLE: (net.num_classes + 1, width), "pos_embed": (1, tokens, width)}
    return weights | biases | table


def to_ours(net: DiT, state: Mapping[str, np.ndarray], out_channels: int) -> PyTree:
    """The parameters of `net` from arrays of the shapes above, in float32. Of the head's channels
    the first `out_channels` stay."""
    layers = {ours: _dense(state, theirs) for ours, theirs in _OUTSIDE.items()}
    # of the features: from [cos, sin] to [sin, cos]
    layers["embed_0"]["kernel"] = swap_halves(layers["embed_0"]["kernel"])
    patch: Any = net.patch_size
    patches = patch**2  # the head gives [p, q, channel]
    layers["out"] = {
        name: value.reshape(*value.shape[:-1], patches, -1)[..., :out_channels].reshape(
            *value.shape[:-1], patches * out_channels
        )
        for name, value in layers["out"].items()
    }
    for ours, theirs in _INSIDE.items():
        layers[f"blocks/{ours}"] = _stacked(net.depth, state, theirs)
    for name, value in _stacked(net.depth, state, _MODULATION).items():
        halves = np.split(value, 2, axis=-1)
        for part, of_part in zip(("heads", "residual"), halves, strict=True):
            layers.setdefault(f"blocks/{part}/norm/modulation", {})[name] = of_part
    flat = {
        f"{layer}/{name}": value
        for layer, arrays in layers.items()
        for name, value in arrays.items()
    }
    flat["embed_label/embedding"] = state[_TABLE]
    return unflatten_dict({k: jnp.asarray(v, jnp.float32) for k, v in flat.items()}, sep="/")


def _dense(state: Mapping[str, np.ndarray], theirs: str) -> dict[str, np.ndarray]:
    """The kernel [in, out] and bias of a dense layer, or of a convolution of patches, whose numbers
    are [p, q, channel] here."""
    weight, bias = (state[f"{theirs}.{name}"].astype(np.float32) for name in ("weight", "bias"))
    if weight.ndim == 4:
        weight = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)
    return {"kernel": weight.T, "bias": bias}


def _stacked(depth: int, state: Mapping[str, np.ndarray], theirs: str) -> dict[str, np.ndarray]:
    layers = [_dense(state, f"blocks.{i}.{theirs}") for i in range(depth)]
    return {name: np.stack([layer[name] for layer in layers]) for name in ("kernel", "bias")}


def to_theirs(net: DiT, params: PyTree) -> dict[str, np.ndarray]:
    """Arrays in DiT's layout, without pos_embed: what `to_ours` reads."""
    flat = {k: np.asarray(v, np.float32) for k, v in flatten_dict(params, sep="/").items()}
    patch: Any = net.patch_size
    flat["embed_0/kernel"] = swap_halves(flat["embed_0/kernel"])
    state = {_TABLE: flat["embed_label/embedding"]}
    for ours, theirs in _OUTSIDE.items():
        state |= _torch(theirs, flat[f"{ours}/kernel"], flat[f"{ours}/bias"])
    name = "x_embedder.proj.weight"
    weight = state[name].reshape(net.width, patch, patch, -1)
    state[name] = np.ascontiguousarray(weight.transpose(0, 3, 1, 2))
    modulation = {
        leaf: np.concatenate(
            [flat[f"blocks/{part}/norm/modulation/{leaf}"] for part in ("heads", "residual")], -1
        )
        for leaf in ("kernel", "bias")
    }
    for i in range(net.depth):
        for ours, theirs in _INSIDE.items():
            leaves = (flat[f"blocks/{ours}/{leaf}"][i] for leaf in ("kernel", "bias"))
            state |= _torch(f"blocks.{i}.{theirs}", *leaves)
        leaves = (modulation[leaf][i] for leaf in ("kernel", "bias"))
        state |= _torch(f"blocks.{i}.{_MODULATION}", *leaves)
    return state


def _torch(name: str, kernel: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{name}.weight": np.ascontiguousarray(kernel.T), f"{name}.bias": bias}
