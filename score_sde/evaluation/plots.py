"""One look for every plot: sizes, colours, a light grid, and a PNG file that is whole and small."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.media import pictures

# Okabe & Ito's colours for colour-blind readers, without the yellow
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^DvPX*<>"
GREY = "0.45"  # of words and lines that are not data
WIDTH = 6.4  # inches, of a figure as wide as a page of text

STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "0.3",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "xtick.color": "0.3",
    "ytick.color": "0.3",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "contour.linewidth": 0.8,
}
"""matplotlib's settings, for `plt.rcParams |= STYLE`; the colours are set by `style`."""


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The look, for the plots that a block draws."""
    from cycler import cycler
    from matplotlib import rc_context

    settings: Any = STYLE | {"axes.prop_cycle": cycler(color=COLOURS)}
    with rc_context(settings):
        yield


@contextlib.contextmanager
def figure(
    path: Path, height: float, shape: tuple[int, int] = (1, 1), **options: Any
) -> Iterator[np.ndarray]:
    """The axes of a new figure, [rows, columns], to draw on. At the end of the block the figure is
    written as a PNG, unless the block raises.

    height: inches; the width is WIDTH. options: of matplotlib's `subplots`, such as `sharex`.
    """
    from matplotlib.figure import Figure
    from PIL import Image

    with style():
        made = Figure(figsize=(WIDTH, height), layout="constrained")
        yield made.subplots(*shape, squeeze=False, **options)
        raw = io.BytesIO()
        made.savefig(raw, format="png", dpi=160, bbox_inches="tight", pad_inches=0.05)
    # a palette is enough for a plot, and a third of the bytes
    palette = Image.Palette.ADAPTIVE
    picture = Image.open(raw).convert("RGB").convert("P", palette=palette, colors=64)
    pictures.write(path, picture)


def label_ends(axes: Any, names: Sequence[str], gap: float = 1.15) -> None:
    """Writes the name of each line beside its last point, in its colour, in the place of a legend.

    Names whose places are nearer than `gap` lines of text are moved apart.
    """
    lines = [line for line in axes.get_lines() if len(np.atleast_1d(line.get_xdata()))]
    ends = [(float(line.get_xdata()[-1]), float(line.get_ydata()[-1])) for line in lines]
    axes.figure.draw_without_rendering()  # so that the places are known
    pixels = axes.transData.transform(ends)
    least = gap * STYLE["legend.fontsize"] * axes.figure.dpi / 72
    order = np.argsort(pixels[:, 1])
    place = pixels[order, 1].copy()
    for _ in range(200):  # neighbours push each other away, evenly
        away = np.clip(least - np.diff(place), 0, None) / 2
        place[:-1] -= away
        place[1:] += away
    right = axes.transData.inverted().transform(np.stack([pixels[order, 0], place], axis=1))
    for i, (_, y) in zip(order, right, strict=True):
        axes.annotate(
            names[i],
            (ends[i][0], y),
            xytext=(5, 0),
            textcoords="offset points",
            color=lines[i].get_color(),
            fontsize=STYLE["legend.fontsize"],
            va="center",
            annotation_clip=False,
        )
