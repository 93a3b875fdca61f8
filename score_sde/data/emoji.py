"""The emoji of a font, with their names in Unicode as captions."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.data.captions import caption_features
from score_sde.data.resize import to_square
from score_sde.data.source import Data, Example, Mapped, Source, in_memory, labelled_images
from score_sde.errors import DataError

FONTS = (  # where systems have it
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",  # Debian, Ubuntu
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",  # Arch, Alpine
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",  # Fedora
    "/usr/local/share/fonts/NotoColorEmoji.ttf",
    "~/.local/share/fonts/NotoColorEmoji.ttf",
    "~/.fonts/NotoColorEmoji.ttf",
)
BITMAP_SIZE = 109  # the only one that the font has
BOX = (0, 0, 136, 128)  # of every emoji at that size
RANGES = ((0x23, 0x3300), (0x1F000, 0x1FB00))  # of code points: all that are emoji lie there
SAYINGS = ("{}", "the {} emoji", "a picture of the {} emoji")


def emoji(
    *,
    font: str | os.PathLike | None = None,
    image_size: int = 32,
    test_fraction: float = 0.1,
    memory: bool = True,
    word: str | None = None,
) -> Data:
    """The emoji of Noto Color Emoji that are one code point with a name: 136x128 pixels, on a white
    square, resized. The captions are the name in lower case, alone and in two phrases; labels are
    0.

    font: the file NotoColorEmoji.ttf with bitmaps; None for the usual places.
    test_fraction: a code point that `round(1 / test_fraction)` divides is for the test, whatever
        else the font has.
    memory: draw everything once into memory; about two seconds.
    word: only those with this word in their name, such as "cat"; None for all.

    Which emoji there are depends on the font, and which have a name on Python's version of Unicode:
    with version 2.042 of the font and Unicode 14, in Python 3.11, they are 1,405.

    Raises DataError where there is no such font, test_fraction is not in (0, 0.5], or no name has
    the word.
    """
    if image_size < 1:
        raise DataError(f"image_size must be positive, got {image_size}")
    if not 0 < test_fraction <= 0.5:
        raise DataError(f"test_fraction must be in (0, 0.5], got {test_fraction}")
    loaded = _load(font)
    points, every = drawn(loaded), round(1 / test_fraction)
    if word is not None:
        points = [point for point in points if word in _name(point).split()]
        if not points:
            raise DataError(f"emoji: no name has the word {word!r}: words are in lower case")

    def read(point: int) -> Example:
        name = _name(point)
        return {
            "image": to_square(picture(loaded, point), image_size, 3),
            "label": np.int32(0),
            "caption": np.array([saying.format(name) for saying in SAYINGS]),
        }

    def source(points: Sequence[int]) -> Source:
        lazy = Mapped(points, read)
        return in_memory(lazy) if memory else lazy

    train, test = ([p for p in points if (p % every == 0) == t] for t in (False, True))
    features = labelled_images((image_size, image_size, 3)) | caption_features(len(SAYINGS))
    return Data("emoji", source(train), source(test), features)


def drawn(font: Any) -> list[int]:
    """The code points with a name and a bitmap."""
    return [
        point
        for first, end in RANGES
        for point in range(first, end)
        if unicodedata.name(chr(point), "") and font.getbbox(chr(point)) == BOX
    ]


def vocabulary() -> tuple[str, ...]:
    """The words of all captions that `emoji` can make of a pictograph, in order."""
    names = {
        unicodedata.name(chr(point), "")
        for first, end in RANGES
        for point in range(first, end)
        if unicodedata.category(chr(point)) == "So"
    }
    return tuple(sorted(set(re.findall(r"\w+", " ".join([*names, *SAYINGS]).lower()))))


def _name(point: int) -> str:
    return unicodedata.name(chr(point)).lower()


def picture(font: Any, point: int) -> Any:
    """A square PIL image of a code point, on white."""
    from PIL import Image, ImageDraw

    width, height = BOX[2:]
    image = Image.new("RGB", (width, width), "white")
    place = (0, (width - height) // 2)
    ImageDraw.Draw(image).text(place, chr(point), font=font, embedded_color=True)
    return image


def _load(font: str | os.PathLike | None) -> Any:
    """The font, by pillow."""
    from PIL import ImageFont

    files = [Path(file).expanduser() for file in (FONTS if font is None else [font])]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        where = (
            f"{files[0]} does not exist" if font is not None else "there is no NotoColorEmoji.ttf"
        )
        raise DataError(
            f"emoji: {where}: install it (on Debian `apt-get install fonts-noto-color-emoji`), or "
            "set data.font to the file"
        )
    try:
        loaded = ImageFont.truetype(found, BITMAP_SIZE, layout_engine=ImageFont.Layout.BASIC)
        bitmaps = loaded.getbbox("\N{GRINNING FACE}") == BOX
    except OSError:
        bitmaps = False
    if not bitmaps:
        raise DataError(
            f"emoji: {found} has no bitmaps of 136x128 pixels: set data.font to the "
            "NotoColorEmoji.ttf of Debian's package fonts-noto-color-emoji"
        )
    return loaded
