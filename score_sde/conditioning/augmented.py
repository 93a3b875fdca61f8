"""Class labels, and how a training example was changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from score_sde.conditioning.conditioner import Raw
from score_sde.conditioning.labels import Labels, labels
from score_sde.types import Cond, Feature


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

    @property
    def features(self) -> dict[str, Feature]:
        """The label and the numbers."""
        return {**self.labels.features, "augment": Feature((self.numbers,))}

    @property
    def nothing(self) -> Raw:
        """The label -1."""
        return self.labels.nothing

    def encode(self, raw: Raw) -> Cond:
        """The label and, where they are known, the numbers."""
        told = {"augment": jnp.asarray(raw["augment"])} if "augment" in raw else {}
        return {**self.labels.encode(raw), **told}

    def request(self, wanted: Any) -> Callable[[Array, Array], Raw]:
        """As `Labels`."""
        return self.labels.request(wanted)

    def check(self, raw: Raw) -> None:
        """As `Labels`."""
        self.labels.check(raw)
