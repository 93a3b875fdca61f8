"""The arrays of a folder of transformers or diffusers, read one by one: some have tens of GB."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ml_dtypes  # noqa: F401
import numpy as np

from score_sde.errors import one_line, reason
from score_sde.published import torch_file
from score_sde.published.diffusers_files import read_json

# `ml_dtypes` teaches NumPy the name bfloat16, by which safetensors asks for it.


class Stored(NamedTuple):
    """An array of a file. read: reads it."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def read_folder(
    folder: Path, stem: str = "model", old: str = "pytorch_model"
) -> tuple[Path, dict[str, Stored]]:
    """The file of the weights in a folder, and its arrays by name.

    It takes the first that is there of STEM.safetensors; the index of several such files; OLD.bin
    and the index of several; the same with "fp16" in their names.

    stem, old: what the library calls the file of a network, and called it before safetensors.

    Raises:
        ValueError: there is none; one is damaged, or would need code to be executed. One line.
    """
    whole = (f"{stem}.safetensors", f"{old}.bin")
    half = (f"{stem}.fp16.safetensors", f"{old}.fp16.bin")
    parted = {
        whole[0]: (f"{whole[0]}.index.json",),
        whole[1]: (f"{whole[1]}.index.json",),
        # diffusers, and transformers
        half[0]: (f"{whole[0]}.index.fp16.json", f"{half[0]}.index.json"),
        half[1]: (),
    }
    names = [name for single in (*whole, *half) for name in (single, *parted[single])]
    path = next((folder / name for name in names if (folder / name).exists()), None)
    if path is None:
        raise ValueError(f"{folder} has no weights: none of {', '.join(names)}")
    return path, _read_parts(path) if path.suffix == ".json" else _read_file(path)


def write_folder(folder: Path, arrays: dict[str, np.ndarray], stem: str) -> None:
    """Writes STEM.safetensors, as `read_folder` reads it."""
    from safetensors.numpy import save_file

    save_file(arrays, folder / f"{stem}.safetensors", {"format": "pt"})


def _read_file(path: Path) -> dict[str, Stored]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    return {name: _of_array(array) for name, array in torch_file.read_arrays(path).items()}


def read_safetensors(path: Path) -> dict[str, Stored]:
    """The arrays of a file by their names.

    Raises:
        OSError: as `open`. ValueError: it is damaged, or another kind of file.
    """
    from safetensors import safe_open

    try:
        with path.open("rb") as file:  # the library's error does not say which file it is
            start = file.read(2)
        opened = safe_open(path, framework="np")
        return {name: _lazily(opened, path, name) for name in opened.keys()}  # noqa: SIM118
    except OSError:
        raise
    except Exception as error:  # whatever a damaged file makes the parser raise
        pickled = start == b"PK" or start[:1] == b"\x80"
        what = (
            "is a pickle and no .safetensors file; nothing in it was executed"
            if pickled
            else ("is damaged or is no .safetensors file")
        )
        raise ValueError(f"{path} {what} ({reason(error)})") from error


def _lazily(opened, path: Path, name: str) -> Stored:
    described = opened.get_slice(name)

    def read():
        try:
            return opened.get_tensor(name)
        except Exception as error:  # a dtype that NumPy does not have
            raise ValueError(
                f"{path}: {one_line(name)} of {described.get_dtype()} cannot be read "
                f"({reason(error)})"
            ) from error

    return Stored(tuple(described.get_shape()), described.get_dtype(), read)


def _of_array(array: np.ndarray) -> Stored:
    return Stored(array.shape, array.dtype.name, lambda: array)


def _read_parts(index: Path) -> dict[str, Stored]:
    """The arrays of several files, whose index says where each is."""
    places = read_json(index).get("weight_map")
    if (
        not isinstance(places, dict)
        or not places
        or not all(isinstance(part, str) for part in places.values())
    ):
        raise ValueError(f"{index} does not say which file holds which array")
    files = {}
    for part in sorted(set(places.values())):
        if Path(part).name != part or Path(part).suffix not in (".safetensors", ".bin"):
            raise ValueError(f"{index} names {part!r:.80}, which is no file of its folder")
        path = index.with_name(part)
        if not os.path.exists(path):  # False for a name that no file can have; Path's raises
            raise ValueError(f"{index} names {one_line(part)}, which is not there")
        files[part] = _read_file(path)
    lost = [name for name, part in places.items() if name not in files[part]]
    if lost:
        raise ValueError(
            f"{index} says that {places[lost[0]]} holds {one_line(lost[0])}, and it does not"
        )
    return {name: files[part][name] for name, part in places.items()}
