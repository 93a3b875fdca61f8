"""The files under a folder, and the classes that their subfolders are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from score_sde.data.files import listed
from score_sde.data.folder_captions import read_labels
from score_sde.errors import DataError

__all__: list[str] = []  # what a config can name: nothing, for this is no data set


def files_under(root: Path, suffixes: Sequence[str], kind: str) -> list[Path]:
    """The files with these suffixes, by their sorted paths from the folder. Links are followed.
    Names that begin with a dot are passed over.

    kind: for the error.

    Raises DataError where there is none, or a link leads to a folder that it lies in.
    """
    every = (file.relative_to(root) for file in _files(root, ()))
    files = sorted(file for file in every if file.suffix.lower() in suffixes)
    if not files:
        raise DataError(f"{root} holds no {kind} ({', '.join(suffixes)})")
    return files


def labels_of(
    root: Path, files: list[Path], field: str | None, most: int | None
) -> tuple[dict[Path, int], int]:
    """The label of each file, 0..classes-1, and the number of classes: `most`, if that is given.

    field: of metadata.jsonl; None for the topmost subfolders that the files lie in, by sorted name.

    Raises DataError where files lie beside class folders, lack labels or have more classes.
    """
    if field is not None:
        labels = read_labels(root, files, field)
        there = 1 + max(labels.values())
    else:
        classes = classes_of(root, files)
        labels = {file: classes.index(file.parts[0]) if classes else 0 for file in files}
        there = max(len(classes), 1)
    if most is not None and most < there:
        raise DataError(f"{root} has {there} classes: num_classes={most} is too few")
    return labels, most or there


def classes_of(root: Path, files: Sequence[Path]) -> list[str]:
    """The names of the topmost subfolders that files, relative to the root, lie in; none where all
    lie in the root itself.

    Raises DataError where some do.
    """
    classes = sorted({file.parts[0] for file in files if len(file.parts) > 1})
    stray = [file for file in files if len(file.parts) == 1]
    if classes and stray:
        raise DataError(f"{root} has class folders, but {stray[0]} lies beside them")
    return classes


def _files(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """The files under a folder, itself under those above. (`Path.rglob` passes over links.)"""
    target = folder.resolve()
    if target in above:
        raise DataError(f"{folder} is a link to {target}, which it lies in: remove it")
    for path in listed(folder):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _files(path, (*above, target))
        else:
            yield path
