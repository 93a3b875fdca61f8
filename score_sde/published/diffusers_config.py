"""What a folder of Hugging Face diffusers says of its `UNet2DModel` and of the noise that it was
trained on.

A field that diffusers writes either has a meaning here, or must have one fixed value. An unknown
field is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from score_sde.published.diffusers_files import checked, files, read_json, refuse, shown

# The fields of UNet2DModel with their defaults: files of older versions have fewer.
UNET = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", *("AttnDownBlock2D",) * 3),
    "up_block_types": (*("AttnUpBlock2D",) * 3, "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "dropout": 0.0,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
}
# The fields that choose an architecture, with the values of the only one known here.
_UNET_FIXED = {
    "act_fn": ("silu", "swish"),
    "add_attention": (True,),
    "attn_norm_num_groups": (None,),
    "class_embed_type": (None,),
    "downsample_type": ("conv",),
    "mid_block_type": ("UNetMidBlock2D",),
    "num_class_embeds": (None,),
    "num_train_timesteps": (None,),
    "resnet_time_scale_shift": ("default",),
    "time_embedding_dim": (None,),
    "upsample_type": ("conv",),
}

# Schedulers that step through the same chain of DDPM, and the fields that make the chain.
CHAIN_SCHEDULERS = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
)
_CHAIN = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
}
# The classes whose files may lack betas that are others than those.
_BETAS = {
    f"{name}Scheduler": {"beta_start": 0.00085, "beta_end": 0.012}
    for name in ("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete")
}
_CHAIN_FIXED = {
    "timestep_type": ("discrete",),
    "trained_betas": (None,),
    "use_flow_sigmas": (None, False),
    "variance_type": (
        None,
        *(f"fixed_{size}{log}" for size in ("small", "large") for log in ("", "_log")),
    ),
}
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}

VE = {
    "num_train_timesteps": 2000,
    "snr": 0.15,
    "sigma_min": 0.01,
    "sigma_max": 1348.0,
    "sampling_eps": 1e-5,
    "correct_steps": 1,
}


class Description(NamedTuple):
    """What a folder says of its model, in the words of a config.

    net: fields of NCSNpp. sde, parametrization, c_noise, weighting: specs; the weighting is
    that of the loss the network was published with. num_steps: of the chain that it was trained on,
    or None if it was trained in continuous time. image_size: pixels. centered: whether data lie in
    [-1, 1], else [0, 1]. sampling: fields of a sampler, either the folder's own or a quicker one of
    the same chain.
    """

    net: dict[str, Any]
    sde: str
    parametrization: str
    c_noise: str
    num_steps: int | None
    image_size: int
    channels: int
    centered: bool
    weighting: str
    sampling: dict[str, Any]


def describe(folder: Path) -> Description:
    """Reads `config.json` and `scheduler_config.json` of a pipeline's folder.

    A saved pipeline has the network in `unet/` and the scheduler in `scheduler/`. Both may also lie
    in the folder itself.

    Raises:
        ValueError: a file is missing or damaged, or a field asks for what is not supported; one
            line that names the field.
    """
    unet, scheduler = files(folder)
    config = read_json(unet)
    if config.get("_class_name") != "UNet2DModel":
        raise ValueError(
            f"{unet} is of class {shown(config.get('_class_name'))}; only UNet2DModel can be "
            "imported"
        )
    fields = checked(unet, config, UNET, _UNET_FIXED)
    net = _net(unet, fields)
    size, channels = net.pop("image_size"), fields["in_channels"]
    of_noise = process(scheduler, unet, fields["time_embedding_type"])
    return Description(net=net, image_size=size, channels=channels, **of_noise)


BLOCKS = {  # name on the way down: (name on the way up, attention, skip pyramids)
    "DownBlock2D": ("UpBlock2D", False, False),
    "AttnDownBlock2D": ("AttnUpBlock2D", True, False),
    "SkipDownBlock2D": ("SkipUpBlock2D", False, True),
    "AttnSkipDownBlock2D": ("AttnSkipUpBlock2D", True, True),
}


def _net(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of NCSNpp from those of UNet2DModel, and `image_size`."""
    if fields["in_channels"] != fields["out_channels"]:
        refuse(path, fields, "out_channels", f"it must be in_channels, {fields['in_channels']}")
    channels, size = _stages(path, fields)
    blocks = _blocks(path, fields)
    if fields["time_embedding_type"] not in ("positional", "fourier"):
        refuse(path, fields, "time_embedding_type", "only 'positional' and 'fourier' are")
    attention = [has_attention for _, has_attention, _ in blocks]
    of_kind = _pyramid_net if blocks[0][2] else _plain_net
    return {
        "image_size": size,
        "nf": channels[0],
        "ch_mult": tuple(c // channels[0] for c in channels),
        "num_res_blocks": fields["layers_per_block"],
        "attn_resolutions": tuple(size // 2**i for i, has in enumerate(attention) if has),
        "head_dim": fields["attention_head_dim"] or 0,
        "dropout": float(fields["dropout"]),
        "embedding": fields["time_embedding_type"],
        "freq_shift": fields["freq_shift"],
        "scale_by_sigma": fields["time_embedding_type"] == "fourier",
        "centered": not fields["center_input_sample"],
        "norm_eps": float(fields["norm_eps"]),
        **of_kind(path, fields, attention),
    }


def _stages(path: Path, fields: dict[str, Any]) -> tuple[tuple[int, ...], int]:
    """The channels of each stage, and the size of the images, which each stage but the last
    halves."""
    channels, size = fields["block_out_channels"], fields["sample_size"]
    if not channels or any(type(c) is not int or c < 1 or c % channels[0] for c in channels):
        refuse(path, fields, "block_out_channels", "they must be multiples of the first")
    if len(channels) > 20:
        refuse(path, fields, "block_out_channels", "a network has at most 20 stages")
    if type(size) is tuple and len(set(size)) == 1:
        size = size[0]
    multiple = 2 ** (len(channels) - 1)
    if type(size) is not int or size < 1 or size % multiple:
        refuse(path, fields, "sample_size", f"it must be one multiple of {multiple}")
    return channels, size


def _blocks(path: Path, fields: dict[str, Any]) -> list[tuple[str, bool, bool]]:
    """The entry of BLOCKS for each stage."""
    down = [name.removeprefix("UNetRes") for name in fields["down_block_types"]]
    up = [name.removeprefix("UNetRes") for name in fields["up_block_types"]]
    if unknown := [name for name in down if name not in BLOCKS]:
        why = f"{unknown[0]} is not one of {', '.join(BLOCKS)}"
        refuse(path, fields, "down_block_types", why)
    if up[::-1] != [BLOCKS[name][0] for name in down]:
        refuse(path, fields, "up_block_types", "it must mirror down_block_types")
    stages = len(fields["block_out_channels"])
    if len(down) != stages:
        refuse(path, fields, "down_block_types", f"block_out_channels has {stages} stages")
    blocks = [BLOCKS[name] for name in down]
    if len({pyramids for _, _, pyramids in blocks}) > 1:
        why = "all blocks must have skip pyramids, or none"
        refuse(path, fields, "down_block_types", why)
    return blocks


def _pyramid_net(path: Path, fields: dict[str, Any], attention: Sequence[bool]) -> dict[str, Any]:
    """The fields of a network with skip pyramids, as NCSN++ for images of 256 pixels."""
    channels, groups = fields["block_out_channels"], fields["norm_num_groups"]
    if not math.isclose(float(fields["mid_block_scale_factor"]), math.sqrt(2), rel_tol=1e-5):
        refuse(path, fields, "mid_block_scale_factor", "with skip pyramids it must be sqrt(2)")
    if groups not in (None, 32) or (groups == 32 and min(channels) < 128):
        refuse(path, fields, "norm_num_groups", "with skip pyramids it must be null")
    if fields["in_channels"] != 3:
        refuse(path, fields, "in_channels", "skip pyramids have 3")
    if any(has and c < 128 for has, c in zip(attention, channels, strict=True)):
        why = "attention between skip pyramids needs 128 channels"
        refuse(path, fields, "block_out_channels", why)
    return {
        "resblock": "biggan",
        "fir": True,
        "progressive": "output_skip",
        "progressive_input": "input_skip",
        "skip_rescale": True,
        "min_group_size": 4,
        "max_groups": 32,
    }


def _plain_net(path: Path, fields: dict[str, Any], _: Sequence[bool]) -> dict[str, Any]:
    """The fields of a network without skip pyramids, as DDPM."""
    groups = fields["norm_num_groups"]
    if fields["mid_block_scale_factor"] != 1:
        refuse(path, fields, "mid_block_scale_factor", "it must be 1")
    if not groups or any(c % groups for c in fields["block_out_channels"]):
        why = "it must divide every one of block_out_channels"
        refuse(path, fields, "norm_num_groups", why)
    if fields["downsample_padding"] not in (0, 1):
        refuse(path, fields, "downsample_padding", "it must be 0 or 1")
    return {
        "resblock": "ddpm",
        "attn_each_up_block": True,
        "down_padding": (1, 1) if fields["downsample_padding"] else (0, 1),
        "skip_rescale": False,
        "min_group_size": 1,
        "max_groups": groups,
    }


def process(scheduler: Path, unet: Path, embedding: str) -> dict[str, Any]:
    """The fields of `Description` that a scheduler decides."""
    content = read_json(scheduler)
    kind = content.get("_class_name")
    if kind == "ScoreSdeVeScheduler":
        if embedding != "fourier":
            raise ValueError(
                f"{unet} has time_embedding_type={embedding!r}; a network of ScoreSdeVeScheduler "
                "has 'fourier'"
            )
        return _ve(scheduler, checked(scheduler, content, VE, {}))
    if kind not in CHAIN_SCHEDULERS:
        known = ", ".join((*CHAIN_SCHEDULERS, "ScoreSdeVeScheduler"))
        raise ValueError(f"{scheduler} is of class {shown(kind)}; known are {known}")
    if embedding == "fourier":
        raise ValueError(
            f"{unet} has time_embedding_type='fourier', which divides by the label, and the "
            f"labels of {kind} begin at 0"
        )
    # the other fields say how to step, not what was trained
    content = {key: content[key] for key in (*_CHAIN, *_CHAIN_FIXED) if key in content}
    defaults = {**_CHAIN, **_BETAS.get(kind, {})}
    return _chain(scheduler, checked(scheduler, content, defaults, _CHAIN_FIXED))


def _chain(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """A DDPM of the same betas. The network sees the number i of a step; that step stands at
    t = i / (N - 1)."""
    for field, known in (("beta_schedule", SCHEDULES), ("prediction_type", PREDICTIONS)):
        if fields[field] not in known:
            raise ValueError(
                f"{path}: {field}={shown(fields[field])} is not supported, only {', '.join(known)}"
            )
    n, schedule = fields["num_train_timesteps"], SCHEDULES[fields["beta_schedule"]]
    if n < 2:
        raise ValueError(f"{path}: num_train_timesteps={n} is no chain")
    options = {"num_steps": n, "schedule": schedule}
    if schedule != "cosine":
        betas = (float(fields[name]) * n for name in ("beta_start", "beta_end"))
        options |= dict(zip(("beta_min", "beta_max"), betas, strict=True))
    if fields["rescale_betas_zero_snr"]:
        if fields["prediction_type"] == "epsilon":
            raise ValueError(
                f"{path}: rescale_betas_zero_snr=True leaves nothing of the data in the last step, "
                "so that prediction_type='epsilon' says nothing of the data there"
            )
        options["zero_terminal_snr"] = True
    arguments = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return {
        "sde": f"DDPM({arguments})",
        "parametrization": PREDICTIONS[fields["prediction_type"]],
        "c_noise": f"time(scale={float(n - 1)!r})",
        "num_steps": n,
        "centered": True,
        # diffusers trains by the error of v if the network predicts v, else by that of the noise
        "weighting": "v" if fields["prediction_type"] == "v_prediction" else "simple",
        # the 51 times of this grid are whole steps of the chain
        "sampling": {"solver": "dpmpp", "grid": "linspace", "steps": min(50, n - 1)},
    }


def _ve(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """The VE process. The network sees sigma and divides its output by it: it predicts the
    score."""
    if not 0 < fields["sigma_min"] < fields["sigma_max"]:
        raise ValueError(f"{path}: sigma_min must be above 0 and below sigma_max")
    corrections = fields["correct_steps"]
    repeated = f", corrector_steps={corrections}" if corrections != 1 else ""
    return {
        "sde": (
            f"VE(sigma_min={float(fields['sigma_min'])!r}, "
            f"sigma_max={float(fields['sigma_max'])!r}, t_min={float(fields['sampling_eps'])!r})"
        ),
        "parametrization": "score",
        "c_noise": "noise_level",
        "num_steps": None,
        "centered": False,
        "weighting": "simple",
        "sampling": {
            "solver": f"predictor_corrector(snr={float(fields['snr'])!r}{repeated})",
            "grid": "uniform",
            "steps": fields["num_train_timesteps"],
        },
    }
