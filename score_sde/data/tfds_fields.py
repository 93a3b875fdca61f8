"""Fields of text in the examples of TensorFlow Datasets, each named by its path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from score_sde.errors import DataError


def text_shape(dataset: str, features: Any, field: str, option: str) -> tuple[int | None, ...]:
    """The shape of a field: () of a text, with a length for each sequence around it, None where
    TFDS does not know it.

    field: with dots where it lies in another, such as "captions.text". option: what sets it.

    Raises DataError where there is no such field, or it holds no text.
    """
    found = dict(_texts(features.get_tensor_info()))
    if field not in found:
        raise DataError(
            f"{dataset} has no text {field!r}; {option} can be: "
            f"{', '.join(sorted(found)) or 'None'}"
        )
    return found[field]


def _texts(info: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[int | None, ...]]]:
    """The paths of all strings, with their shapes."""
    if isinstance(info, Mapping):
        for name, inner in info.items():
            yield from _texts(inner, (*path, name))
    elif np.dtype(info.np_dtype) == object:  # TFDS has strings so
        yield ".".join(path), info.shape


def texts_in(example: Mapping[str, Any], field: str) -> Iterator[bytes | str]:
    """The texts of a field of an example, those of sequences one after the other."""
    value: Any = example
    for name in field.split("."):
        value = value[name]
    return _flat([value])


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    """What sequences of sequences hold."""
    for value in values:
        if isinstance(value, list | tuple | np.ndarray):
            yield from _flat(value)
        else:
            yield value
