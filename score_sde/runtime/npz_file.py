"""Reads the arrays of .npz and .npy files that may be damaged or malicious.

`numpy.load` allocates what a header claims before it looks for the numbers, and unpacks an archive
to any size. Here both are checked first, so the size of the file bounds time and memory.
"""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
from collections.abc import Container
from os import PathLike
from pathlib import Path

import numpy as np

from score_sde.errors import foreign, one_line, reason

# Only repeated numbers are compressed further than this.
_MOST_COMPRESSED = 100
_MOST_OF_HEADER = 20_000  # bytes; NumPy refuses a header of more than 10,000
_SMALL = 2**30  # bytes; an archive of so many is read whatever its compression


def read(path: str | PathLike, names: Container[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of a file by name, or only those in `names`. They are read-only.

    Raises:
      FileNotFoundError, PermissionError, IsADirectoryError: as `open` does.
      ValueError: the file is damaged or is no archive of plain arrays; one line.
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = {i.filename.removesuffix(".npy"): i for i in archive.infolist()}
                wanted = {k: i for k, i in members.items() if names is None or k in names}
                claimed = sum(info.file_size for info in wanted.values())
                if claimed > max(_SMALL, _MOST_COMPRESSED * path.stat().st_size):
                    raise ValueError(f"it claims to unpack to {claimed / 2**30:,.0f} GiB")
                return {name: _array(archive, info) for name, info in wanted.items()}
        except Exception as error:  # whatever a damaged file makes the parsers raise
            raise ValueError(
                f"{path} cannot be read as an .npz of plain arrays: "
                f"{one_line(error) or type(error).__name__}"
            ) from error


def names(path: str | PathLike) -> list[str]:
    """The names of the arrays of a file, of which nothing else is read.

    Raises:
      FileNotFoundError, PermissionError, IsADirectoryError: as `open` does.
      ValueError: the file is no archive; one line.
    """
    wrong = foreign(f"{path} is damaged or is no .npz file", ValueError)
    with Path(path).open("rb") as file, wrong, zipfile.ZipFile(file) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def mapped(path: str | PathLike) -> np.ndarray:
    """The array of a .npy file, which stays on the disk.

    Raises:
      FileNotFoundError, PermissionError, IsADirectoryError: as `open` does.
      ValueError: the file is damaged or is no such file; one line.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(len(np.lib.format.MAGIC_PREFIX))
    try:
        if start != np.lib.format.MAGIC_PREFIX:  # `numpy.load` would take it for another kind
            raise ValueError("it does not begin as such files do")
        _check_size(path)
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # whatever a damaged file makes the parser raise
        raise ValueError(f"{path} is damaged or is no .npy file ({reason(error)})") from error


def _check_size(path: Path) -> None:
    """Raises a ValueError of a .npy file that is not as long as it claims. NumPy would ask for what
    it claims, and divides by the size of a number, which may be 0."""
    with path.open("rb") as file:
        shape, _, dtype, begin = _header(file.read(_MOST_OF_HEADER))
    _check_claim(path.name, shape, dtype, path.stat().st_size - begin)


def _header(start: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, order and dtype, and where the numbers begin. A file's first `_MOST_OF_HEADER` bytes
    are enough: its header may claim a length of 4 GiB."""
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    file, found = io.BytesIO(start), None
    with contextlib.suppress(MemoryError):  # Python's parser raises it for many brackets
        found = *read[np.lib.format.read_magic(file)](file), file.tell()
    if found is None:
        raise ValueError("its header is no description of an array")
    return found


def _check_claim(name: str, shape: tuple[int, ...], dtype: np.dtype, held: int) -> None:
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects: save it as numbers, or text as dtype U")
    if dtype.names or not dtype.itemsize:
        raise ValueError(f"{name} holds {one_line(dtype)}, which is no number or text")
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or size != held:
        raise ValueError(f"{name} claims {dtype} {list(shape)}, {size:,} bytes, and has {held:,}")


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    if not info.filename.endswith(".npy"):
        raise ValueError(f"it holds {info.filename!r}, which is no array")
    with archive.open(info) as member:
        shape, fortran_order, dtype, begin = _header(member.read(_MOST_OF_HEADER))
        _check_claim(info.filename, shape, dtype, info.file_size - begin)
        member.seek(begin)
        numbers = np.frombuffer(member.read(), dtype, math.prod(shape))
        return numbers.reshape(shape, order="F" if fortran_order else "C")
