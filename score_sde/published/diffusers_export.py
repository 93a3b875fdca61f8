"""Folders of Hugging Face diffusers with a `UNet2DModel`, written from a network of ours.

What is written is read back by `diffusers.describe`, whose tables it uses in reverse. So a network
that diffusers does not have is found by the field that comes back changed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from flax.traverse_util import flatten_dict

from score_sde.config import build, parse
from score_sde.nets.ncsnpp import NCSNpp
from score_sde.published.diffusers_config import (
    BLOCKS,
    PREDICTIONS,
    SCHEDULES,
    VE,
    Description,
    describe,
)
from score_sde.published.diffusers_names import their_name
from score_sde.published.diffusers_weights import write_weights
from score_sde.published.matching import difference, to_torch
from score_sde.types import PyTree

VERSION = "0.42.0"  # whose fields these are
_PIPELINES = {"ScoreSdeVeScheduler": "ScoreSdeVePipeline", "DDPMScheduler": "DDPMPipeline"}


def write(folder: Path, net: NCSNpp, params: PyTree, about: Description) -> dict[str, Any]:
    """model_index.json, unet/ and scheduler/ of a pipeline.

    Returns: the fields of a config that the scheduler decides, as an import reads them.

    Raises:
        ValueError: as `published.save`.
    """
    fields = scheduler(about)
    unet, last = folder / "unet", len(net.ch_mult) - 1
    index = {
        "_class_name": _PIPELINES[fields["_class_name"]],
        "_diffusers_version": VERSION,
        "scheduler": ["diffusers", fields["_class_name"]],
        "unet": ["diffusers", "UNet2DModel"],
    }
    unet.mkdir(parents=True)
    (folder / "scheduler").mkdir()
    write_json(folder / "model_index.json", index)
    write_json(unet / "config.json", _unet(net, about))
    write_json(folder / "scheduler" / "scheduler_config.json", fields)
    found = _check(folder, net, about)
    arrays = {}
    for ours, value in flatten_dict(params).items():
        theirs = their_name(ours, last)
        arrays[theirs] = _layout(theirs, np.asarray(value, np.float32))
    write_weights(unet, arrays)
    return {name: getattr(found, name) for name in ("sde", "parametrization", "c_noise")}


def read_back(read: Callable[[Path], Any], folder: Path) -> Any:
    """read(folder), of what was written there.

    Raises:
        ValueError: diffusers has nothing like it. One line.
    """
    try:
        return read(folder)
    except ValueError as error:
        raise ValueError(
            f"diffusers has no such network: {str(error).replace(f'{folder}/', '')}; "
            "export.format='safetensors' takes any network"
        ) from error


def require_counterpart(name: str, net: nn.Module, back: nn.Module) -> None:
    """Checks that what was written reads as the same network.

    name: of the class of diffusers. back: the network that was read.

    Raises:
        ValueError: a field came back changed.
    """
    if found := difference(net, back):
        field, ours, value = found
        raise ValueError(
            f"diffusers' {name} has no counterpart of net.{field}={ours!r} (the nearest is "
            f"{value!r}); export.format='safetensors' takes any network"
        )


def write_json(path: Path, fields: dict[str, Any]) -> None:
    """Writes the fields of a class, as `diffusers_files.read_json` reads them."""
    path.write_text(json.dumps(fields, indent=2) + "\n")


def _unet(net: NCSNpp, about: Description) -> dict[str, Any]:
    """The fields of the UNet2DModel that is next to `net`."""
    pyramids, heights = net.progressive == "output_skip", range(len(net.ch_mult))
    wanted = [(about.image_size // 2**i in net.attn_resolutions, pyramids) for i in heights]
    down = {(attention, pyramid): name for name, (_, attention, pyramid) in BLOCKS.items()}
    names = [down[kind] for kind in wanted]
    return {
        "_class_name": "UNet2DModel",
        "_diffusers_version": VERSION,
        "sample_size": about.image_size,
        "in_channels": about.channels,
        "out_channels": about.channels,
        "center_input_sample": not net.centered,
        "time_embedding_type": net.embedding,
        "freq_shift": net.freq_shift,
        "flip_sin_to_cos": False,
        "down_block_types": names,
        "up_block_types": [BLOCKS[name][0] for name in reversed(names)],
        "block_out_channels": [net.nf * multiple for multiple in net.ch_mult],
        "layers_per_block": net.num_res_blocks,
        "mid_block_scale_factor": math.sqrt(2) if net.skip_rescale else 1,
        "downsample_padding": 1 if net.down_padding == (1, 1) else 0,
        "dropout": net.dropout,
        "attention_head_dim": net.head_dim or None,
        "norm_num_groups": None if pyramids else net.max_groups,
        "norm_eps": net.norm_eps,
    }


def scheduler(about: Description) -> dict[str, Any]:
    """The fields of the scheduler of a process and a prediction.

    Raises:
        ValueError: diffusers has none. One line.
    """
    name, _ = parse(about.sde)
    if name not in ("DDPM", "VE"):
        raise ValueError(
            f"diffusers has no scheduler for {about.sde}: it has those of DDPM (a table of betas), "
            "and of VE with the score; export.format='safetensors' takes any process"
        )
    sde = build("processes", about.sde)
    prediction = parse(about.parametrization)[0]
    if name == "VE":
        solver, options = parse(about.sampling["solver"])
        options = options if solver == "predictor_corrector" else {}
        return {
            "_class_name": "ScoreSdeVeScheduler",
            "_diffusers_version": VERSION,
            "num_train_timesteps": about.sampling["steps"],
            "sigma_min": sde.sigma_min,
            "sigma_max": sde.sigma_max,
            "sampling_eps": sde.t_min,
            "snr": options.get("snr", VE["snr"]),
            "correct_steps": options.get("corrector_steps", VE["correct_steps"]),
        }
    theirs = {ours: name for name, ours in PREDICTIONS.items()}
    if prediction not in theirs:
        raise ValueError(
            f"diffusers has no scheduler for parametrization={about.parametrization} on a chain, "
            f"only for {', '.join(theirs)}; export.format='safetensors' takes any"
        )
    return {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": VERSION,
        "num_train_timesteps": sde.num_steps,
        "beta_start": sde.beta_min / sde.num_steps,
        "beta_end": sde.beta_max / sde.num_steps,
        "beta_schedule": {ours: name for name, ours in SCHEDULES.items()}[sde.schedule],
        "prediction_type": theirs[prediction],
        "rescale_betas_zero_snr": sde.zero_terminal_snr,
    }


def _check(folder: Path, net: NCSNpp, about: Description) -> Description:
    """What was written, as it is read.

    Raises:
        ValueError: it reads as another network or other images.
    """
    if about.centered is None:
        raise ValueError(
            "a folder of a UNet2DModel holds a network of images, and these data are none: "
            "export.format='safetensors' takes any"
        )
    found = read_back(describe, folder)
    require_counterpart("UNet2DModel", net, NCSNpp(**found.net))
    if found.centered != about.centered:
        raise ValueError(
            f"codec.centered is {about.centered}, and with this scheduler diffusers takes data for "
            f"{'[-1, 1]' if found.centered else '[0, 1]'}; export.format='safetensors' takes any"
        )
    return found


def _layout(theirs: str, value: np.ndarray) -> np.ndarray:
    """From our layout to that of diffusers, as `diffusers.load` reads it."""
    value = to_torch(value)
    if theirs.endswith("conv_shortcut.weight") and value.ndim == 2:
        value = value[:, :, None, None]
    return value
