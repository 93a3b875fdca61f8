"""The conditioner of a model without conditions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array

from score_sde.conditioning.conditioner import Raw
from score_sde.types import Cond, Feature, Key


def nothing(features: Mapping[str, Feature]) -> Nothing:
    """No condition, whatever the data set has."""
    return Nothing()


@dataclasses.dataclass(frozen=True)
class Nothing:
    """It reads no raw part and gives no condition. Other conditioners add theirs to it."""

    field = "labels"

    @property
    def digests(self) -> dict[str, str]:
        """None."""
        return {}

    @property
    def features(self) -> dict[str, Feature]:
        """None."""
        return {}

    @property
    def nothing(self) -> Raw:
        """No raw part."""
        return {}

    @property
    def sizes(self) -> dict[str, int]:
        """None."""
        return {}

    def read(self, example: Raw) -> dict[str, Any]:
        """It reads no text."""
        return {}

    def encode(self, raw: Raw, key: Key | None = None) -> Cond:
        """No condition."""
        return {}

    def stored(self, raw: Raw) -> dict[str, Array]:
        """Nothing."""
        return {}

    def request(self, wanted: Sequence[Any], examples: Any = ()) -> Callable[[Array, Array], Raw]:
        """No raw part.

        Raises:
          ValueError: a label is asked for.
        """
        if wanted:
            raise ValueError(f"{wanted} asks for labels, and the conditioner reads none: set it ()")
        return _no_part

    def told(self, raw: Raw) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}

    def check(self, raw: Raw) -> None:
        """Anything goes."""


def _no_part(keys: Array, numbers: Array) -> Raw:
    return {}
