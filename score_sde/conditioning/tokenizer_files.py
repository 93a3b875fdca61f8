"""The files of a folder with a tokenizer. Nothing in them is executed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from score_sde.errors import DataError, foreign


def folder_of(folder: str | PathLike) -> Path:
    """The folder of a tokenizer. Raises DataError if it is none, or is that of a pipeline."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"{folder} is no folder: a tokenizer is a folder, such as PIPELINE/tokenizer"
        )
    if (folder / "model_index.json").exists():
        parts = sorted(path.name for path in folder.glob("tokenizer*") if path.is_dir())
        which = f"give one of its folders {', '.join(parts)}" if parts else "it has no tokenizer"
        raise DataError(f"{folder} is a whole pipeline: {which}")
    return folder


def contents(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The files that are there."""
    return {name: read_bytes(folder / name) for name in names if (folder / name).exists()}


def read_bytes(path: Path) -> bytes:
    """Raises DataError if there is none."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def read_text(path: Path) -> str:
    """Raises DataError if it is no text."""
    content = read_bytes(path)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        kind = "a pickle or an archive" if content[:1] in (b"\x80", b"P") else "no UTF-8"
        raise DataError(f"{path} is no text but {kind}: nothing of it was read") from error


def read_json(path: Path) -> dict[str, Any]:
    """Raises DataError if it is damaged."""
    try:
        content = json.loads(read_text(path))
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} does not hold names and values")
    return content


def model_of(folder: Path) -> dict[str, Any]:
    """The model in tokenizer.json. Raises DataError if the file is damaged."""
    model = read_json(folder / "tokenizer.json").get("model")
    if not isinstance(model, dict):
        raise DataError(f"{folder}/tokenizer.json has no model")
    return model


def guarded(folder: Path, kind: str, build: Callable[[], Any]) -> Any:
    """What `build` returns. Raises DataError where it raises anything."""
    with foreign(f"{folder} holds no tokenizer of {kind}"):
        return build()


def digest(definition: str, content: dict[str, bytes]) -> str:
    """SHA-256 of a line and of files with their names."""
    hashed = hashlib.sha256(definition.encode())
    for name, data in content.items():
        hashed.update(f"\n{name} {len(data)}\n".encode() + data)
    return hashed.hexdigest()
