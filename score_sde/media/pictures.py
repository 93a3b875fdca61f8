"""What media that draw PNGs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from score_sde.runtime.atomic import replacing


def write(path: Path, picture: Any) -> None:
    """Writes a PIL image as a PNG."""
    with replacing(path) as file:
        picture.save(file, format="png")


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
    write(path, canvas)
