"""What a folder of Hugging Face diffusers says of its `UNet2DConditionModel`, the U-Net of Stable
Diffusion.

A field that diffusers writes has a meaning here, or changes nothing, or must have one value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from score_sde.nets.conditional_unet import ConditionalUNet
from score_sde.published.diffusers_export import VERSION
from score_sde.published.diffusers_files import (
    checked,
    network_file,
    read_json,
    refuse,
    shown,
    stages_of,
)

CLASS = "UNet2DConditionModel"
# The fields of the class with their defaults: files of older versions have fewer.
_FIELDS = {
    "in_channels": 4,
    "out_channels": 4,
    "flip_sin_to_cos": True,
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "dropout": 0.0,
    "norm_num_groups": 32,
    "cross_attention_dim": 1280,
    "transformer_layers_per_block": (1,),
    "attention_head_dim": (8,),
    "use_linear_projection": False,
    "addition_time_embed_dim": 0,
    "projection_class_embeddings_input_dim": 0,
}
# The fields that choose an architecture, with the values of the only one known here; and those that
# do not change what the network computes.
_FIXED = {
    "act_fn": ("swish", "silu"),
    "addition_embed_type": (None, "text_time"),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "freq_shift": (0,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "norm_eps": (1e-5,),
    "num_attention_heads": (None,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1.0,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
_UNREAD = ("addition_embed_type_num_heads", "sample_size", "upcast_attention")
BLOCKS = {"CrossAttnDownBlock2D": "CrossAttnUpBlock2D", "DownBlock2D": "UpBlock2D"}


def described(folder: Path) -> tuple[Path, dict[str, Any], ConditionalUNet]:
    """config.json, in the subfolder `unet` of a pipeline or in the folder itself; the fields in it
    that have a meaning here; and the network.

    Raises:
        ValueError: a file is missing or damaged, or a field asks for what is not supported; one
            line that names the field.
    """
    path = network_file(folder, "unet")
    content = read_json(path)
    if content.get("_class_name") != CLASS:
        raise ValueError(
            f"{path} is of class {shown(content.get('_class_name'))}; only {CLASS} can be imported "
            "as a ConditionalUNet"
        )
    fields, net = network_of(path, content)
    return path, fields, net


def network_of(path: Path, content: dict[str, Any]) -> tuple[dict[str, Any], ConditionalUNet]:
    """The fields in config.json that have a meaning here, and the network that they describe.

    content: of the file `path`.

    Raises:
        ValueError: a field asks for what is not supported; one line that names the field.
    """
    fields = _fields(path, content)
    return fields, _module(path, fields)


def _fields(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """What config.json says of the fields in `_FIELDS`."""
    content = {key: value for key, value in content.items() if key not in _UNREAD}
    for key in ("transformer_layers_per_block", "attention_head_dim"):
        if type(content.get(key)) is int:
            content[key] = [content[key]]
    for key in ("addition_time_embed_dim", "projection_class_embeddings_input_dim"):
        if content.get(key, 0) is None:
            del content[key]
    only_cross = content.get("only_cross_attention")
    if isinstance(only_cross, list) and not any(only_cross):
        del content["only_cross_attention"]
    fields = checked(path, content, _FIELDS, _FIXED)
    added = "addition_time_embed_dim", "projection_class_embeddings_input_dim"
    if content.get("addition_embed_type") is None:
        fields |= dict.fromkeys(added, 0)
    elif not all(fields[key] for key in added):
        refuse(path, content, "addition_embed_type", f"it needs {' and '.join(added)}")
    return fields


def _module(path: Path, fields: dict[str, Any]) -> ConditionalUNet:
    for field in ("in_channels", "out_channels", "cross_attention_dim", "layers_per_block"):
        if not fields[field]:
            refuse(path, fields, field, "it is at least 1")
    channels, multiples = stages_of(path, fields, BLOCKS)
    layers, heads = (
        _of_stages(path, fields, field)
        for field in ("transformer_layers_per_block", "attention_head_dim")
    )
    attended = [name == "CrossAttnDownBlock2D" for name in fields["down_block_types"]]
    of_attention = [(h, c) for h, c, has in zip(heads, channels, attended, strict=True) if has]
    if any(not h or c % h for h, c in (*of_attention, (heads[-1], channels[-1]))):
        why = "it is the number of heads, which must divide the channels"
        refuse(path, fields, "attention_head_dim", why)
    if not all(layers):
        refuse(path, fields, "transformer_layers_per_block", "each is at least 1")
    more = fields["in_channels"] - fields["out_channels"]
    return ConditionalUNet(
        channels=channels[0],
        ch_mult=multiples,
        num_res_blocks=fields["layers_per_block"],
        depths=tuple(n if has else 0 for n, has in zip(layers, attended, strict=True)),
        mid_depth=layers[-1],
        num_heads=heads[0] if len(set(heads)) == 1 else heads,
        linear_projection=fields["use_linear_projection"],
        context_features=fields["cross_attention_dim"],
        **_vectors(path, fields),
        cond_channels=max(more, 0),
        out_channels=fields["out_channels"] if more < 0 else 0,
        groups=fields["norm_num_groups"],
        dropout=float(fields["dropout"]),
    )


def _of_stages(path: Path, fields: dict[str, Any], field: str) -> tuple[int, ...]:
    """A number for each stage."""
    values, stages = fields[field], len(fields["block_out_channels"])
    if values is None or len(values) not in (1, stages):
        refuse(path, fields, field, f"block_out_channels has {stages} stages")
    return tuple(values) * (stages if len(values) == 1 else 1)


def _vectors(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of ConditionalUNet for vector and sizes.

    The file tells the features of one size, and those of all together with the vector. XL has six
    sizes and its refiner five; the text of both has 1,280 numbers.
    """
    each, together = (
        fields[key] for key in ("addition_time_embed_dim", "projection_class_embeddings_input_dim")
    )
    if not together:
        return {}
    sizes = 5 if together == 1280 + 5 * each else 6
    if each % 2 or together < sizes * each:
        why = f"it holds {sizes} sizes of addition_time_embed_dim={each} numbers, an even number"
        refuse(path, fields, "projection_class_embeddings_input_dim", why)
    return {
        "cond_features": together - sizes * each,
        "sizes": sizes,
        "size_features": each,
    }


def config_of(
    net: ConditionalUNet, in_channels: int, out_channels: int, sample_size: int | None
) -> dict[str, Any]:
    """The fields of the UNet2DConditionModel that is next to `net`."""
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in net.depths]
    sizes = net.sizes * net.size_features
    return {
        "_class_name": CLASS,
        "_diffusers_version": VERSION,
        "sample_size": sample_size,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "center_input_sample": False,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "down_block_types": down,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": [BLOCKS[name] for name in reversed(down)],
        "only_cross_attention": False,
        "block_out_channels": [round(net.channels * multiple) for multiple in net.ch_mult],
        "layers_per_block": net.num_res_blocks,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "dropout": net.dropout,
        "act_fn": "silu",
        "norm_num_groups": net.groups,
        "norm_eps": 1e-5,
        "cross_attention_dim": net.context_features,
        "transformer_layers_per_block": [depth or net.mid_depth for depth in net.depths],
        "attention_head_dim": list(net.heads),
        "use_linear_projection": net.linear_projection,
        "addition_embed_type": "text_time" if sizes or net.cond_features else None,
        "addition_time_embed_dim": net.size_features if sizes else None,
        "projection_class_embeddings_input_dim": (net.cond_features + sizes) or None,
    }
