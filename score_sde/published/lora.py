"""Files of LoRA over the U-Nets of Stable Diffusion, as diffusers, peft and kohya's sd-scripts
write them: `read` gives the factors of our layers, and `write` a file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.nets.conditional_unet import ConditionalUNet
from score_sde.published.diffusers_files import read_json
from score_sde.published.diffusers_unet import sines_first
from score_sde.published.lora_names import kohya_names, layers_of, parser
from score_sde.published.matching import Name, from_torch, misfit, to_torch
from score_sde.published.weights import Stored, read_safetensors
from score_sde.types import Factors

FORMATS = {"diffusers": "pytorch_lora_weights.safetensors", "kohya": "lora.safetensors"}
_PEFT = "adapter_model.safetensors"


class LoRA(NamedTuple):
    """What a file holds. left_out: how many layers of other networks, the encoders of text."""

    file: Path
    factors: dict[Name, Factors]
    left_out: int


def read(path: Path, net: ConditionalUNet, kernels: Mapping[Name, Array]) -> LoRA:
    """The factors in a file, or in a folder of diffusers or peft, in float32. Nothing is executed.

    The alpha of a layer is in the file, or in what peft tells of it; else it is the rank.

    Raises:
        FileNotFoundError. ValueError: it is damaged, or has arrays that are no LoRA of `net`'s
            kernels; one line.
    """
    file = _file(path)
    stored, told = read_safetensors(file), _told(file)
    layers = layers_of(net, kernels)
    parse, theirs = parser(net, layers), {ours: name for name, ours in layers.items()}
    parts, problems, others = {}, [], set()
    for name, array in stored.items():
        key = parse(name)
        if key is None:
            problems.append(f"{name} is no part of a LoRA of its layers")
        elif key.layer is None:
            others.add(key.of)
        else:
            parts.setdefault(key.layer, {})[key.part] = (name, array)
    factors = {}
    for layer, of_layer in parts.items():
        try:
            factors[layer] = _factors(net, layer, kernels[layer], theirs[layer], of_layer, told)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError(f"{file} {misfit(problems)}")
    if not factors:
        raise ValueError(f"{file} has no LoRA of the U-Net: {len(others)} layers of other networks")
    return LoRA(file, factors, len(others))


def write(
    folder: Path,
    net: ConditionalUNet,
    kernels: Mapping[Name, Array],
    factors: Mapping[Name, Factors],
    form: str,
) -> None:
    """Writes the factors of some of `net`'s kernels into a folder.

    form: "diffusers", whose B has the scale, so that alpha is the rank, which every version reads;
        or "kohya", which has alpha, and of XL the names of the original code.
    """
    from safetensors.numpy import save_file

    theirs = {ours: name for name, ours in layers_of(net, factors).items()}
    arrays: dict[str, np.ndarray] = {}
    for layer, (a, b, alpha, magnitude) in factors.items():
        name, rank = theirs[layer], a.shape[-1]
        *kernel, _ = kernels[layer].shape
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        down = to_torch(sines_first(net, (*layer, "kernel"), a).reshape(*kernel, rank))
        up = to_torch(b.reshape(*(1,) * (len(kernel) - 1), rank, -1))
        if form == "diffusers":
            arrays[f"unet.{name}.lora_A.weight"] = down
            arrays[f"unet.{name}.lora_B.weight"] = up * np.float32(alpha / rank)
            if magnitude is not None:
                shape = (-1,) if len(kernel) == 1 else (1, -1, 1, 1)
                norm = np.asarray(magnitude, np.float32).reshape(shape)
                arrays[f"unet.{name}.lora_magnitude_vector"] = norm
            continue
        name = kohya_names(net, name)[-1 if net.sizes else 0]
        arrays |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        arrays[f"{name}.alpha"] = np.array(alpha, np.float32)
        if magnitude is not None:
            shape = (-1, *(1,) * len(kernel))
            arrays[f"{name}.dora_scale"] = np.asarray(magnitude, np.float32).reshape(shape)
    save_file(arrays, folder / FORMATS[form], {"format": "pt"})


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    names = (FORMATS["diffusers"], _PEFT, FORMATS["kohya"])
    found = next((path / name for name in names if (path / name).exists()), None)
    if found is None:
        raise ValueError(f"{path} has none of {', '.join(names)}: give the file of the LoRA")
    return found


def _told(file: Path) -> dict[str, Any]:
    """What peft tells of its LoRA: in the head of a file of diffusers, or in a file beside its own.
    Of each layer the rank and alpha, and how they make the scale."""
    from safetensors import safe_open

    beside = file.with_name("adapter_config.json")
    if file.name == _PEFT and beside.exists():
        return _checked(beside, read_json(beside))
    with safe_open(file, framework="np") as opened:
        text = (opened.metadata() or {}).get("lora_adapter_metadata")
    if text is None:
        return {}
    try:
        content = json.loads(text)
        content = {k.removeprefix("unet."): v for k, v in content.items() if k.startswith("unet.")}
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} has lora_adapter_metadata that cannot be read") from error
    return _checked(file, content) if content else {}


def _checked(source: Path, content: dict[str, Any]) -> dict[str, Any]:
    alpha, patterns = content.get("lora_alpha"), content.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or not all(map(_is_alpha, (alpha, *patterns.values()))):
        raise ValueError(f"{source} has an alpha that is no positive number")
    for pattern in patterns:
        try:
            re.compile(pattern)
            # a pattern with more loops could take years
            is_safe = len(re.findall(r"[*+{]", pattern)) <= 3 and not re.search(r"\)[*+{]", pattern)
        except re.error:
            is_safe = False
        if not is_safe:
            raise ValueError(f"{source} has the pattern {pattern!r:.80}, which cannot be read")
    if content.get("peft_type", "LORA") != "LORA":
        raise ValueError(f"{source} is of the kind {content['peft_type']!r:.40}, and not LORA")
    return {"alpha": alpha, "patterns": patterns, "rslora": bool(content.get("use_rslora"))}


def _is_alpha(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0


def _factors(
    net: ConditionalUNet,
    layer: Name,
    kernel: Array,
    theirs: str,
    parts: Mapping[str, tuple[str, Stored]],
    told: Mapping[str, Any],
) -> Factors:
    """Those of one layer, whose name in diffusers is `theirs`."""
    if missing := [part for part in ("down", "up") if part not in parts]:
        raise ValueError(f"{theirs} has no {missing[0]} half")
    down, up = (_numbers(*parts[part]) for part in ("down", "up"))
    *kept, n, m = kernel.shape
    rank = len(down)
    # a convolution of one pixel is a dense layer, in either form
    shapes = [(n, *kept)] if math.prod(kept) > 1 else [(n,), (n, 1, 1)]
    if not rank or down.shape[1:] not in shapes:
        raise ValueError(f"{theirs} has a down half of shape {down.shape}, not (rank, {n}, ...)")
    if up.shape not in ((m, rank), (m, rank, 1, 1)):
        raise ValueError(f"{theirs} has an up half of shape {up.shape}, not ({m}, {rank})")
    a = sines_first(net, (*layer, "kernel"), from_torch(down).reshape(-1, rank))
    return Factors(
        jnp.asarray(a),
        jnp.asarray(up.reshape(m, rank).T),
        _alpha(theirs, rank, parts, told),
        _magnitude(theirs, m, parts),
    )


def _alpha(theirs, rank, parts, told) -> float:
    if "alpha" in parts:
        value = _numbers(*parts["alpha"])
        if value.size != 1 or not _is_alpha(value.item()):
            raise ValueError(f"{theirs} has an alpha that is no positive number")
        return value.item()
    if not told:
        return float(rank)
    found = (a for p, a in told["patterns"].items() if re.match(rf"(.*\.)?({p})$", theirs))
    alpha = float(next(found, told["alpha"]))
    return alpha * math.sqrt(rank) if told["rslora"] else alpha


def _magnitude(theirs, m, parts) -> Array | None:
    if "magnitude" not in parts:
        return None
    norm = _numbers(*parts["magnitude"])
    if norm.shape not in ((m,), (1, m, 1, 1), (m, 1), (m, 1, 1, 1)):
        raise ValueError(
            f"{theirs} has norms of shape {norm.shape}, and those of its {m} outputs are read"
        )
    return jnp.asarray(norm.reshape(m))


def _numbers(name: str, stored: Stored) -> np.ndarray:
    value = stored.read()
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"{name} holds {value.dtype}, not real numbers")
    return np.asarray(value, np.float32)
