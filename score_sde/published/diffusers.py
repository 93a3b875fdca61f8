"""Folders of Hugging Face diffusers that hold a `UNet2DModel`: `describe` tells what a folder
holds, and `load` reads the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict

from score_sde.nets.ncsnpp import NCSNpp
from score_sde.published.diffusers_config import UNET, Description, describe
from score_sde.published.diffusers_files import files, own_scheduler, read_json
from score_sde.published.diffusers_names import their_name
from score_sde.published.diffusers_weights import read_weights
from score_sde.published.matching import (
    Imported,
    Name,
    call_order,
    fit,
    from_torch,
    require_same,
    swap_halves,
)
from score_sde.published.weights import Stored

__all__ = ["Description", "describe", "load"]


def load(folder: Path, net: NCSNpp, shape: tuple[int, ...]) -> Imported:
    """The weights of a folder. diffusers stores one set of them, and no step.

    Raises:
        ValueError: as `describe`; `net` is not the network that the folder describes; the weights
            are missing or damaged, or do not fit `net`.
    """
    require_same(folder, net, NCSNpp(**describe(folder).net), "diffusers")
    unet, scheduler = files(folder)
    file, given = read_weights(unet.parent)
    _, shapes = call_order(net, shape)
    flip = read_json(unet).get("flip_sin_to_cos", UNET["flip_sin_to_cos"])
    flat = flatten_dict(shapes)
    names = {ours: their_name(ours, len(net.ch_mult) - 1) for ours in flat}

    def ours_of(name: Name, stored: Stored) -> np.ndarray:
        value = from_torch(stored.read(), len(flat[name].shape))
        if name == ("embed_0", "kernel") and net.embedding == "positional" and flip:
            return swap_halves(value)  # from [cos, sin] to [sin, cos]
        return value

    params, own = fit(file, shapes, names, given, ours_of), own_scheduler(scheduler)
    return Imported("diffusers, UNet2DModel", file, params, None, 0, own)
