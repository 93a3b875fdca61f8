"""The captions of a folder of images: in metadata.jsonl, or in text files beside the images. The
labels, where metadata.jsonl holds them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from score_sde.data.captions import written
from score_sde.errors import DataError, one_line

METADATA = "metadata.jsonl"

_CAPTIONS = (
    "set caption_field='.txt' for text files beside the images",
    "set caption_field to the one that holds the captions",
    "put its captions in one list",
)
_LABELS = (
    "leave label_field out: then subfolders are the classes",
    "set label_field to the one that holds the labels",
    "remove one of the two lines",
)

Value = TypeVar("Value")


def read_captions(root: Path, files: Sequence[Path], field: str) -> dict[Path, list[str]]:
    """The captions of the images `files`, paths under `root`.

    field: a suffix such as ".txt": of the text file beside each image, one caption a line; or a
        field of the lines of metadata.jsonl, a text or a list of texts. Each line is a JSON object
        and has `file_name` too, a path from its own folder, as Hugging Face's "imagefolder".

    Raises DataError where an image has no caption, or a line is of another kind or of no image.
    """
    if field.startswith("."):
        return {file: _beside(root / file, field) for file in files}

    def captions(value: Any, where: str) -> list[str]:
        texts = [value] if isinstance(value, str) else value
        if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
            raise DataError(f"{where}: {field!r} should be a text or a list of texts")
        return written(texts, where)

    return _of_tables(root, files, field, captions, advice=_CAPTIONS)


def read_labels(root: Path, files: Sequence[Path], field: str) -> dict[Path, int]:
    """The labels of the images `files`, paths under `root`: whole numbers from 0 on, in a field of
    the lines of metadata.jsonl, as `read_captions`.

    Raises DataError where an image has no label, or a line is of another kind or of no image.
    """

    def label(value: Any, where: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
            raise DataError(f"{where}: {field!r} should be a whole number from 0 on, below 2^31")
        return value

    return _of_tables(root, files, field, label, advice=_LABELS)


def _of_tables(
    root: Path,
    files: Sequence[Path],
    field: str,
    value_of: Callable[[Any, str], Value],
    advice: tuple[str, str, str],
) -> dict[Path, Value]:
    """`value_of(what the field holds, where it is)` of each image.

    advice: what the user can do where there is no table, where a line lacks the field, and where
        two lines are of one image.
    """
    folders = sorted({folder for file in files for folder in [file.parent, *file.parents]})
    tables = [folder / METADATA for folder in folders if (root / folder / METADATA).is_file()]
    if not tables:
        raise DataError(
            f"{root} holds no {METADATA}, which should name the {field!r} of each image: write it, "
            f"or {advice[0]}"
        )
    found: dict[Path, Value] = {}
    for table in tables:
        for where, name, value in _lines(root / table, field, advice[1]):
            file = Path(os.path.normpath(table.parent / name))
            if file in found:
                raise DataError(f"{where} names {one_line(name)} again: {advice[2]}")
            found[file] = value_of(value, where)
    if wrong := sorted(found.keys() - set(files)):
        raise DataError(
            f"{root}: {METADATA} names {one_line(wrong[0])}, which is no image there: mend its "
            "file_name or remove the line"
        )
    if missing := [file for file in files if file not in found]:
        raise DataError(
            f"{root}: {len(missing)} of {len(files)} images have no line in {METADATA}, such as "
            f"{missing[0]}: add one, or remove the image"
        )
    return found


def _beside(image: Path, suffix: str) -> list[str]:
    """The lines of the text file beside an image."""
    file = image.with_suffix(suffix)
    if not file.is_file():
        raise DataError(f"{image} has no caption: write {file.name} beside it, one caption a line")
    return written((line.strip() for line in _text(file).splitlines()), file)


def _lines(table: Path, field: str, advice: str) -> Iterator[tuple[str, str, Any]]:
    """Of each line that is not blank: where it is, file_name, and what the field holds."""
    for number, line in enumerate(_text(table).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{table}, line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            raise DataError(
                f'{where} is no JSON object: it should read {{"file_name": "0.png", "{field}": '
                '"a caption"}'
            )
        if field not in entry:
            raise DataError(
                f"{where} has no field {field!r}, only {one_line(', '.join(entry)) or 'nothing'}: "
                f"{advice}"
            )
        name = entry.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f"{where} has no file_name: write the path of its image")
        yield where, name, entry[field]


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no UTF-8 text ({error.reason}): save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
