"""What a folder of Hugging Face diffusers says of its `UNet2DModel` and of the table it was trained
with.

Every field that diffusers writes is either given a meaning here or must have the value that has
none; any other is refused by name.
"""

from __future__ import annotations

import json
import math
import reprlib
from pathlib import Path
from typing import Any, NamedTuple

# The fields of UNet2DModel with their defaults, for files of versions that had fewer.
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
# Those that only choose among architectures of which one is known here, with the values it has.
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

# Schedulers that step through one and the same table of DDPM, and the fields that make it.
TABLE_SCHEDULERS = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
)
_TABLE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
}
_TABLE_FIXED = {
    "trained_betas": (None,),
    "use_flow_sigmas": (None, False),
    "variance_type": (
        None,
        *(f"fixed_{size}{log}" for size in ("small", "large") for log in ("", "_log")),
    ),
}
_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}

# No network or table is larger.
_MOST, _MOST_LAYERS = 1_000_000, 100

_VE = {
    "num_train_timesteps": 2000,
    "snr": 0.15,
    "sigma_min": 0.01,
    "sigma_max": 1348.0,
    "sampling_eps": 1e-5,
    "correct_steps": 1,
}


class Description(NamedTuple):
    """What a folder says of its model, in the words of a config.

    net: fields of NCSNpp. sde, parametrization, conditioning: specs. num_steps: of the chain it was
    trained on, None where it was trained in continuous time. image_size: pixels. centered: whether
    data lie in [-1, 1], else [0, 1]. weighting: a spec, the loss that such a network is published
    with. sampling: fields that say how the folder's own pipeline, or a quicker sampler of the same
    table, draws.
    """

    net: dict[str, Any]
    sde: str
    parametrization: str
    conditioning: str
    num_steps: int | None
    image_size: int
    channels: int
    centered: bool
    weighting: str
    sampling: dict[str, Any]


def describe(folder: Path) -> Description:
    """Reads `config.json` and `scheduler_config.json` of a pipeline's folder.

    The network may lie in `unet/` and the scheduler in `scheduler/`, as pipelines are saved, or
    both in the folder itself.

    Raises:
        ValueError: a file is missing or damaged, or it asks for what is not here; one line that
            names the field.
    """
    unet, scheduler = files(folder)
    config = read_json(unet)
    if config.get("_class_name") != "UNet2DModel":
        raise ValueError(
            f"{unet} is of class {shown(config.get('_class_name'))}; only UNet2DModel can be "
            "imported"
        )
    fields = _fields(unet, config, UNET, _UNET_FIXED)
    net = _net(unet, fields)
    table = read_json(scheduler)
    kind = table.get("_class_name")
    if kind == "ScoreSdeVeScheduler":
        if net["embedding"] != "fourier":
            raise ValueError(
                f"{unet} has time_embedding_type={fields['time_embedding_type']!r}; a network of "
                "ScoreSdeVeScheduler has 'fourier'"
            )
        process = _ve(scheduler, _fields(scheduler, table, _VE, {}))
    elif kind in TABLE_SCHEDULERS:
        if net["embedding"] == "fourier":
            raise ValueError(
                f"{unet} has time_embedding_type='fourier', which divides by the label, and the "
                f"labels of {kind} begin at 0"
            )
        # the other fields say how to step, not what was trained
        table = {key: table[key] for key in (*_TABLE, *_TABLE_FIXED) if key in table}
        process = _table(scheduler, _fields(scheduler, table, _TABLE, _TABLE_FIXED))
    else:
        known = ", ".join((*TABLE_SCHEDULERS, "ScoreSdeVeScheduler"))
        raise ValueError(f"{scheduler} is of class {shown(kind)}; known are {known}")
    return Description(
        net=net, image_size=fields["sample_size"], channels=fields["in_channels"], **process
    )


def files(folder: Path) -> tuple[Path, Path]:
    """config.json of the network and of the scheduler."""
    inside = folder / "unet" / "config.json"
    unet = inside if inside.exists() else folder / "config.json"
    if not unet.exists():
        raise ValueError(f"{folder} has no config.json, nor has its subfolder unet")
    places = (folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json")
    scheduler = next((path for path in places if path.exists()), None)
    if scheduler is None:
        raise ValueError(
            f"{folder} has no scheduler_config.json, which says what noise the network was trained "
            "on: give the folder of the whole pipeline"
        )
    return unet, scheduler


def read_json(path: Path) -> dict[str, Any]:
    """The fields of a class. Raises ValueError of a damaged file."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold the fields of a class")
    return content


def _fields(
    path: Path,
    config: dict[str, Any],
    defaults: dict[str, Any],
    fixed: dict[str, tuple[Any, ...]],
) -> dict[str, Any]:
    """The fields that defaults has, after a check of all."""
    for key, value in config.items():
        if key in fixed and value not in fixed[key]:
            raise ValueError(
                f"{path}: {key}={shown(value)} is not supported, only {fixed[key][-1]!r}"
            )
        if key not in fixed and key not in defaults and not key.startswith("_"):
            raise ValueError(
                f"{path}: unknown field {shown(key)}; remove it there if it has no effect"
            )
    fields = defaults | {key: value for key, value in config.items() if key in defaults}
    for key, value in fields.items():
        like = defaults[key]
        if isinstance(value, list):
            fields[key] = value = tuple(value)
        if not _fits(key, value, like):
            raise ValueError(
                f"{path}: {key}={shown(value)} makes no sense, it should be like {like!r}"
            )
        most = _MOST_LAYERS if key == "layers_per_block" else _MOST
        entries = value if isinstance(value, tuple) else (value,)
        if not all(0 <= entry <= most for entry in entries if _is_number(entry)):
            raise ValueError(f"{path}: {key}={shown(value)} is not from 0 to {most:,}")
    return fields


def _fits(key: str, value: Any, like: Any) -> bool:
    """Whether a value is of the kind of a field."""
    if isinstance(value, tuple):
        kind = str if key.endswith("_types") else int
        return (isinstance(like, tuple) or key == "sample_size") and all(
            type(entry) is kind for entry in value
        )
    return (
        type(value) is type(like)
        or (isinstance(like, float) and _is_number(value))
        or (key == "mid_block_scale_factor" and _is_number(value))
        or (key in ("attention_head_dim", "norm_num_groups") and value is None)
        or (key == "sample_size" and type(value) is int)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """`repr` of what a file holds, cut where it is long or deep."""
    short = reprlib.Repr()
    short.maxlevel, short.maxlist, short.maxtuple, short.maxdict = 3, 12, 12, 4
    short.maxstring = short.maxother = short.maxlong = 60
    return short.repr(value)


_BLOCKS = {  # name on the way down: (name on the way up, attention, skip pyramids)
    "DownBlock2D": ("UpBlock2D", False, False),
    "AttnDownBlock2D": ("AttnUpBlock2D", True, False),
    "SkipDownBlock2D": ("SkipUpBlock2D", False, True),
    "AttnSkipDownBlock2D": ("AttnSkipUpBlock2D", True, True),
}


def _net(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of NCSNpp from those of UNet2DModel."""

    def refuse(field, why):
        raise ValueError(f"{path}: {field}={shown(fields[field])} is not supported: {why}")

    if fields["in_channels"] != fields["out_channels"]:
        refuse("out_channels", f"it must be in_channels, {fields['in_channels']}")
    channels = fields["block_out_channels"]
    if not channels or any(type(c) is not int or c < 1 or c % channels[0] for c in channels):
        refuse("block_out_channels", "they must be multiples of the first")
    size = fields["sample_size"]
    if type(size) is tuple and len(set(size)) == 1:
        size = fields["sample_size"] = size[0]
    if len(channels) > 20:
        refuse("block_out_channels", "a network has at most 20 levels")
    if type(size) is not int or size < 1 or size % 2 ** (len(channels) - 1):
        refuse("sample_size", f"it must be one multiple of {2 ** (len(channels) - 1)}")

    down = [name.removeprefix("UNetRes") for name in fields["down_block_types"]]
    up = [name.removeprefix("UNetRes") for name in fields["up_block_types"]]
    if unknown := [name for name in down if name not in _BLOCKS]:
        refuse("down_block_types", f"{unknown[0]} is not one of {', '.join(_BLOCKS)}")
    if up[::-1] != [_BLOCKS[name][0] for name in down]:
        refuse("up_block_types", "it must mirror down_block_types")
    if len(down) != len(channels):
        refuse("down_block_types", f"block_out_channels has {len(channels)} levels")
    pyramids = {_BLOCKS[name][2] for name in down}
    if len(pyramids) > 1:
        refuse("down_block_types", "all blocks must have skip pyramids, or none")
    attention = tuple(size // 2**level for level, name in enumerate(down) if _BLOCKS[name][1])

    if fields["time_embedding_type"] not in ("positional", "fourier"):
        refuse("time_embedding_type", "only 'positional' and 'fourier' are")
    fourier = fields["time_embedding_type"] == "fourier"
    net = {
        "nf": channels[0],
        "ch_mult": tuple(c // channels[0] for c in channels),
        "num_res_blocks": fields["layers_per_block"],
        "attn_resolutions": attention,
        "head_dim": fields["attention_head_dim"] or 0,
        "dropout": float(fields["dropout"]),
        "embedding": fields["time_embedding_type"],
        "freq_shift": fields["freq_shift"],
        "scale_by_sigma": fourier,
        "centered": not fields["center_input_sample"],
        "norm_eps": float(fields["norm_eps"]),
    }
    groups, scale = fields["norm_num_groups"], float(fields["mid_block_scale_factor"])
    if pyramids == {True}:
        if not math.isclose(scale, math.sqrt(2), rel_tol=1e-5):
            refuse("mid_block_scale_factor", "with skip pyramids it must be sqrt(2)")
        if groups not in (None, 32) or (groups == 32 and min(channels) < 128):
            refuse("norm_num_groups", "with skip pyramids it must be null")
        if fields["in_channels"] != 3:
            refuse("in_channels", "skip pyramids have 3")
        if any(_BLOCKS[n][1] and c < 128 for n, c in zip(down, channels, strict=True)):
            refuse("block_out_channels", "attention between skip pyramids needs 128 channels")
        return net | {
            "resblock": "biggan",
            "fir": True,
            "progressive": "output_skip",
            "progressive_input": "input_skip",
            "skip_rescale": True,
            "min_group_size": 4,
            "max_groups": 32,
        }
    if scale != 1:
        refuse("mid_block_scale_factor", "it must be 1")
    if not groups or any(c % groups for c in channels):
        refuse("norm_num_groups", "it must divide every one of block_out_channels")
    if fields["downsample_padding"] not in (0, 1):
        refuse("downsample_padding", "it must be 0 or 1")
    return net | {
        "resblock": "ddpm",
        "attn_each_up_block": True,
        "down_padding": (1, 1) if fields["downsample_padding"] else (0, 1),
        "skip_rescale": False,
        "min_group_size": 1,
        "max_groups": groups,
    }


def _table(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """A DDPM of the same betas. The network sees the number of a step, of which step i stands at
    t = i / (N - 1)."""
    for field, known in (("beta_schedule", _SCHEDULES), ("prediction_type", _PREDICTIONS)):
        if fields[field] not in known:
            raise ValueError(
                f"{path}: {field}={shown(fields[field])} is not supported, only {', '.join(known)}"
            )
    n, schedule = fields["num_train_timesteps"], _SCHEDULES[fields["beta_schedule"]]
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
                "where prediction_type='epsilon' then tells nothing of it"
            )
        options["zero_terminal_snr"] = True
    arguments = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return {
        "sde": f"DDPM({arguments})",
        "parametrization": _PREDICTIONS[fields["prediction_type"]],
        "conditioning": f"time(scale={float(n - 1)!r})",
        "num_steps": n,
        "centered": True,
        # the mean square of what it predicts: of v, or of the noise, also where it predicts x_0
        "weighting": "v" if fields["prediction_type"] == "v_prediction" else "simple",
        # the evaluations are at 51 whole steps of the chain
        "sampling": {"solver": "dpmpp", "grid": "linspace", "steps": min(50, n - 1)},
    }


def _ve(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """The VE process. The network sees sigma, divides by it and so predicts the score."""
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
        "conditioning": "noise_level",
        "num_steps": None,
        "centered": False,
        "weighting": "simple",
        "sampling": {
            "solver": f"predictor_corrector(snr={float(fields['snr'])!r}{repeated})",
            "grid": "uniform",
            "steps": fields["num_train_timesteps"],
        },
    }
