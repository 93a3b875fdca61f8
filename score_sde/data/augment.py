"""Random changes of training examples: constructors `(features, **options) -> Augmentation`.

u [b] are uniform numbers in [0, 1), one for each example: all the randomness that there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from score_sde.data.couplings import (
    entropic_coupling,
    exact_coupling,
    independent_coupling,
)
from score_sde.data.geometry import Change
from score_sde.data.source import Example
from score_sde.types import Feature

__all__ = [  # what a config can name
    "entropic_coupling",
    "exact_coupling",
    "flip",
    "geometric",
    "independent_coupling",
    "none",
]

Augmentation = Callable[[Example, Float[np.ndarray, " b"]], Example]
"""`(batch, u [b]) -> batch`, which may change the arrays of the batch."""


def none(features: Mapping[str, Feature]) -> Augmentation:
    """Nothing is changed."""
    return lambda batch, u: batch


def flip(features: Mapping[str, Feature], part: str = "image") -> Augmentation:
    """Mirrors images [h, w, c] left to right with probability 1/2.

    Raises:
      ValueError: the data set has no such part.
    """
    _check_part(features, part)

    def mirrored(batch, u):
        image, chosen = batch[part], u < 0.5
        image[chosen] = image[chosen][:, :, ::-1]  # ours to change: `gather` made it
        return batch

    return mirrored


def geometric(
    features: Mapping[str, Feature], p: float = 0.12, part: str = "image"
) -> Augmentation:
    """The augmentation of EDM (Karras et al. 2022, arXiv:2206.00364, app. F.2), for networks that
    see the change as nine numbers, in the part "augment" [b, 9] (`geometry.Change`).

    Images [h, w, c] are mirrored left to right with probability 1/2. Each of these happens with
    probability p: a toss whether to mirror up and down; scaling by 2^(0.2 z); rotation by any
    angle; scaling by 2^(0.2 z) along an axis, which is horizontal or any, and by its inverse
    across; a shift by z/8 of the width and the height. z are standard normal. With p = 0 nothing is
    changed.

    Images become real numbers, float32, which may leave their range a little.

    Raises:
      ValueError: the data set has no such part; p is no probability.
    """
    _check_part(features, part)
    if not 0 <= p <= 1:
        raise ValueError(f"p={p} is not between 0 and 1")

    def changed(batch, u):
        changes = [draw(np.random.default_rng(int(number * 2**53)), p) for number in u]
        images = [
            change.apply(image.astype(np.float32))
            for change, image in zip(changes, batch[part], strict=True)
        ]
        numbers = np.array([change.numbers for change in changes], np.float32)
        return batch | {part: np.stack(images), "augment": numbers}

    return changed


def draw(rng: np.random.Generator, p: float) -> Change:
    """What `geometric` does to an image."""

    def toss():
        return int(rng.integers(2))

    def angle():
        return rng.uniform(-math.pi, math.pi)

    def happens(rate):
        return int(rng.random() < rate)

    return Change(
        flips=(toss() * (p > 0), toss() * happens(p)),
        scale=rng.standard_normal() * happens(p),
        rotation=angle() * happens(p),
        stretch=rng.standard_normal() * happens(p),
        axis=angle() * happens(0.5),
        shift=tuple(rng.standard_normal(2) * happens(p)),
    )


def _check_part(features: Mapping[str, Feature], part: str) -> None:
    if part not in features:
        raise ValueError(
            f"the data set has no part {part!r}, only {', '.join(features)}: set data.augment to "
            "none"
        )
