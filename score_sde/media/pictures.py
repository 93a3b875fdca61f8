"""What media that draw PNGs share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.errors import foreign
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
    with replacing(path) as file:
        picture.save(file, format="png", pnginfo=_said())


def write_animation(path: Path, frames: Sequence[Any], milliseconds: int) -> None:
    """As `write_generated`, of the frames of an animated PNG, which repeats for ever. Each frame is
    shown so long. Programs that show no animation show the first frame."""
    # Pillow would leave out a frame that equals the one before, so that their number would change.
    # It keeps those that are laid over the one before in another way: opaque ones look the same.
    ways = [i % 2 for i in range(len(frames))]
    options = {"duration": milliseconds, "loop": 0, "blend": ways, "pnginfo": _said()}
    with replacing(path) as file:
        frames[0].save(file, format="png", save_all=True, append_images=frames[1:], **options)


def _said() -> Any:
    """What the file of a picture says about who drew it."""
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    about.add_itxt(_KEYWORD, XMP)
    return about


def says_generated(path: Path) -> bool:
    """Whether a file is a PNG that says that a model drew it, as `write_generated` does.

    Raises:
      DataError: the file cannot be read as an image.
    """
    from PIL import Image

    with foreign(f"{path} cannot be read as an image"), Image.open(path) as image:
        return image.format == "PNG" and SOURCE in str(image.info.get(_KEYWORD, ""))


def frames_of(path: Path) -> list[Any]:
    """The frames of an animated PNG, as RGB."""
    from PIL import Image, ImageSequence

    with Image.open(path) as animation:
        return [frame.convert("RGB") for frame in ImageSequence.Iterator(animation)]


def over_time(path: Path, sheets: dict[int, Path], height: int, gap: int) -> None:
    """Draws the first rows of sheets of different steps below one another, each with its step; at
    most twelve, evenly chosen.

    sheets: step -> a PNG. height: of a row with the gap above it; gap: below it, pixels.
    """
    from PIL import Image

    opened = {step: Image.open(sheets[step]).convert("RGB") for step in chosen_steps(sheets)}
    write_generated(path, below_one_another(opened, height, gap))


def chosen_steps(sheets: dict[int, Path]) -> list[int]:
    """At most twelve of the steps, evenly chosen."""
    steps = sorted(sheets)
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(12, len(steps))).round().astype(int))
    return [steps[i] for i in chosen]


def below_one_another(rows: dict[int, Any], height: int, gap: int) -> Any:
    """The first rows of sheets, PIL images by step, below one another (`over_time`)."""
    from PIL import Image, ImageDraw, ImageFont

    margin = 80
    width = max(row.width for row in rows.values())
    canvas = Image.new("RGB", (margin + width, len(rows) * height + gap), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=12)
    for i, (step, row) in enumerate(rows.items()):
        canvas.paste(row.crop((0, 0, row.width, height + gap)), (margin, i * height))
        middle = (margin - 8, i * height + (height + gap) / 2)
        draw.text(middle, f"{step:,}", "black", font, anchor="rm")
    return canvas
