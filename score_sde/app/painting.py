"""From what was painted over a picture to an image and a mask that mode `edit` reads."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from score_sde.data.resize import to_square
from score_sde.errors import DataError

CANVAS = 448  # pixels, about the side of a picture to paint on
COVERED = 0.25  # of a pixel, from which on it is drawn anew


def enlarged(image: UInt8[np.ndarray, "h w c"]) -> Any:
    """A PIL image, by a whole factor, large enough to paint on."""
    from PIL import Image

    factor = max(1, round(CANVAS / max(image.shape[:2])))
    large = image.repeat(factor, axis=0).repeat(factor, axis=1)
    return Image.fromarray(large[..., 0] if large.shape[-1] == 1 else large).convert("RGB")


def image_of(picture: Any, shape: tuple[int, ...]) -> UInt8[np.ndarray, "h w c"]:
    """A PIL picture of any size in the size of the model's images. An enlarged one is what it was.

    Raises:
      DataError: the model's images are no squares, and the picture has other sides.
    """
    height, width, channels = shape
    if height == width:
        return to_square(picture, height, channels)
    _check_sides(picture, height, width)
    from PIL import Image

    small = picture.convert("L" if channels == 1 else "RGB")
    small = small.resize((width, height), Image.Resampling.BOX)
    return np.asarray(small, np.uint8).reshape(shape)


def known(layers: Sequence[Any], shape: tuple[int, ...]) -> Bool[np.ndarray, "h w"]:
    """The pixels of the model's images that the paint of PIL layers, RGBA, leaves free.

    Raises:
      DataError: nothing is painted, or all is, or the sides of a layer do not fit.
    """
    height, width = shape[:2]
    share = np.zeros((height, width))
    for layer in layers:
        alpha = layer.convert("RGBA").getchannel("A")
        share = np.maximum(share, image_of(alpha, (height, width, 1))[..., 0] / 255)
    painted = share >= COVERED
    if painted.all() or not painted.any():
        raise DataError(
            "paint over what is to be drawn anew: "
            + ("all of the image is painted" if painted.any() else "nothing is painted")
        )
    return ~painted


def png(image: np.ndarray) -> bytes:
    """An image [h, w, 1 or 3] of 0..255, or a mask bool [h, w], as a PNG."""
    from PIL import Image

    if image.dtype == bool:
        image = image[..., None].astype(np.uint8) * 255
    content = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(content, format="png")
    return content.getvalue()


def _check_sides(picture: Any, height: int, width: int) -> None:
    if abs(picture.width / picture.height - width / height) > 0.02 * width / height:
        raise DataError(
            f"the picture has {picture.width}x{picture.height} pixels, and the model's images are "
            f"{width}x{height}: cut it to these proportions"
        )
