"""What a data set is: two random-access sources of integer images, and the facts about them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Int32, UInt8

from score_sde.errors import DataError

Example = dict[str, Any]
"""`{"image": uint8 [h, w, c], "label": int32 []}`, or a batch of them with [b] in front."""


@runtime_checkable
class Source(Protocol):
    """Random access to examples; safe to read from several threads."""

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def __getitem__(self, index: int) -> Example:
        """`{"image": uint8 [h, w, c], "label": int32 []}`."""
        ...


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set. Images hold integer levels 0..levels-1 (`Pixels` takes them to real numbers).

    image_shape: (h, w, c), the same for every image; c is 1 (grey) or 3 (RGB).
    num_classes: labels are 0..num_classes-1; 1, with every label 0, where there are no labels.

    Raises DataError for images of another number of channels, which nothing here can draw.
    """

    name: str
    train: Source
    test: Source
    image_shape: tuple[int, int, int]
    levels: int
    num_classes: int

    def __post_init__(self) -> None:
        if self.image_shape[2] not in (1, 3):
            raise DataError(
                f"the images of {self.name} have {self.image_shape[2]} channels, not 1 (grey) or 3 "
                "(RGB)"
            )


@dataclasses.dataclass(frozen=True)
class Arrays:
    """A source held in memory."""

    image: UInt8[np.ndarray, "n h w c"]
    label: Int32[np.ndarray, "n"]

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.image)

    def __getitem__(self, index: int) -> Example:
        """One example; the image is a view."""
        return {"image": self.image[index], "label": self.label[index]}


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
    """A source of a data set that is described but not there: whoever asks how many examples it
    has, or for one, gets `message` as a DataError."""

    message: str

    def __len__(self) -> int:
        """Raises DataError."""
        raise DataError(self.message)

    def __getitem__(self, index: int) -> Example:
        """Raises DataError."""
        raise DataError(self.message)


def gather(source: Source, indices: Int[np.ndarray, "b"]) -> Example:
    """The batch `{"image": uint8 [b, h, w, c], "label": int32 [b]}` of these examples."""
    examples = [source[int(i)] for i in indices]
    return {key: np.stack([e[key] for e in examples]) for key in ("image", "label")}


def fingerprint(source: Source) -> str:
    """SHA-256 of the number of images and of up to 64 of them, evenly spread: what tells one data
    set, or one way to resize it, from another, without reading it all."""
    size = len(source)
    digest = hashlib.sha256(str(size).encode())
    for index in sorted({i * size // 64 for i in range(64)}) if size else ():
        image = source[index]["image"]
        digest.update(str(image.shape).encode() + np.ascontiguousarray(image).tobytes())
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
