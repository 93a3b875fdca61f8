"""The captions of a data set of TensorFlow Datasets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from score_sde.data.captions import written
from score_sde.errors import DataError


def number_of_captions(dataset: str, features: Any, field: str) -> int | None:
    """How many texts an example has in a field; None where TFDS does not know it.

    field: of a text, or of a sequence of texts; with dots where it lies in another, such as
        "captions.text".

    Raises DataError where there is no such field, or it holds no text.
    """
    found = dict(_texts(features.get_tensor_info()))
    if field not in found:
        raise DataError(
            f"{dataset} has no text {field!r}; caption_field can be: "
            f"{', '.join(sorted(found)) or 'None'}"
        )
    known = [n for n in found[field] if n is not None]
    return math.prod(known) if len(known) == len(found[field]) else None


def _texts(info: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[int | None, ...]]]:
    """The paths of all strings, with their shapes."""
    if isinstance(info, Mapping):
        for name, inner in info.items():
            yield from _texts(inner, (*path, name))
    elif np.dtype(info.np_dtype) == object:  # TFDS has strings so
        yield ".".join(path), info.shape


def texts_of(example: Mapping[str, Any], field: str, dataset: str) -> list[str]:
    """The captions of an example.

    Raises DataError if there is none or one is no Unicode text.
    """
    value: Any = example
    for name in field.split("."):
        value = value[name]
    where = f"{dataset}: an example"
    try:
        texts = [v.decode() if isinstance(v, bytes) else str(v) for v in _flat([value])]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} has a caption that is no Unicode text ({error.reason}): set caption_field to "
            "another field"
        ) from error
    return written(texts, where, f"{field!r} is empty, so set caption_field to another field")


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    """What sequences of sequences hold."""
    for value in values:
        if isinstance(value, list | tuple | np.ndarray):
            yield from _flat(value)
        else:
            yield value
