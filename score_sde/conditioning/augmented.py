"""Class labels, and how a training example was changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.conditioning.conditioner import Raw
from score_sde.conditioning.labels import Labels, labels
from score_sde.types import Cond, Feature, Key


def augmented(features: Mapping[str, Feature], *, numbers: int = 9) -> Augmented:
    """The labels of a data set, and the numbers of its augmentation."""
    return Augmented(labels(features), numbers)


@dataclasses.dataclass(frozen=True)
class Augmented:
    """The label of each example, and the part "augment", which `data.augment.geometric` adds in
    training: a network that sees it does not draw what only augmentation makes (Karras et al. 2022,
    arXiv:2206.00364, app. F.2).

    Without that part, as in sampling, the condition is the label alone, and nothing was changed. An
    example that loses its label keeps these numbers.
    """

    labels: Labels
    numbers: int = 9

    field = "labels"

    @property
    def digests(self) -> dict[str, str]:
        """None."""
        return {}

    @property
    def features(self) -> dict[str, Feature]:
        """The label and the numbers."""
        return {**self.labels.features, "augment": Feature((self.numbers,))}

    @property
    def nothing(self) -> Raw:
        """The label -1."""
        return self.labels.nothing

    @property
    def sizes(self) -> dict[str, int]:
        """The number of classes, and of the numbers."""
        return {**self.labels.sizes, "augment": self.numbers}

    def read(self, example: Raw) -> dict[str, Any]:
        """It reads no text."""
        return {}

    def encode(self, raw: Raw, key: Key | None = None) -> Cond:
        """The label and, where they are known, the numbers."""
        told = {"augment": jnp.asarray(raw["augment"])} if "augment" in raw else {}
        return {**self.labels.encode(raw), **told}

    def stored(self, raw: Raw) -> dict[str, Array]:
        """The label; examples are changed in training alone."""
        return self.labels.stored(raw)

    def request(self, wanted: Any, examples: Any = ()) -> Callable[[Array, Array], Raw]:
        """As `Labels`."""
        return self.labels.request(wanted)

    def told(self, raw: Raw) -> dict[str, np.ndarray]:
        """As `Labels`."""
        return self.labels.told(raw)

    def check(self, raw: Raw) -> None:
        """As `Labels`."""
        self.labels.check(raw)
