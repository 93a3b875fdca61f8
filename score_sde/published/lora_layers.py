"""The numbers of one layer in a file of LoRA, and what peft tells of its alphas."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.published.diffusers_files import read_json
from score_sde.published.matching import from_torch, to_torch
from score_sde.published.weights import Stored
from score_sde.types import Factors

PEFT, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"


def told(file: Path, network: str) -> dict[str, Any]:
    """What peft tells of its LoRA of a network: in the head of a file of diffusers, or in a file
    beside its own. Of each layer the alpha, and how it makes the scale; {} if nothing is told.

    Raises:
        ValueError: an alpha is no positive number, or something cannot be read. One line.
    """
    from safetensors import safe_open

    beside = file.with_name(PEFT_CONFIG)
    if file.name == PEFT and beside.exists():
        return _checked(beside, read_json(beside))
    with safe_open(file, framework="np") as opened:
        text = (opened.metadata() or {}).get("lora_adapter_metadata")
    if text is None:
        return {}
    start = f"{network}."
    try:
        content = json.loads(text)
        content = {k.removeprefix(start): v for k, v in content.items() if k.startswith(start)}
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


def factors_of(
    theirs: str,
    shape: tuple[int, ...],
    parts: Mapping[str, tuple[str, Stored]],
    told: Mapping[str, Any],
) -> Factors:
    """Those of one layer, in float32.

    theirs: its name in the file. shape: of its kernel here, [*k, n, m]. parts: "down", "up",
    "alpha" and "magnitude", each with the name of the array. told: what `told` gives.

    Raises:
        ValueError: a half is missing, or a part has another shape or is no real number. One line.
    """
    if missing := [part for part in ("down", "up") if part not in parts]:
        raise ValueError(f"{theirs} has no {missing[0]} half")
    down, up = (_numbers(*parts[part]) for part in ("down", "up"))
    *kept, n, m = shape
    rank = len(down)
    # a convolution of one pixel is a dense layer, in either form
    shapes = [(n, *kept)] if math.prod(kept) > 1 else [(n,), (n, 1, 1)]
    if not rank or down.shape[1:] not in shapes:
        raise ValueError(f"{theirs} has a down half of shape {down.shape}, not (rank, {n}, ...)")
    if up.shape not in ((m, rank), (m, rank, 1, 1)):
        raise ValueError(f"{theirs} has an up half of shape {up.shape}, not ({m}, {rank})")
    return Factors(
        jnp.asarray(from_torch(down).reshape(-1, rank)),
        jnp.asarray(up.reshape(m, rank).T),
        _alpha(theirs, rank, parts, told),
        _magnitude(theirs, m, parts),
    )


def arrays_of(shape: tuple[int, ...], factors: Factors) -> tuple[np.ndarray, np.ndarray]:
    """The halves "down" and "up" of one layer in PyTorch's layout, in float32.

    shape: of its kernel here, [*k, n, m].
    """
    *kernel, _ = shape
    a, b = np.asarray(factors.a, np.float32), np.asarray(factors.b, np.float32)
    down = to_torch(a.reshape(*kernel, a.shape[-1]))
    return down, to_torch(b.reshape(*(1,) * (len(kernel) - 1), a.shape[-1], -1))


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
