"""Random changes of training examples, by name: constructors of `(batch, u) -> batch`.

u [b] are uniform numbers in [0, 1), one for each example: all the randomness that there is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from score_sde.data.source import Example

Augmentation = Callable[[Example, Float[np.ndarray, " b"]], Example]


def none() -> Augmentation:
    """Nothing is changed."""
    return lambda batch, u: batch


def flip(part: str = "image") -> Augmentation:
    """Mirrors [h, w, c] left to right with probability 1/2."""

    def mirrored(batch, u):
        image, chosen = batch[part], u < 0.5
        image[chosen] = image[chosen][:, :, ::-1]  # ours to change: `gather` made it
        return batch

    return mirrored
