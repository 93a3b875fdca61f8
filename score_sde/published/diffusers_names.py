"""The names in Hugging Face diffusers of the parameters of our U-Nets and autoencoders."""

from __future__ import annotations

import re

from score_sde.published.matching import Name

# The name in diffusers of a module whose path here begins so. `up` counts the stages from the
# middle.
_MODULES = (
    (r"conv_in", "conv_in"),
    (r"embed_0", "time_embedding.linear_1"),
    (r"embed_1", "time_embedding.linear_2"),
    (r"embed_vectors_0", "add_embedding.linear_1"),
    (r"embed_vectors_1", "add_embedding.linear_2"),
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
    (r"hint_in", "controlnet_cond_embedding.conv_in"),
    (r"hint_out", "controlnet_cond_embedding.conv_out"),
    (r"hint_(?P<i>\d+)", "controlnet_cond_embedding.blocks.{i}"),
    (r"told_middle", "controlnet_mid_block"),
    (r"told_(?P<i>\d+)", "controlnet_down_blocks.{i}"),
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
    # of a transformer between convolutions, and of its blocks
    "norm_in": "norm",
    "proj_in": "proj_in",
    "proj_out": "proj_out",
    "self_norm": "norm1",
    "self_attention": "attn1",
    "cross_norm": "norm2",
    "cross_attention": "attn2",
    "mlp_norm": "norm3",
    "mlp_in": "ff.net.0.proj",
    "mlp_out": "ff.net.2",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
}


def their_name(ours: Name, last: int) -> str:
    """The name in diffusers of a parameter; `last` is the number of the stage in the middle."""
    *modules, leaf = ours
    path = "/".join(modules)
    for pattern, template in _MODULES:
        if found := re.match(rf"{pattern}(?:/|$)", path):
            groups = found.groupdict()
            head = template.format(up=last - int(groups.get("stage") or 0), **groups)
            inner = [_inner(name) for name in path[found.end() :].split("/") if name]
            return ".".join((head, *inner, "bias" if leaf == "bias" else "weight"))
    raise AssertionError(f"{path} has no counterpart")


def _inner(name: str) -> str:
    block = re.fullmatch(r"block_(\d+)", name)
    return f"transformer_blocks.{block[1]}" if block else _INNER[name]
