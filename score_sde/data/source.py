"""What a data set is: two random-access sources of examples, and the facts about them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from score_sde.errors import DataError
from score_sde.types import Feature

Example = dict[str, Any]
"""Parts by name, such as `{"image": uint8 [h, w, c], "label": int32 []}`, or a batch of them with
[b] in front."""


@runtime_checkable
class Source(Protocol):
    """Random access to examples; safe to read from several threads."""

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def __getitem__(self, index: int) -> Example:
        """One example."""
        ...


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set.

    features: of every part of an example, by name.
    made_by: where mode `encode` made parts of others by frozen networks, the SHA-256 of these, as
        `digests` of a codec or a conditioner have it.
    made_of: the features of those other parts, which its examples lack.
    """

    name: str
    train: Source
    test: Source
    features: dict[str, Feature]
    made_by: Mapping[str, str] = dataclasses.field(default_factory=dict)
    made_of: Mapping[str, Feature] = dataclasses.field(default_factory=dict)


def labelled_images(shape: tuple[int, ...], values: int = 256, classes: int = 1) -> dict:
    """The features of images [h, w, c] with numbers 0..values-1, and of their labels, which are 0
    where there is one class."""
    return {"image": Feature(shape, values), "label": Feature((), classes)}


def labelled_reals(part: str, shape: tuple[int, ...], classes: int = 1) -> dict:
    """The features of real numbers, such as latents, and of their labels, as `labelled_images`."""
    return {part: Feature(shape), "label": Feature((), classes)}


class Arrays:
    """A source held in memory: `Arrays(image=[n, h, w, c], label=[n])`."""

    def __init__(self, **parts: np.ndarray):
        self.parts = parts

    def __len__(self) -> int:
        """The number of examples."""
        return len(next(iter(self.parts.values())))

    def __getitem__(self, index: int | Sequence[int] | np.ndarray) -> Example:
        """One example, of views; or a batch."""
        return {name: array[index] for name, array in self.parts.items()}


@dataclasses.dataclass(frozen=True)
class Mapped:
    """A source that makes each example when asked for it: `read(items[index])`."""

    items: Sequence
    read: Callable[[Any], Example]

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.items)

    def __getitem__(self, index: int) -> Example:
        """One example, read anew."""
        return self.read(self.items[index])


@dataclasses.dataclass(frozen=True)
class Absent:
    """A source of a data set that is described but not there. Its length and its examples raise a
    DataError with `message`."""

    message: str

    def __len__(self) -> int:
        """Raises DataError."""
        raise DataError(self.message)

    def __getitem__(self, index: int) -> Example:
        """Raises DataError."""
        raise DataError(self.message)


@dataclasses.dataclass(frozen=True)
class Changed:
    """A source whose examples are changed when they are read."""

    source: Source
    change: Callable[[Example], Example]

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        """One example, changed."""
        return self.change(self.source[index])


def read_text(
    data: Data,
    read: Callable[[Example], dict[str, np.ndarray]],
    features: Mapping[str, Feature],
) -> Data:
    """The data set with numbers in the place of text: what `read` makes of an example, whose
    features these are. Text that nothing reads is left out. A data set without text stays as it
    is."""
    text = {name for name, feature in data.features.items() if feature.text}
    if not text:
        return data

    def change(example):
        return {k: v for k, v in example.items() if k not in text} | read(example)

    others = {name: feature for name, feature in data.features.items() if name not in text}
    train, test = (Changed(source, change) for source in (data.train, data.test))
    return dataclasses.replace(data, train=train, test=test, features={**others, **features})


def gather(source: Source, indices: Int[np.ndarray, "b"]) -> Example:
    """The batch of these examples."""
    examples = [source[int(i)] for i in indices]
    return {name: np.stack([e[name] for e in examples]) for name in examples[0]}


def fingerprint(source: Source, part: str) -> str:
    """SHA-256 of the number of examples and of this part of up to 64 of them, evenly spread. It
    tells one data set, or one way to resize it, from another, without reading it all."""
    size = len(source)
    digest = hashlib.sha256(str(size).encode())
    for index in sorted({i * size // 64 for i in range(64)}) if size else ():
        array = source[index][part]
        digest.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def in_memory(source: Source) -> Arrays:
    """Reads every example once, for a source that is slow to read and small enough to keep."""
    return Arrays(**gather(source, np.arange(len(source))))


def every_kth(n: int, test_fraction: float) -> tuple[list[int], list[int]]:
    """Splits range(n) into (train, test): one in `round(1 / test_fraction)` is for the test.

    Deterministic, and spread evenly, so that data sorted by class keep their proportions. Raises
    DataError if test_fraction is not in (0, 0.5] or n < 2.
    """
    if not 0 < test_fraction <= 0.5:
        raise DataError(f"test_fraction must be in (0, 0.5], got {test_fraction}")
    if n < 2:
        raise DataError(f"a train and a test split need at least 2 images, got {n}")
    k = round(1 / test_fraction)
    return [i for i in range(n) if i % k], list(range(0, n, k))
