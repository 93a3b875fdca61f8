"""The description of examples without the examples, for sampling."""

from __future__ import annotations

from score_sde.data.captions import caption_features, check_number
from score_sde.data.source import Absent, Data, labelled_images, labelled_reals
from score_sde.errors import DataError

_NONE = Absent(
    "the config names no data set, which only sampling can do without: set --config.data.name "
    "and its options"
)


def absent(
    *,
    image_size: int,
    channels: int = 3,
    num_values: int = 256,
    num_classes: int = 1,
    num_captions: int = 0,
) -> Data:
    """What sampling needs to know of square images. There are no examples.

    channels: 1 (grey) or 3 (RGB). num_values: the images hold 0..num_values-1.
    num_classes: of their labels; 1 if they have none. num_captions: of each.

    Raises DataError where image_size is below 1; and, when an example is asked for, on every use
    that needs the data themselves.
    """
    if image_size < 1:
        raise DataError(f"image_size must be positive, got {image_size}")
    check_number(num_captions, least=0)
    features = labelled_images((image_size, image_size, channels), num_values, num_classes)
    return Data("absent", _NONE, _NONE, features | caption_features(num_captions))


def absent_reals(
    *,
    shape: tuple[int, ...],
    part: str = "latent",
    num_classes: int = 1,
    num_captions: int = 0,
) -> Data:
    """What sampling needs to know of real numbers, such as latents, their labels and their
    captions. There are no examples.

    Raises DataError where a number of `shape` is below 1; and, when an example is asked for, on
    every use that needs the data themselves.
    """
    if not shape or min(shape) < 1:
        raise DataError(f"shape must be positive numbers, got {shape}")
    check_number(num_captions, least=0)
    features = labelled_reals(part, tuple(shape), num_classes) | caption_features(num_captions)
    return Data("absent", _NONE, _NONE, features)
