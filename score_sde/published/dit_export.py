"""Folders of Hugging Face diffusers with a `DiTTransformer2DModel`, written from a DiT of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from score_sde.nets.dit import DiT
from score_sde.published import dit
from score_sde.published.diffusers_config import Description
from score_sde.published.diffusers_export import VERSION, require_counterpart, scheduler, write_json
from score_sde.published.diffusers_weights import write_weights
from score_sde.published.dit_diffusers import to_diffusers
from score_sde.published.dit_names import to_theirs
from score_sde.types import PyTree


def write(folder: Path, net: DiT, params: PyTree, about: Description) -> dict[str, Any]:
    """transformer/ and scheduler/ of a DiTPipeline, which has an autoencoder too.

    Returns: the fields of a config that the scheduler decides, as an import reads them.

    Raises:
        ValueError: as `published.save`.
    """
    inside = folder / "transformer"
    inside.mkdir(parents=True)
    (folder / "scheduler").mkdir()
    write_json(inside / "config.json", _transformer(net, about))
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler(about))
    found = dit.describe(folder)
    # the field out_channels is written, and read back as the channels of the head
    back = DiT(**found.net, out_channels=net.out_channels)
    require_counterpart("DiTTransformer2DModel", net, back)
    write_weights(inside, to_diffusers(to_theirs(net, params), net.depth))
    return found.process or {}


def _transformer(net: DiT, about: Description) -> dict[str, Any]:
    """The fields of the DiTTransformer2DModel that is next to `net`."""
    return {
        "_class_name": "DiTTransformer2DModel",
        "_diffusers_version": VERSION,
        "num_attention_heads": net.num_heads,
        "attention_head_dim": net.width // net.num_heads,
        "in_channels": about.channels,
        "out_channels": net.out_channels or about.channels,
        "num_layers": net.depth,
        "dropout": net.dropout,
        "sample_size": about.image_size,
        "patch_size": net.patch_size,
        "num_embeds_ada_norm": net.num_classes,
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "attention_bias": True,
        "activation_fn": "gelu-approximate",
    }
