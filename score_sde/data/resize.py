"""Bringing images of any size to one square size."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import UInt8


def to_square(image: Any, size: int, channels: int) -> UInt8[np.ndarray, "size size channels"]:
    """A PIL image, centre-cropped to a square and resized, as an array with 1 or 3 channels.

    Shrinks by BOX (the mean over each area) and enlarges by BICUBIC; an image that has the size
    already keeps its values.
    """
    from PIL import Image

    image = image.convert("L" if channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side != size:
        method = Image.Resampling.BOX if size < side else Image.Resampling.BICUBIC
        image = image.resize((size, size), method)
    return np.asarray(image, np.uint8).reshape(size, size, channels)
