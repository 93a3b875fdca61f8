"""The description of images without the images, for sampling."""

from __future__ import annotations

from score_sde.data.source import Absent, Data, labelled_images
from score_sde.errors import DataError


def absent(*, image_size: int, channels: int = 3, num_values: int = 256) -> Data:
    """What sampling needs to know of square images without labels. There are no examples.

    channels: 1 (grey) or 3 (RGB). num_values: the images hold 0..num_values-1.

    Raises DataError where image_size is below 1; and, when an example is asked for, on every use
    that needs the data themselves.
    """
    if image_size < 1:
        raise DataError(f"image_size must be positive, got {image_size}")
    none = Absent(
        "the config names no data set, which only sampling can do without: set --config.data.name "
        "and its options"
    )
    return Data(
        "absent", none, none, labelled_images((image_size, image_size, channels), num_values)
    )
