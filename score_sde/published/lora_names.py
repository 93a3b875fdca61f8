"""The names of arrays in files of LoRA over a U-Net of Stable Diffusion."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from score_sde.nets.conditional_unet import ConditionalUNet
from score_sde.published.diffusers_names import their_name
from score_sde.published.matching import Name

# Of a layer: what its arrays are called, in all kinds of files.
_PARTS = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_A.default.weight": "down",
    "lora_B.default.weight": "up",
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "alpha": "alpha",
    "dora_scale": "magnitude",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "lora_magnitude_vector.default.weight": "magnitude",
}
_PREFIXES = ("base_model.model.", "unet.")
_TEXT = ("text_encoder.", "text_encoder_2.", "lora_te_", "lora_te1_", "lora_te2_")
# What diffusers wrote before version 0.22: the layers belong to a processor of attention.
_PROCESSOR = re.compile(r"(.+)\.processor\.(to_q|to_k|to_v|to_out)_lora\.(down|up)\.weight")

# The names of the original code inside of its blocks.
_INNER = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


class Key(NamedTuple):
    """What an array is. layer: ours, or None of another network. part: "down", "up", "alpha" or
    "magnitude". of: the layer in the words of the file."""

    layer: Name | None
    part: str
    of: str


def layers_of(net: ConditionalUNet, layers: Iterable[Name]) -> dict[str, Name]:
    """The layers by their names in diffusers.

    Raises:
        ValueError: diffusers has no such network.
    """
    if net.numbers:
        raise ValueError(f"diffusers has no U-Net with net.numbers={net.numbers}")
    last = len(net.ch_mult) - 1
    return {their_name((*ours, "kernel"), last).removesuffix(".weight"): ours for ours in layers}


def parser(net: ConditionalUNet, layers: dict[str, Name]) -> Callable[[str], Key | None]:
    """`name of an array -> Key`, or None for a name that has no meaning."""
    known = {kohya: ours for theirs, ours in layers.items() for kohya in kohya_names(net, theirs)}
    known |= layers

    def parse(name):
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        if found := _PROCESSOR.fullmatch(name):
            block, layer, half = found.groups()
            name = f"{block}.{'to_out.0' if layer == 'to_out' else layer}.lora.{half}.weight"
        for ending, part in _PARTS.items():
            if name.endswith(f".{ending}"):
                of = name.removesuffix(f".{ending}")
                if of in known:
                    return Key(known[of], part, of)
                return Key(None, part, of) if of.startswith(_TEXT) else None
        # layers of text encoders have older names too, which nothing here reads
        return Key(None, "", name.split(".lora")[0]) if name.startswith(_TEXT) else None

    return parse


def kohya_names(net: ConditionalUNet, theirs: str) -> tuple[str, str]:
    """The names of sd-scripts of a layer: by that in diffusers, as of Stable Diffusion 1 and 2, and
    by that in the original code, as of XL."""
    names = theirs, original_name(net, theirs)
    first, second = (f"lora_unet_{name.replace('.', '_')}" for name in names)
    return first, second


def original_name(net: ConditionalUNet, theirs: str) -> str:
    """The name of a layer in the original code of latent diffusion."""
    if theirs in _OUTSIDE:
        return _OUTSIDE[theirs]
    kind, *where = theirs.split(".")
    per_stage = net.num_res_blocks + 1
    if kind == "mid_block":
        part, number, *inner = where
        block = f"middle_block.{2 * int(number) if part == 'resnets' else 1}"
        return ".".join((block, *_inner(inner)))
    stage, part, number, *inner = where
    first, number = int(stage) * per_stage, int(number)
    if part == "downsamplers":
        return f"input_blocks.{first + per_stage}.0.op"
    if part == "upsamplers":
        has_attention = net.depths[len(net.ch_mult) - 1 - int(stage)] > 0
        return f"output_blocks.{first + per_stage - 1}.{1 + has_attention}.conv"
    block = f"input_blocks.{1 + first + number}" if kind == "down_blocks" else ""
    block = block or f"output_blocks.{first + number}"
    return ".".join((block, str(int(part == "attentions")), *_inner(inner)))


def _inner(names: list[str]) -> list[str]:
    return [_INNER.get(name, name) for name in names]
