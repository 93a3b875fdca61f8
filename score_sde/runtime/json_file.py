"""Reads a JSON file that may be damaged, or made by another."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from score_sde.errors import one_line


def read(path: str | PathLike) -> dict[str, Any]:
    """The names and values in a file.

    Raises:
      FileNotFoundError, PermissionError, IsADirectoryError: as `open` does.
      ValueError: the file is damaged, or holds something else; one line.
    """
    content = Path(path).read_bytes()
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:  # it may be nested without end
        raise ValueError(f"{path} is damaged, it is no JSON ({one_line(error)})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged, it holds no names and values")
    return found
