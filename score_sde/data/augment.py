"""Random changes of training examples: constructors `(features, **options) -> Augmentation`.

u [b] are uniform numbers in [0, 1), one for each example: all the randomness that there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from score_sde.data.source import Example
from score_sde.types import Feature

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
    if part not in features:
        raise ValueError(
            f"the data set has no part {part!r}, only {', '.join(features)}: set data.augment to "
            "none"
        )

    def mirrored(batch, u):
        image, chosen = batch[part], u < 0.5
        image[chosen] = image[chosen][:, :, ::-1]  # ours to change: `gather` made it
        return batch

    return mirrored
