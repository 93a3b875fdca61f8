"""The JSON files in a folder of Hugging Face diffusers, and a check of what they hold."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any, NoReturn

from score_sde.errors import one_line

_LARGEST = 1_000_000  # no network or schedule has a larger number
_MOST_LAYERS = 100
_MOST_STAGES = 10


def files(folder: Path, part: str = "unet") -> tuple[Path, Path]:
    """config.json of the network, in the subfolder `part` of a pipeline, and of the scheduler."""
    network = network_file(folder, part)
    scheduler = scheduler_file(folder)
    if scheduler is None:
        raise ValueError(
            f"{folder} has no scheduler_config.json, which says what noise the network was trained "
            "on: give the folder of the whole pipeline"
        )
    return network, scheduler


def network_file(folder: Path, part: str) -> Path:
    """config.json of the network, in the subfolder `part` of a pipeline or in the folder itself."""
    if not folder.exists():
        raise ValueError(
            f"{folder} does not exist; a pipeline of the Hub is downloaded first: "
            f"hf download NAME --local-dir {folder.name}"
        )
    inside = folder / part / "config.json"
    network = inside if inside.exists() else folder / "config.json"
    if not network.exists():
        raise ValueError(f"{folder} has no config.json, nor has its subfolder {part}")
    return network


def scheduler_file(folder: Path) -> Path | None:
    """That of a pipeline, if the folder has one."""
    places = (folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json")
    return next((path for path in places if path.exists()), None)


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


def checked(
    path: Path,
    content: dict[str, Any],
    defaults: dict[str, Any],
    fixed: dict[str, tuple[Any, ...]],
) -> dict[str, Any]:
    """The values of the fields in `defaults`; a list becomes a tuple.

    fixed: for each field without a meaning here, the values that are allowed.

    Raises:
        ValueError: a field is unknown, is fixed to another value, or has a value unlike its
            default.
    """
    for key, value in content.items():
        if key in fixed and value not in fixed[key]:
            raise ValueError(
                f"{path}: {key}={shown(value)} is not supported, only {fixed[key][-1]!r}"
            )
        if key not in fixed and key not in defaults and not key.startswith("_"):
            raise ValueError(
                f"{path}: unknown field {shown(key)}; remove it there if it has no effect"
            )
    fields = defaults | {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in content.items()
        if key in defaults
    }
    for key, value in fields.items():
        if not _is_like(key, value, defaults[key]):
            raise ValueError(
                f"{path}: {key}={shown(value)} makes no sense, it should be like {defaults[key]!r}"
            )
        most = _MOST_LAYERS if key.endswith("layers_per_block") else _LARGEST
        entries = value if isinstance(value, tuple) else (value,)
        if not all(0 <= entry <= most for entry in entries if _is_number(entry)):
            raise ValueError(f"{path}: {key}={shown(value)} is not from 0 to {most:,}")
    return fields


def refuse(path: Path, fields: dict[str, Any], field: str, why: str) -> NoReturn:
    """Raises a ValueError of the value of a field."""
    raise ValueError(
        f"{path}: {field}={shown(fields[field])} is not supported: {one_line(why, 200)}"
    )


def stages_of(
    path: Path, fields: dict[str, Any], blocks: dict[str, str]
) -> tuple[tuple[int, ...], tuple[int | float, ...]]:
    """The channels of each stage, and the same in multiples of the first.

    blocks: the kinds that are known, by their names on the way down: those on the way up.

    Raises:
        ValueError: the groups of the normalisations do not divide them; a block is unknown; the way
            up is another than the way down.
    """
    channels, down = fields["block_out_channels"], fields["down_block_types"]
    groups, stages = fields["norm_num_groups"], len(channels)
    if not 1 <= stages <= _MOST_STAGES:
        why = f"a network has 1 to {_MOST_STAGES} stages"
        refuse(path, fields, "block_out_channels", why)
    if not all(channels):
        refuse(path, fields, "block_out_channels", "each is at least 1")
    if not groups or any(c % groups for c in channels):
        why = "it must divide every one of block_out_channels"
        refuse(path, fields, "norm_num_groups", why)
    if unknown := [name for name in down if name not in blocks]:
        why = f"{unknown[0]} is not one of {', '.join(blocks)}"
        refuse(path, fields, "down_block_types", why)
    if len(down) != stages:
        refuse(path, fields, "down_block_types", f"block_out_channels has {stages} stages")
    if fields["up_block_types"][::-1] != tuple(blocks[name] for name in down):
        refuse(path, fields, "up_block_types", "it must mirror down_block_types")
    ratios = (c / channels[0] for c in channels)
    return channels, tuple(int(ratio) if ratio == int(ratio) else ratio for ratio in ratios)


def _is_like(key: str, value: Any, like: Any) -> bool:
    """Whether a value is of the type that the field has."""
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


# Fields that say how a scheduler steps, and not what was trained.
_STEPPING = ("timestep_spacing", "clip_sample", "thresholding", "solver_order", "use_karras_sigmas")


def own_scheduler(path: Path) -> str:
    """The class in a `scheduler_config.json` and the fields of it that say how it samples."""
    content = read_json(path)
    fields = ", ".join(f"{key}={shown(content[key])}" for key in _STEPPING if key in content)
    return content["_class_name"] + (f"({fields})" if fields else "")
