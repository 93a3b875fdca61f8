"""What a medium is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped


@runtime_checkable
class Medium(Protocol):
    """Writes what `Codec.show` gives. Every file is whole or not there; pictures are PNGs,
    which say that a model drew them (`pictures.write_generated`)."""

    suffix: str  # of the file of one sample, such as ".png"

    def save(self, path: Path, shown: Shaped[np.ndarray, "..."]) -> None:
        """Writes one sample as a file."""
        ...

    def sheet(self, path: Path, shown: Shaped[np.ndarray, "n ..."]) -> None:
        """Draws n samples as one picture."""
        ...

    def rows(self, path: Path, shown: Shaped[np.ndarray, "n k ..."], labels: Sequence[str]) -> None:
        """Draws n rows of k samples as one picture, each column under its label."""
        ...

    def over_time(
        self, path: Path, sheets: dict[int, Path], count: int, shape: tuple[int, ...]
    ) -> None:
        """Draws the beginnings of sheets of different steps below one another.

        sheets: step -> a picture by `sheet`, each of `count` samples of this shape.
        """
        ...
