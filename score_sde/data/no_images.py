"""The description of images without the images, for sampling."""

from __future__ import annotations

from score_sde.data.source import Absent, Data
from score_sde.errors import DataError
from score_sde.types import Feature


def absent(
    *, image_size: int, channels: int = 3, num_values: int = 256, num_classes: int = 1
) -> Data:
    """What sampling needs to know of square images. There are no examples.

    channels: 1 (grey), 3 (RGB), or those of latents. num_values: the images hold 0..num_values-1; 0
    for real numbers. num_classes: of their labels; 1 for images without.

    Raises DataError where image_size is below 1; and, when an example is asked for, on every use
    that needs the data themselves.
    """
    if image_size < 1:
        raise DataError(f"image_size must be positive, got {image_size}")
    none = Absent(
        "the config names no data set, which only sampling can do without: set --config.data.name "
        "and its options"
    )
    shape = (image_size, image_size, channels)
    image = Feature(shape, num_values or None)
    return Data("absent", none, none, {"image": image, "label": Feature((), num_classes)})
