"""Image files that a user names: pictures to work on, and masks."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from score_sde.data.resize import to_square
from score_sde.errors import DataError, foreign, one_line
from score_sde.runtime import npz_file

_LITTLE, _MOST_PIXELS = 2**24, 8 * 1032
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def open_image(file: Path) -> Any:
    """A PIL image, upright, of 8 bits a channel.

    Raises:
      DataError: the file is no such image.
    """
    from PIL import Image, ImageOps

    with foreign(f"{file} cannot be read as an image"), Image.open(file) as image:
        # Pillow cuts colours of 16 bits to their upper 8, and shows it in the tiles alone
        if image.mode.startswith(("I", "F")) or ";16B" in str(image.tile):
            raise DataError(f"{file} has more than 8 bits a channel: convert it to 8")
        check_pixels(file, image)
        return ImageOps.exif_transpose(image)


def check_pixels(file: Path, image: Any) -> None:
    """Raises a DataError of an image that claims more pixels than its file can hold, before there
    is memory for them.

    PNG's compression makes at most 1032 bytes of one, and a byte has up to 8 pixels; no format but
    WebP makes more of it. 16 million pixels are little.
    """
    claimed = image.width * image.height
    if claimed > max(_LITTLE, _MOST_PIXELS * file.stat().st_size):
        raise DataError(
            f"{file} claims {claimed:,} pixels, which its {file.stat().st_size:,} bytes cannot "
            "hold: it is damaged, or save it as PNG"
        )


def read_arrays(path: str | Path, names: Container[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, as `npz_file.read`.

    Raises:
      DataError: the file is missing, damaged, or is no such archive.
    """
    try:
        return npz_file.read(path, names)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(str(error)) from error


def described(arrays: Mapping[str, np.ndarray]) -> str:
    """What a file holds, for a message."""
    found = (f"{name} {array.dtype} {list(array.shape)}" for name, array in arrays.items())
    return one_line(", ".join(found)) or "nothing"


def listed(folder: Path) -> list[Path]:
    """What a folder holds. Raises DataError where that cannot be read."""
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error


def read_images(
    path: str | Path, image_shape: tuple[int, ...], resize: bool = False
) -> tuple[UInt8[np.ndarray, "n h w c"], list[str]]:
    """Images 0..255 of one file, of those in a folder (not below it, in the order of their names),
    or of the `samples` of an .npz; and a name of each, all different.

    resize: centre-crop to a square and resize (`resize.to_square`) what has another size.

    Raises:
      DataError: there is no image, or a file is no image or of another size.
    """
    path = Path(path).expanduser()
    if path.suffix == ".npz":
        return _archive(path, image_shape)
    if not path.exists():
        raise DataError(f"{path} does not exist")
    files = [path]
    if path.is_dir():
        files = sorted(file for file in listed(path) if file.suffix.lower() in SUFFIXES)
        if not files:
            raise DataError(f"{path} holds no image ({', '.join(SUFFIXES)})")
    height, width, channels = image_shape
    images = []
    for file in files:
        image = open_image(file)
        if not resize:
            hint = ": resize=True crops it (edit.resize, watermark.resize)"
            _check_size(file, image, (height, width), hint)
        elif height != width:
            raise DataError(f"images are brought to squares only, not to {width}x{height}")
        if image.size == (width, height):
            array = np.asarray(image.convert("L" if channels == 1 else "RGB"), np.uint8)
            images.append(array.reshape(image_shape))
        else:
            images.append(to_square(image, height, channels))
    return np.stack(images), [file.name for file in files]


def read_mask(path: str | Path, image_shape: tuple[int, ...]) -> Bool[np.ndarray, "h w"]:
    """The known pixels: those that are white (128 and more) in an image file.

    Raises:
      DataError: the file is missing, no image, or of another size.
    """
    path = Path(path).expanduser()
    image = open_image(path)
    _check_size(path, image, (image_shape[0], image_shape[1]))
    return np.asarray(image.convert("L")) >= 128


def _check_size(file: Path, image: Any, wanted: tuple[int, int], hint: str = "") -> None:
    height, width = wanted
    if image.size != (width, height):
        raise DataError(
            f"{file} has {image.width}x{image.height} pixels, the model's images {width}x{height}"
            f"{hint}"
        )


def _archive(
    path: Path, image_shape: tuple[int, ...]
) -> tuple[UInt8[np.ndarray, "n h w c"], list[str]]:
    images = read_arrays(path, ["samples"]).get("samples")
    if images is None or images.dtype != np.uint8 or images.shape[1:] != image_shape:
        found = "none" if images is None else one_line(f"{images.dtype} {list(images.shape)}")
        shape = ", ".join(map(str, image_shape))
        raise DataError(f"{path} should hold `samples`, uint8 [n, {shape}], but has {found}")
    if not len(images):
        raise DataError(f"{path} holds no image")
    return images, [f"{path.stem}[{i}]" for i in range(len(images))]
