"""LoRA of text encoders: what it makes of their parameters, and folders of peft that hold one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from score_sde.published.diffusers_files import read_json
from score_sde.published.lora import peft_arrays, read_layers
from score_sde.published.lora_layers import PEFT, PEFT_CONFIG
from score_sde.published.lora_names import LEVEL
from score_sde.published.matching import Name
from score_sde.published.text_encoders import kernel_places
from score_sde.types import Factors, PyTree

_BASE = "base_model_name_or_path"
_NETWORK = "text_encoder"


def is_change(folder: Path) -> bool:
    """Whether a folder holds a LoRA of peft."""
    return (folder / PEFT_CONFIG).exists()


def base_of(folder: Path) -> str:
    """The folder of the text encoder that the LoRA of a folder changes.

    Raises:
        ValueError: it does not say. One line.
    """
    base = read_json(folder / PEFT_CONFIG).get(_BASE)
    if not isinstance(base, str) or not base:
        raise ValueError(f"{folder / PEFT_CONFIG} has no {_BASE}: put the encoder's folder there")
    return base


def read(folder: Path, module: nn.Module) -> dict[str, Factors]:
    """The factors in a folder of peft, by the names of layers in transformers.

    Raises:
        OSError: as `open`. ValueError: it is damaged, or no LoRA of `module`'s kernels. One line.
    """
    shapes = {name: place.shape for name, place in kernel_places(module).items()}
    return read_layers(folder / PEFT, None, {_NETWORK: shapes})[0][_NETWORK]


def write(folder: Path, factors: Mapping[str, Factors], base: str) -> None:
    """Writes a folder of peft, which `read` reads back.

    base: the folder of the text encoder.
    """
    from safetensors.numpy import save_file

    ranks = {name: each.a.shape[-1] for name, each in factors.items()}
    alphas = {name: float(each.alpha) for name, each in factors.items()}
    config: dict[str, Any] = {
        "peft_type": "LORA",
        _BASE: base,
        "target_modules": sorted(factors),
        "r": next(iter(ranks.values())),
        "lora_alpha": next(iter(alphas.values())),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "use_dora": any(each.magnitude is not None for each in factors.values()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    for name, each in factors.items():
        shape = (each.a.shape[0], each.b.shape[1])
        arrays |= peft_arrays(f"base_model.model.{LEVEL}{name}", shape, each)
    save_file(arrays, folder / PEFT, {"format": "pt"})
    (folder / PEFT_CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def named(module: nn.Module, factors: Mapping[Name, Factors]) -> dict[str, Factors]:
    """Factors by the path of a layer of ours, in which all blocks are stacked, by the name of each
    layer in transformers."""
    found = {}
    for name, (path, block, _) in kernel_places(module).items():
        each = factors.get(path[:-1])
        if each is None:
            continue
        a, b, alpha, magnitude = each
        norm = None if magnitude is None else magnitude[block]
        found[name] = Factors(a[block], b[block], alpha, norm)
    return found


def merge(module: nn.Module, params: PyTree, factors: Mapping[str, Factors]) -> PyTree:
    """The parameters of a text encoder in which each kernel W is W + alpha / rank A B; with a
    magnitude (DoRA), its columns have that for their norm."""
    places, leaves = kernel_places(module), flatten_dict(params)
    paths = {places[name].path for name in factors}
    changed = {path: np.array(leaves[path], np.float32) for path in paths}
    for name, each in factors.items():
        path, block, _ = places[name]
        kernel = changed[path] if block is None else changed[path][block]  # a view
        a, b = np.asarray(each.a), np.asarray(each.b)
        kernel += np.float32(each.alpha / a.shape[-1]) * (a @ b)
        if each.magnitude is not None:
            kernel *= np.asarray(each.magnitude) / np.linalg.norm(kernel, axis=0)
    return unflatten_dict({**leaves, **{path: jnp.asarray(v) for path, v in changed.items()}})
