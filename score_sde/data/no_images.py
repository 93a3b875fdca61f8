"""The description of a data set that nobody has named."""

from __future__ import annotations

from score_sde.data.source import Absent, Data, DataError


def absent(*, image_size: int, channels: int = 3, levels: int = 256) -> Data:
    """What sampling needs to know of images: square ones, without labels. There are no examples.

    Raises DataError where channels or image_size are below 1; and, when an example is asked for, on
    every use that needs the data themselves.
    """
    if min(image_size, channels) < 1:
        raise DataError(f"image_size and channels must be positive, got {image_size}, {channels}")
    none = Absent(
        "the config names no data set, which only sampling can do without: set --config.data.name "
        "and its options"
    )
    return Data(
        name="absent",
        train=none,
        test=none,
        image_shape=(image_size, image_size, channels),
        levels=levels,
        num_classes=1,
    )
