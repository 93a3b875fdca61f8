"""The names of arrays in files of LoRA over the networks of Stable Diffusion."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
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
    "lora_linear_layer.down.weight": "down",
    "lora_linear_layer.up.weight": "up",
    "alpha": "alpha",
    "dora_scale": "magnitude",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "lora_magnitude_vector.default.weight": "magnitude",
}
UNET = "unet"
_TEXTS = ("text_encoder", "text_encoder_2")
LEVEL = "text_model."  # which files have in front of the name of a layer of a text encoder
_OF_PEFT = "base_model.model."
# What diffusers wrote before version 0.22: the layers belong to a processor of attention.
_PROCESSOR = re.compile(r"(.+)\.processor\.(to_q|to_k|to_v|to_out)_lora\.(down|up)\.weight")
_OLD_TEXT = re.compile(r"(.+self_attn)\.to_(q|k|v|out)_lora\.(down|up)\.weight")

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
    """What an array is. network: "unet" or a text encoder; None for one that is not there. layer:
    its name in diffusers or transformers. part: "down", "up", "alpha" or "magnitude"."""

    network: str | None
    layer: str
    part: str


def layers_of(net: ConditionalUNet, layers: Iterable[Name]) -> dict[str, Name]:
    """The layers by their names in diffusers.

    Raises:
        ValueError: diffusers has no such network.
    """
    if net.numbers:
        raise ValueError(f"diffusers has no U-Net with net.numbers={net.numbers}")
    last = len(net.ch_mult) - 1
    return {their_name((*ours, "kernel"), last).removesuffix(".weight"): ours for ours in layers}


def text_names(number: int) -> tuple[str, ...]:
    """What files call so many text encoders.

    Raises:
        ValueError: they have no names for so many.
    """
    if number > len(_TEXTS):
        raise ValueError(f"files of LoRA know {len(_TEXTS)} text encoders, and here are {number}")
    return _TEXTS[:number]


def parser(
    net: ConditionalUNet | None, networks: Mapping[str, Collection[str]]
) -> Callable[[str], Key | None]:
    """`name of an array -> Key`, or None for a name that has no meaning.

    networks: the names of the layers of each. A name without a network is of the first.
    """
    first = next(iter(networks))
    known = {f"{n}.{layer}": (n, layer) for n, layers in networks.items() for layer in layers}
    known |= {layer: (first, layer) for layer in networks[first]}
    for network in (n for n in networks if n != UNET):
        for layer in networks[network]:
            for start in text_starts(network):
                known[f"{start}_{LEVEL}{layer}".replace(".", "_")] = (network, layer)
    if net is not None:
        for layer in networks[UNET]:
            known |= dict.fromkeys(kohya_names(net, layer), (UNET, layer))

    def parse(name):
        name = _renewed(name.removeprefix(_OF_PEFT))
        for ending, part in _PARTS.items():
            if name.endswith(f".{ending}"):
                of = name.removesuffix(f".{ending}").replace(LEVEL, "", 1)
                if of in known:
                    return Key(*known[of], part)
        text = next((n for n in _TEXTS for s in (n, *text_starts(n)) if _is_of(name, s)), None)
        is_there = text is None or text in networks
        return None if is_there else Key(None, re.split(r"\.(?:lora|alpha|dora)", name)[0], "")

    return parse


def _is_of(name: str, start: str) -> bool:
    return name.startswith((f"{start}.", f"{start}_text_model"))


def text_starts(network: str) -> tuple[str, ...]:
    """How the names of sd-scripts begin of a text encoder: the only one, or one of two."""
    return ("lora_te", "lora_te1") if network == _TEXTS[0] else ("lora_te2",)


def _renewed(name: str) -> str:
    """The newer name for an array of old versions of diffusers."""
    if found := _PROCESSOR.fullmatch(name):
        block, layer, half = found.groups()
        return f"{block}.{'to_out.0' if layer == 'to_out' else layer}.lora.{half}.weight"
    if found := _OLD_TEXT.fullmatch(name):
        block, layer, half = found.groups()
        return f"{block}.{layer}_proj.lora.{half}.weight"
    return name


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
