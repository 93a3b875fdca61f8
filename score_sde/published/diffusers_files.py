"""The JSON files in a folder of Hugging Face diffusers, and a check of what they hold."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any

_LARGEST = 1_000_000  # no network or schedule has a larger number
_MOST_LAYERS = 100


def files(folder: Path, part: str = "unet") -> tuple[Path, Path]:
    """config.json of the network, in the subfolder `part` of a pipeline, and of the scheduler."""
    if not folder.exists():
        raise ValueError(
            f"{folder} does not exist; a pipeline of the Hub is downloaded first: "
            f"hf download NAME --local-dir {folder.name}"
        )
    inside = folder / part / "config.json"
    network = inside if inside.exists() else folder / "config.json"
    if not network.exists():
        raise ValueError(f"{folder} has no config.json, nor has its subfolder {part}")
    places = (folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json")
    scheduler = next((path for path in places if path.exists()), None)
    if scheduler is None:
        raise ValueError(
            f"{folder} has no scheduler_config.json, which says what noise the network was trained "
            "on: give the folder of the whole pipeline"
        )
    return network, scheduler


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
        most = _MOST_LAYERS if key == "layers_per_block" else _LARGEST
        entries = value if isinstance(value, tuple) else (value,)
        if not all(0 <= entry <= most for entry in entries if _is_number(entry)):
            raise ValueError(f"{path}: {key}={shown(value)} is not from 0 to {most:,}")
    return fields


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
