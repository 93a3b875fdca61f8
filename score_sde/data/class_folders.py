"""Files under a folder, whose topmost subfolders are classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from score_sde.data.files import listed
from score_sde.errors import DataError


def files_under(root: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files with such suffixes, relative to the root, in the order of their paths. Links are
    followed. Names that begin with a dot are passed over.

    Raises DataError where a folder cannot be read, or is a link to one that it lies in.
    """
    return sorted(
        file.relative_to(root) for file in _files(root, ()) if file.suffix.lower() in suffixes
    )


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
