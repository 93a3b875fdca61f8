"""A world of coloured shapes, whose attributes can be named and read back from a picture."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from score_sde.data.captions import caption_features
from score_sde.data.draws import Draws
from score_sde.data.shapes_captions import PHRASINGS, caption
from score_sde.data.shapes_captions import parse_caption as parse_caption
from score_sde.data.shapes_drawing import (
    COLOURS,
    FORMS,
    PAINTS,
    PLACES,
    SIZES,
    Look,
    Shape,
    draw,
)
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
NO_LABEL = -1  # of a pair with a colour that PAIRS lack
SEEN = tuple(pair for pair in PAIRS if pair not in HELD_OUT)
CAPTIONS = 3  # of an image
MOST = 4  # shapes in an image

TRAIN, TEST, PROMPTS, _HELD_OUT_PROMPTS = range(4)  # each has random numbers of its own


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
    colours: Sequence[str] = (),
    forms: Sequence[str] = FORMS,
    seed: int = 0,
) -> Data:
    """Pictures of 1 to `max_shapes` coloured shapes on a plain light background, which do not
    overlap, with three captions each. An image and its captions depend on its number and the seed
    alone, on every machine, and on the image's size only in its resolution.

    A shape has a colour, a form, a size and a place, all independent, but for the pairs HELD_OUT
    of a colour and a form. Its centre, its radius, its colour and the background differ a little
    from image to image. The label is the pair of the first shape, in the order of reading; -1 if
    its colour is one of NEW_COLOURS.

    train, test: how many. held_out: whether the examples for the test have pairs of HELD_OUT
        alone; else they have those of training.
    colours: draw all pairs of these colours and of `forms`, and no others: a subject that a model
        of the world has not seen, such as ("orange",); () for the pairs of training.
    forms: the forms of shapes.

    Raises DataError where a number is out of range, or there is no such colour or form.
    """
    check_numbers(image_size, max_shapes, train, test)
    learnt = pairs_of(SEEN, colours, forms)
    tested = pairs_of(HELD_OUT, colours, forms) if held_out else learnt

    def source(split: int, size: int, pairs: Sequence[tuple[str, str]]) -> Source:
        def read(index: int) -> Example:
            shown = scene((seed, split, index), pairs, max_shapes)
            return {
                "image": draw(shown.shapes, image_size, shown.looks, shown.light),
                "label": np.int32(_label(shown.shapes[0])),
                "caption": np.array(shown.captions),
            }

        return Mapped(range(size), read)

    features = labelled_images((image_size, image_size, 3), classes=len(PAIRS))
    return Data(
        "shapes",
        source(TRAIN, train, learnt),
        source(TEST, test, tested),
        features | caption_features(CAPTIONS),
    )


def check_numbers(image_size: int, max_shapes: int, train: int, test: int) -> None:
    """Raises a DataError for a number of a data set of shapes that is out of range."""
    if image_size < 16:
        raise DataError(f"image_size must be at least 16, got {image_size}")
    if not 1 <= max_shapes <= MOST:
        raise DataError(f"max_shapes must be 1 to {MOST}, got {max_shapes}")
    if min(train, test) < 1:
        raise DataError(f"train and test must be at least 1, got {train} and {test}")


def pairs_of(
    known: Sequence[tuple[str, str]], colours: Sequence[str] = (), forms: Sequence[str] = FORMS
) -> tuple[tuple[str, str], ...]:
    """The known pairs of a colour and a form with one of these forms; or, if there are colours, all
    pairs of these colours and forms.

    Raises:
      DataError: there is no such colour or form, or no pair is left.
    """
    for kind, given, there in (("colour", colours, PAINTS), ("form", forms, FORMS)):
        for name in given:
            if name not in there:
                raise DataError(f"there is no {kind} {name!r}: one of {', '.join(there)}")
    every = itertools.product(colours, forms) if colours else known
    found = tuple(pair for pair in every if pair[1] in forms)
    if not found:
        raise DataError(f"no pair of a colour and a form is left with forms={tuple(forms)}")
    return found


def prompts(
    held_out: bool, n: int, *, max_shapes: int = 1, seed: int = 0
) -> list[tuple[str, list[Shape]]]:
    """n captions and what they name: of pairs of HELD_OUT alone, or of those of training."""
    scenes = scenes_to_ask(HELD_OUT if held_out else SEEN, n, max_shapes=max_shapes, seed=seed)
    return [(shown.captions[0], shown.shapes) for shown in scenes]


def scenes_to_ask(
    pairs: Sequence[tuple[str, str]], n: int, *, max_shapes: int = 1, seed: int = 0
) -> list[Scene]:
    """n scenes of these pairs, which are in no example. The first caption is the prompt."""
    stream = _HELD_OUT_PROMPTS if tuple(pairs) == HELD_OUT else PROMPTS
    return [scene((seed, stream, i), pairs, max_shapes) for i in range(n)]


def agree(wanted: Sequence[Shape], found: Sequence[Shape]) -> bool:
    """Whether each wanted shape is one of those found, and there are no others. An attribute that
    is None in `wanted` may be any; one that is None in `found` is none that is wanted."""
    from scipy.optimize import linear_sum_assignment

    differ = np.array(
        [
            [any(w is not None and w != f for w, f in zip(a, b, strict=True)) for b in found]
            for a in wanted
        ]
    ).reshape(len(wanted), len(found))
    return len(wanted) == len(found) and not differ[linear_sum_assignment(differ)].any()


def _label(shape: Shape) -> int:
    """The number of the pair of its colour and form; NO_LABEL for a pair that is not in PAIRS."""
    pair = (str(shape.colour), str(shape.form))
    return PAIRS.index(pair) if pair in PAIRS else NO_LABEL


def scene(words: Sequence[int], pairs: Sequence[tuple[str, str]], max_shapes: int) -> Scene:
    """The scene of a seed, which is several whole numbers, with these pairs of colour and form."""
    draws = Draws(words, 2 + 10 * max_shapes + 2 * CAPTIONS)
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
