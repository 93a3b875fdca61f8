"""What config.json of a folder of transformers says of an encoder of text, or of CLIP's encoder of
images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn

from score_sde.nets.clip_blocks import ACTIVATIONS
from score_sde.nets.clip_text import CLIPText
from score_sde.nets.clip_vision import CLIPVision
from score_sde.nets.t5 import T5Encoder
from score_sde.published.diffusers_files import checked, read_json, shown

_CLIP = {
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "hidden_act": "quick_gelu",
    "projection_dim": 512,
}
# The fields that an encoder reads, with the defaults of transformers.
_TEXT = {**_CLIP, "vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 49407}
_VISION = {
    **_CLIP,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 32,
}
_T5 = {
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
}
# Those with one value that is known here.
_CLIP_FIXED = {"layer_norm_eps": (1e-5,), "num_channels": (3,)}
_T5_FIXED = {"feed_forward_proj": ("gated-gelu",), "layer_norm_epsilon": (1e-6,)}


def module_of(folder: Path) -> nn.Module:
    """The encoder that config.json describes: a `CLIPTextModel`, a `CLIPTextModelWithProjection`, a
    `T5EncoderModel` of version 1.1, or a `CLIPVisionModelWithProjection`.

    Raises:
        ValueError: the file is missing or damaged, or describes another network. One line.
    """
    name, path, content = config_of(folder)
    if name == "T5EncoderModel":
        return _t5(path, content)
    if name in ("CLIPTextModel", "CLIPTextModelWithProjection"):
        return _text(path, content, content.get("projection_dim") if "With" in name else 0)
    if name == "CLIPVisionModelWithProjection":
        return _vision(path, content, content.get("projection_dim"))
    whole = "; clip_modules reads both encoders of it" if name == "CLIPModel" else ""
    raise ValueError(
        f"{path} is of class {shown(name)}: those read are CLIPTextModel, "
        f"CLIPTextModelWithProjection, T5EncoderModel and CLIPVisionModelWithProjection{whole}"
    )


def clip_modules(folder: Path) -> tuple[CLIPText, CLIPVision]:
    """The two encoders of a `CLIPModel`, such as openai/clip-vit-large-patch14, each with its
    projection.

    Raises:
        ValueError: as `module_of`.
    """
    name, path, content = config_of(folder)
    if name != "CLIPModel":
        raise ValueError(f"{path} is of class {shown(name)}, and not CLIPModel")
    parts = []
    for part in ("text", "vision"):
        fields = content.get(f"{part}_config_dict")  # of old versions; it replaces the other
        fields = content.get(f"{part}_config", {}) if fields is None else fields
        if not isinstance(fields, dict):
            raise ValueError(f"{path}: {part}_config does not hold the fields of a class")
        parts.append(fields)
    width = content.get("projection_dim")
    return _text(path, parts[0], width), _vision(path, parts[1], width)


def config_of(folder: Path) -> tuple[Any, Path, dict[str, Any]]:
    """The name of the class, config.json, and what it holds.

    Raises:
        ValueError: the file is missing or damaged.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        parts = (
            "one of its folders text_encoder, "
            if (path.parent / "model_index.json").exists()
            else ""
        )
        raise ValueError(f"{folder} has no config.json: give {parts}the folder of an encoder")
    content = read_json(path)
    names = content.get("architectures")
    return names[0] if isinstance(names, list) and len(names) == 1 else names, path, content


def _fields(path, content, defaults, fixed):
    known = {key: value for key, value in content.items() if key in defaults or key in fixed}
    fields = checked(path, known, defaults, fixed)
    for key, value in fields.items():
        if isinstance(value, int) and value < 1:
            raise ValueError(f"{path}: {key}={value} is below 1")
    return fields


def _clip_fields(path, content, defaults, projection):
    fields = _fields(path, content, defaults, _CLIP_FIXED)
    width, heads = fields["hidden_size"], fields["num_attention_heads"]
    if width % heads:
        raise ValueError(f"{path}: num_attention_heads={heads} does not divide {width}")
    if fields["hidden_act"] not in ACTIVATIONS:
        raise ValueError(f"{path}: hidden_act is none of {', '.join(ACTIVATIONS)}")
    default = fields["projection_dim"] if projection is None else projection
    if type(default) is not int or not 0 <= default <= 100_000:
        raise ValueError(f"{path}: projection_dim={shown(default)} is no number of channels")
    return fields, {
        "width": width,
        "depth": fields["num_hidden_layers"],
        "num_heads": heads,
        "hidden": fields["intermediate_size"],
        "activation": fields["hidden_act"],
        "projection": default,
    }


def _text(path, content, projection):
    fields, common = _clip_fields(path, content, _TEXT, projection)
    return CLIPText(
        vocabulary=fields["vocab_size"],
        positions=fields["max_position_embeddings"],
        eos=fields["eos_token_id"],
        **common,
    )


def _vision(path, content, projection):
    fields, common = _clip_fields(path, content, _VISION, projection)
    size, patch = fields["image_size"], fields["patch_size"]
    if size % patch:
        raise ValueError(f"{path}: image_size={size} is no multiple of patch_size={patch}")
    return CLIPVision(size=size, patch=patch, **common)


def _t5(path, content):
    if "feed_forward_proj" not in content:
        content = {**content, "feed_forward_proj": "relu"}
    fields = _fields(path, content, _T5, _T5_FIXED)
    return T5Encoder(
        vocabulary=fields["vocab_size"],
        width=fields["d_model"],
        depth=fields["num_layers"],
        num_heads=fields["num_heads"],
        head_channels=fields["d_kv"],
        hidden=fields["d_ff"],
        buckets=fields["relative_attention_num_buckets"],
        max_distance=fields["relative_attention_max_distance"],
    )
