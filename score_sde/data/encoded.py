"""A data set that mode `encode` made of another: what frozen networks make of its examples, in
files of NumPy that may be larger than the memory."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from score_sde.data.source import Data, Example, Mapped
from score_sde.errors import DataError, foreign
from score_sde.runtime import json_file, npz_file
from score_sde.runtime.atomic import write_text
from score_sde.types import Column, Feature

SPLITS = ("train", "test")
DESCRIPTION = "encoded.json"


def encoded(path: str | os.PathLike) -> Data:
    """The folder DIR/encoded of mode `encode`: parts such as "moments", "label", "token", "context"
    and "vector". They are read from the disk when asked for; float16 becomes float32.

    Raises DataError where the folder or a file is missing, damaged or something else.
    """
    root = Path(path).expanduser()
    about = description(root)
    if about is None:
        raise DataError(
            f"{root} holds no {DESCRIPTION}: run --mode encode, or name the data set itself, such "
            "as --config.data='digits()'"
        )
    features, made_of = (features_of(about[name]) for name in ("features", "made_of"))
    train, test = (_source(root / split, features, about["number"][split]) for split in SPLITS)
    name = f"{about['data']}, encoded"
    return Data(name, train, test, features, made_by=about["made_by"], made_of=made_of)


def description(root: Path) -> dict[str, Any] | None:
    """What the folder says of itself; None without a description.

    Raises:
      DataError: the description is damaged.
    """
    path = root / DESCRIPTION
    try:
        found = json_file.read(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{error}: remove its folder, and encode anew") from error
    with foreign(f"{path} is damaged: remove its folder, and encode anew"):
        for name in ("made_by", "made_of", "features"):
            if not isinstance(found[name], dict):
                raise TypeError(f"{name} has no names")
        for name in (*features_of(found["features"]), *features_of(found["made_of"])):
            if not re.fullmatch(r"\w{1,100}", name):  # it is that of a file
                raise ValueError(f"{name!r} is no name of a part")
        if not all(type(found["number"][split]) is int for split in SPLITS):
            raise TypeError("number of examples")
        if not isinstance(found["data"], str):
            raise TypeError("data has no name")
    return found


def as_json(features: Mapping[str, Feature]) -> dict[str, Any]:
    """Features as a description has them."""
    return {
        name: {"shape": list(f.shape), "values": f.values, "text": f.text}
        | ({"names": list(f.names)} if f.names else {})
        | ({"columns": [_as_lists(column) for column in f.columns]} if f.columns else {})
        for name, f in features.items()
    }


def _as_lists(column: Column) -> list[Any]:
    return [list(part) if isinstance(part, tuple) else part for part in column]


def features_of(found: Mapping[str, Any]) -> dict[str, Feature]:
    """The inverse of `as_json`."""
    return {
        name: Feature(
            tuple(f["shape"]),
            f["values"],
            f["text"],
            tuple(f.get("names", ())),
            tuple(map(_column, f.get("columns", ()))),
        )
        for name, f in found.items()
    }


def _column(found: Sequence[Any]) -> Column:
    name, categories, values, scores, mean, std = found
    return Column(name, tuple(categories), tuple(values), tuple(scores), mean, std)


class Building:
    """A folder while it is made, beside the one that it becomes. Its arrays are on the disk.

    about: its description. dtypes: of each part. goes_on: whether what is there already is kept;
        if nothing is there, a work begins anew, and `done` says so.
    """

    def __init__(self, root: Path, about: dict[str, Any], dtypes: Mapping[str, Any], goes_on: bool):
        self.root, self.about = root, about
        self.folder = root.with_name(f"{root.name}.partial")
        self.goes_on = goes_on and self.folder.exists()
        if self.folder.exists() and not self.goes_on:
            shutil.rmtree(self.folder)
        features = features_of(about["features"])
        self.arrays = {split: {} for split in SPLITS}
        for split in SPLITS:
            (self.folder / split).mkdir(parents=True, exist_ok=True)
            for name, feature in features.items():
                path = self.folder / split / f"{name}.npy"
                shape = (about["number"][split], *feature.shape)
                new: Any = {"mode": "w+", "dtype": dtypes[name], "shape": shape}
                options: dict[str, Any] = {"mode": "r+"} if path.exists() else new
                self.arrays[split][name] = np.lib.format.open_memmap(path, **options)

    def put(
        self,
        split: str,
        numbers: Int[np.ndarray, " b"],
        mask: Bool[np.ndarray, " b"],
        parts: Example,
    ) -> None:
        """Writes the parts of the examples with these numbers, where the mask is true.

        Raises:
          ValueError: a number is not finite, or too large for the dtype.
        """
        for name, array in self.arrays[split].items():
            with np.errstate(over="ignore"):  # what is infinite then is told
                found = np.asarray(parts[name])[mask].astype(array.dtype)
            if found.dtype.kind == "f" and not np.isfinite(found).all():
                raise ValueError(f"{name} has numbers that are not finite as {found.dtype}")
            array[numbers[mask]] = found

    def flush(self) -> None:
        """Waits until all is on the disk."""
        for arrays in self.arrays.values():
            for array in arrays.values():
                array.flush()

    def finish(self) -> None:
        """Puts the folder in the place of the one before it."""
        self.flush()
        write_text(self.folder / DESCRIPTION, json.dumps(self.about, indent=2) + "\n")
        old = self.root.with_name(f"{self.root.name}.old")
        if old.exists():
            shutil.rmtree(old)
        if self.root.exists():
            self.root.rename(old)
        self.folder.rename(self.root)
        if old.exists():
            shutil.rmtree(old)


def _source(folder: Path, features: Mapping[str, Feature], number: int) -> Mapped:
    arrays = {}
    for name, feature in features.items():
        path = folder / f"{name}.npy"
        try:
            array = npz_file.mapped(path)
        except FileNotFoundError:
            raise DataError(f"{path} does not exist: run --mode encode again") from None
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise DataError(str(error)) from error
        kinds = "f" if feature.values is None else "iu"
        if array.shape != (number, *feature.shape) or array.dtype.kind not in kinds:
            raise DataError(
                f"{path} holds {array.dtype} {list(array.shape)}, and not what {DESCRIPTION} says: "
                "run --mode encode again"
            )
        arrays[name] = array

    def read(index: int) -> Example:
        return {
            name: np.asarray(array[index], np.float32 if array.dtype.kind == "f" else array.dtype)
            for name, array in arrays.items()
        }

    return Mapped(range(number), read)
