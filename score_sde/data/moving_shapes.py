"""Clips of one shape that moves with a known velocity, and what is read back from such clips."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float, UInt8

from score_sde.data.captions import caption_features
from score_sde.data.draws import Draws
from score_sde.data.shapes import TEST, TRAIN
from score_sde.data.shapes_drawing import BACKGROUND, COLOURS, FORMS, distance
from score_sde.data.source import Data, Example, Mapped, Source
from score_sde.errors import DataError
from score_sde.types import Feature

__all__ = ["moving_shapes"]  # what a config can name

RADIUS = 0.25  # of the image's side
FINENESS = 4  # points along each side of a pixel
DIRECTIONS = {  # x to the right, y downwards
    "right": (1, 0),
    "down right": (1, 1),
    "down": (0, 1),
    "down left": (-1, 1),
    "left": (-1, 0),
    "up left": (-1, -1),
    "up": (0, -1),
    "up right": (1, -1),
}
SPEEDS = {1: " slowly", 2: ""}  # how often a direction is gone a frame, and the word for it
VELOCITIES = {
    f"{direction}{word}": (speed * dx, speed * dy)
    for (direction, (dx, dy)), (speed, word) in itertools.product(
        DIRECTIONS.items(), SPEEDS.items()
    )
}
"""By the words of a caption, (x, y), pixels a frame. A label is the number of one of them."""

STEPS = 4  # to a pixel, of the places at which a form is looked for
MOST_LEFT = 0.2  # of the energy of a form that its best drawing leaves unexplained
STRAY = 0.25, 1.0  # pixels, of a mean velocity and of one step from whole numbers


class Motion(NamedTuple):
    """What a clip shows: a form of a colour, whose centre (x, y) of the first frame is in units of
    the side, and is drawn at a corner of a pixel; and the words of its velocity."""

    colour: str
    form: str
    centre: tuple[float, float]
    velocity: str

    @property
    def caption(self) -> str:
        """A sentence that names all but the place."""
        return f"a {self.colour} {self.form} moves {self.velocity}"


class Reading(NamedTuple):
    """What is read from a clip. colours, forms: of each frame, None where that is not clear.
    velocity: its words; None where the motion is none of VELOCITIES."""

    colours: list[str | None]
    forms: list[str | None]
    velocity: str | None

    @property
    def flicker(self) -> float:
        """The share of pairs of neighbouring frames whose colour or form differ. What is not clear
        differs from everything."""
        frames = list(zip(self.colours, self.forms, strict=True))
        return float(np.mean([a != b or None in a for a, b in itertools.pairwise(frames)]))


def moving_shapes(
    *,
    image_size: int = 16,
    frames: int = 8,
    train: int = 20_000,
    test: int = 1_000,
    colours: Sequence[str] = tuple(COLOURS),
    forms: Sequence[str] = FORMS,
    speeds: Sequence[int] = (2,),
    grid: int = 1,
    seed: int = 0,
) -> Data:
    """Clips of one coloured form on a light background, which moves by the same whole number of
    pixels from frame to frame. What leaves at one side enters at the opposite one. A clip depends
    on its number and the seed alone, on every machine.

    Colour, form, velocity and the place at first are independent and uniform. The label is the
    number of the velocity in VELOCITIES; the caption names colour, form and velocity.

    image_size: of a frame, pixels. frames: of a clip. train, test: how many clips.
    speeds: 1, in steps of one pixel, and 2, in steps of two; a step may be to the side, up or down,
        or both. grid: the centre of the first frame is so many pixels from the next one.

    Raises DataError where a number is out of range, or there is no such colour, form or speed.
    """
    if image_size < 8:
        raise DataError(f"image_size must be at least 8, got {image_size}")
    if frames < 2 or min(train, test) < 1:
        raise DataError(
            f"frames must be at least 2, train and test at least 1, got {frames}, {train}, {test}"
        )
    if grid < 1 or image_size % grid:
        raise DataError(f"grid={grid} must divide image_size={image_size}")
    for kind, given, there in (
        ("colours", colours, COLOURS),
        ("forms", forms, FORMS),
        ("speeds", speeds, SPEEDS),
    ):
        if not given or not {*given} <= {*there}:
            raise DataError(f"{kind} are of {', '.join(map(str, there))}, not {tuple(given)}")

    def source(split: int, size: int) -> Source:
        def read(index: int) -> Example:
            shown = motion((seed, split, index), colours, forms, speeds)
            return {
                "video": draw(shown, image_size, frames, grid),
                "label": np.int32([*VELOCITIES].index(shown.velocity)),
                "caption": np.array([shown.caption]),
            }

        return Mapped(range(size), read)

    features = {
        "video": Feature((frames, image_size, image_size, 3), 256),
        "label": Feature((), len(VELOCITIES)),
        **caption_features(1),
    }
    return Data("moving_shapes", source(TRAIN, train), source(TEST, test), features)


def motion(
    words: Sequence[int],
    colours: Sequence[str] = tuple(COLOURS),
    forms: Sequence[str] = FORMS,
    speeds: Sequence[int] = (2,),
) -> Motion:
    """The motion of a seed, which is several whole numbers."""
    draws = Draws(words, 5)
    velocities = [name for name, v in VELOCITIES.items() if max(map(abs, v)) in speeds]
    colour, form, velocity = map(draws.choice, (colours, forms, velocities))
    return Motion(colour, form, (draws.wobble() / 2 + 0.5, draws.wobble() / 2 + 0.5), velocity)


def draw(
    shown: Motion, image_size: int, frames: int, grid: int = 1
) -> UInt8[np.ndarray, "frames s s 3"]:
    """The clip of a motion. grid: as that of `moving_shapes`."""
    x, y = (float(np.floor(c * image_size / grid)) * grid for c in shown.centre)
    cover = _cover(shown.form, x, y, image_size)
    paint = np.asarray(COLOURS[shown.colour]) - BACKGROUND
    first = np.rint(BACKGROUND + cover[..., None] * paint).astype(np.uint8)
    across, down = VELOCITIES[shown.velocity]
    return np.stack([np.roll(first, (i * down, i * across), (0, 1)) for i in range(frames)])


def read_clip(
    clip: UInt8[np.ndarray, "f s s 3"],
    colours: Sequence[str] = tuple(COLOURS),
    forms: Sequence[str] = FORMS,
) -> Reading:
    """What a clip shows. In each frame the drawing of a form in a colour is looked for that leaves
    least of the frame unexplained, at places a quarter of a pixel apart.

    Raises ValueError for frames that are no squares of 3 channels.
    """
    if clip.ndim != 4 or clip.shape[1] != clip.shape[2] or clip.shape[3] != 3:
        raise ValueError(f"a clip is [frames, side, side, 3], not {list(clip.shape)}")
    found = [_read_frame(frame, tuple(colours), tuple(forms)) for frame in clip]
    names, shapes, places = zip(*found, strict=True)
    return Reading(list(names), list(shapes), _velocity(np.array(places), clip.shape[1]))


def parse_caption(text: str) -> tuple[str, str, str]:
    """The colour, the form and the velocity that a caption names.

    Raises ValueError for another text.
    """
    match = re.fullmatch(r"a (\w+) (\w+) moves (.*)", text)
    if not match or match[1] not in COLOURS or match[2] not in FORMS or match[3] not in VELOCITIES:
        raise ValueError(f"{text!r} is no caption of a moving shape, such as {_EXAMPLE!r}")
    return match[1], match[2], match[3]


_EXAMPLE = "a red circle moves down right"
VOCABULARY = tuple(sorted({*["a", "moves"], *COLOURS, *FORMS, *" ".join(VELOCITIES).split()}))
"""All words that captions have."""


def _cover(form: str, x: float, y: float, size: int) -> Float[np.ndarray, "size size"]:
    """The share of each pixel that a form around (x, y), pixels, covers; it goes on at the opposite
    side."""
    points = (np.arange(size * FINENESS) + 0.5) / FINENESS
    across, down = ((points - c + size / 2) % size - size / 2 for c in (x, y))
    edge = distance(form, across, down[:, None], RADIUS * size) * FINENESS
    cover = np.clip(0.5 - edge, 0, 1).reshape(size, FINENESS, size, FINENESS)
    return cover.mean((1, 3))


@functools.lru_cache(maxsize=4)
def _drawings(
    forms: tuple[str, ...], size: int
) -> tuple[Complex[np.ndarray, "f q s r"], Float[np.ndarray, "f q"]]:
    """Of each form at each place within a pixel: the Fourier transform of its cover, and its
    energy."""
    steps = np.arange(STEPS) / STEPS
    covers = np.array(
        [[_cover(form, x, y, size) for y, x in itertools.product(steps, steps)] for form in forms]
    )
    return np.conj(np.fft.rfft2(covers)), (covers**2).sum((2, 3))


def _read_frame(
    frame: UInt8[np.ndarray, "s s 3"], colours: tuple[str, ...], forms: tuple[str, ...]
) -> tuple[str | None, str | None, tuple[float, float]]:
    """The colour and the form, if they are clear, and where the centre seems to be, in pixels."""
    size = len(frame)
    drawn, energy = _drawings(forms, size)
    away = frame.astype(float) - BACKGROUND
    paints = np.array([COLOURS[name] for name in colours]) - BACKGROUND
    # |away - cover paint|^2 = |away|^2 - 2 <cover, away paint> + |cover|^2 |paint|^2
    seen = np.fft.rfft2(np.moveaxis(away @ paints.T, -1, 0))
    overlap = np.fft.irfft2(seen[:, None, None] * drawn, (size, size))
    whole = energy[None] * (paints**2).sum(1)[:, None, None]
    left = (away**2).sum() + whole[..., None, None] - 2 * overlap
    best = np.unravel_index(np.argmin(left), left.shape)
    colour, form, within, row, column = map(int, best)
    y, x = (
        whole_pixel + step / STEPS
        for whole_pixel, step in zip((row, column), divmod(within, STEPS), strict=True)
    )
    if left[best] > MOST_LEFT * whole[colour, form, within]:
        return None, None, (x, y)
    return colours[colour], forms[form], (x, y)


def _velocity(places: Float[np.ndarray, "f 2"], size: int) -> str | None:
    """The words of the velocity of places on a torus, pixels."""
    moves = (np.diff(places, axis=0) + size / 2) % size - size / 2
    mean = moves.mean(0)
    nearest = np.rint(mean)
    if np.abs(mean - nearest).max() > STRAY[0] or np.abs(moves - nearest).max() > STRAY[1]:
        return None
    words = {velocity: name for name, velocity in VELOCITIES.items()}
    return words.get((int(nearest[0]), int(nearest[1])))
