"""What media that draw PNGs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from score_sde.errors import DataError
from score_sde.runtime.atomic import replacing

SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

_KEYWORD = "XML:com.adobe.xmp"
XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about=""'
    ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    f' Iptc4xmpExt:DigitalSourceType="{SOURCE}"/>'
    "</rdf:RDF></x:xmpmeta>"
    '<?xpacket end="r"?>'
)


def write(path: Path, picture: Any) -> None:
    """Writes a PIL image as a PNG."""
    with replacing(path) as file:
        picture.save(file, format="png")


def write_generated(path: Path, picture: Any) -> None:
    """As `write`, of a picture that a model drew: the file says so. Its XMP packet, in the chunk of
    text "XML:com.adobe.xmp" (XMP Specification, part 3), holds the digital source type
    trainedAlgorithmicMedia of the IPTC. Programs that save the picture again may leave it out."""
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    about.add_itxt(_KEYWORD, XMP)
    with replacing(path) as file:
        picture.save(file, format="png", pnginfo=about)


def says_generated(path: Path) -> bool:
    """Whether a file is a PNG that says that a model drew it, as `write_generated` does.

    Raises:
      DataError: the file cannot be read as an image.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.format == "PNG" and SOURCE in str(image.info.get(_KEYWORD, ""))
    except Exception as error:  # whatever a damaged file makes Pillow run into
        raise DataError(f"{path} cannot be read as an image: {error}") from error


def over_time(path: Path, sheets: dict[int, Path], height: int, gap: int) -> None:
    """Draws the first rows of sheets of different steps below one another, each with its step; at
    most twelve, evenly chosen.

    sheets: step -> a PNG. height: of a row with the gap above it; gap: below it, pixels.
    """
    from PIL import Image, ImageDraw, ImageFont

    steps, margin = sorted(sheets), 80
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(12, len(steps))).round().astype(int))
    rows = {steps[i]: Image.open(sheets[steps[i]]).convert("RGB") for i in chosen}
    width = max(row.width for row in rows.values())
    canvas = Image.new("RGB", (margin + width, len(rows) * height + gap), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=12)
    for i, (step, row) in enumerate(rows.items()):
        canvas.paste(row.crop((0, 0, row.width, height + gap)), (margin, i * height))
        middle = (margin - 8, i * height + (height + gap) / 2)
        draw.text(middle, f"{step:,}", "black", font, anchor="rm")
    write_generated(path, canvas)
