"""A world of coloured shapes, whose attributes can be named and read back from a picture."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from score_sde.data.captions import caption_features
from score_sde.data.shapes_captions import PHRASINGS, caption
from score_sde.data.shapes_captions import parse_caption as parse_caption
from score_sde.data.shapes_drawing import COLOURS, FORMS, PLACES, SIZES, Look, Shape, draw
from score_sde.data.shapes_reading import read_attributes as read_attributes
from score_sde.data.source import Data, Example, Mapped, Source, labelled_images
from score_sde.errors import DataError

HELD_OUT = (  # pairs that are in no example for training; each colour and each form is in others
    ("red", "square"),
    ("green", "triangle"),
    ("blue", "ring"),
    ("yellow", "circle"),
    ("purple", "square"),
    ("black", "triangle"),
)
PAIRS = tuple(itertools.product(COLOURS, FORMS))  # a label is the number of a pair
SEEN = tuple(pair for pair in PAIRS if pair not in HELD_OUT)
CAPTIONS = 3  # of an image
MOST = 4  # shapes in an image

_TRAIN, _TEST, _PROMPTS = range(3)  # each has random numbers of its own


class Scene(NamedTuple):
    """What an image shows, in the order of reading, and how. light: of the background, in
    [-1, 1]."""

    shapes: list[Shape]
    looks: list[Look]
    light: float
    captions: list[str]


def shapes(
    *,
    image_size: int = 32,
    max_shapes: int = 1,
    train: int = 20_000,
    test: int = 2_000,
    held_out: bool = False,
    seed: int = 0,
) -> Data:
    """Pictures of 1 to `max_shapes` coloured shapes on a plain light background, which do not
    overlap, with three captions each. An image and its captions depend on its number and the seed
    alone, on every machine, and on the image's size only in its resolution.

    A shape has a colour, a form, a size and a place, all independent, but for the pairs HELD_OUT
    of a colour and a form. Its centre, its radius, its colour and the background differ a little
    from image to image. The label is the pair of the first shape, in the order of reading.

    train, test: how many. held_out: whether the examples for the test have pairs of HELD_OUT
        alone; else they have those of training.

    Raises DataError where a number is out of range.
    """
    if image_size < 16:
        raise DataError(f"image_size must be at least 16, got {image_size}")
    if not 1 <= max_shapes <= MOST:
        raise DataError(f"max_shapes must be 1 to {MOST}, got {max_shapes}")
    if min(train, test) < 1:
        raise DataError(f"train and test must be at least 1, got {train} and {test}")

    def source(split: int, size: int, pairs: Sequence[tuple[str, str]]) -> Source:
        def read(index: int) -> Example:
            shown = scene((seed, split, index), pairs, max_shapes)
            first = shown.shapes[0]
            return {
                "image": draw(shown.shapes, image_size, shown.looks, shown.light),
                "label": np.int32(PAIRS.index((str(first.colour), str(first.form)))),
                "caption": np.array(shown.captions),
            }

        return Mapped(range(size), read)

    features = labelled_images((image_size, image_size, 3), classes=len(PAIRS))
    return Data(
        "shapes",
        source(_TRAIN, train, SEEN),
        source(_TEST, test, HELD_OUT if held_out else SEEN),
        features | caption_features(CAPTIONS),
    )


def prompts(
    held_out: bool, n: int, *, max_shapes: int = 1, seed: int = 0
) -> list[tuple[str, list[Shape]]]:
    """n captions and what they name: of pairs of HELD_OUT alone, or of those of training."""
    pairs = HELD_OUT if held_out else SEEN
    scenes = [scene((seed, _PROMPTS + held_out, i), pairs, max_shapes) for i in range(n)]
    return [(shown.captions[0], shown.shapes) for shown in scenes]


def agree(wanted: Sequence[Shape], found: Sequence[Shape]) -> bool:
    """Whether each wanted shape is one of those found, and there are no others. An attribute that
    is None in `wanted` may be any; one that is None in `found` is none that is wanted."""
    differ = np.array(
        [
            [any(w is not None and w != f for w, f in zip(a, b, strict=True)) for b in found]
            for a in wanted
        ]
    ).reshape(len(wanted), len(found))
    return len(wanted) == len(found) and not differ[linear_sum_assignment(differ)].any()


def scene(words: Sequence[int], pairs: Sequence[tuple[str, str]], max_shapes: int) -> Scene:
    """The scene of a seed, which is several whole numbers, with these pairs of colour and form."""
    draws = _Draws(words, 2 + 10 * max_shapes + 2 * CAPTIONS)
    free, made = list(PLACES), []
    for _ in range(draws.choice(range(1, max_shapes + 1))):
        place = free.pop(draws.choice(range(len(free))))
        colour, form = draws.choice(pairs)
        shape = Shape(colour, form, draws.choice(tuple(SIZES)), place)
        x, y, stretch, red, green, blue = (draws.wobble() for _ in range(6))
        made.append((PLACES.index(place), shape, Look((x, y), stretch, (red, green, blue))))
    _, named, looks = zip(*sorted(made), strict=True)
    light = draws.wobble()
    left, captions = list(range(len(PHRASINGS))), []
    for _ in range(CAPTIONS):
        phrasing = left.pop(draws.choice(range(len(left))))
        captions.append(caption(named, phrasing, draws.choice((0, 1))))
    return Scene(list(named), list(looks), light, captions)


class _Draws:
    """Random numbers in turn, of a seed that is several whole numbers."""

    def __init__(self, words: Sequence[int], most: int):
        self.numbers = iter(uniform(words, most).tolist())

    def choice(self, of: Sequence):
        """One of these."""
        return of[int(next(self.numbers) * len(of))]

    def wobble(self) -> float:
        """A number in [-1, 1)."""
        return 2 * next(self.numbers) - 1


def uniform(words: Sequence[int], n: int) -> Float[np.ndarray, " n"]:
    """n numbers in [0, 1), float64, of a seed that is several whole numbers: SplitMix64 (Steele,
    Lea & Flood 2014, "Fast splittable pseudorandom number generators"), begun at a state that
    mixes the words. (NumPy does not promise that its generators give the same in each version.)"""
    state = np.zeros(1, np.uint64)
    for word in words:
        state = _mixed(state + np.uint64(word % 2**64) + _GOLDEN)
    bits = _mixed(state + _GOLDEN * np.arange(1, n + 1, dtype=np.uint64))
    return (bits >> np.uint64(11)) / 2.0**53


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
