"""Edits of coloured shapes: an image, an instruction that changes one attribute of one shape, and
the image after the change."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from score_sde.data import shapes_captions
from score_sde.data.captions import caption_features
from score_sde.data.draws import Draws
from score_sde.data.shapes import PAIRS, TEST, TRAIN, check_numbers, scene
from score_sde.data.shapes_captions import WORDS, at
from score_sde.data.shapes_drawing import COLOURS, FORMS, PLACES, SIZES, Look, Shape, draw
from score_sde.data.source import Data, Example, Mapped, Source
from score_sde.types import Feature

PHRASINGS = {  # for each attribute that can change
    "colour": ("make {it} {new}", "paint {it} {new}", "change the colour of {it} to {new}"),
    "form": ("make {it} a {new}", "turn {it} into a {new}", "replace {it} with a {new}"),
    "size": ("make {it} {new}", "let {it} be {new}", "change the size of {it} to {new}"),
    "place": ("put {it} {at}", "move {it} to the {new}", "move {it} so that it is {at}"),
}
KINDS = tuple(PHRASINGS)
INSTRUCTIONS = 3  # of an edit: one in each phrasing

_VALUES = {"colour": COLOURS, "form": FORMS, "size": SIZES, "place": PLACES}
_EDIT = 1  # the last word of the seed of the change, which the scene's seed lacks


class Edit(NamedTuple):
    """The shapes before and after the change, in the same order, with the looks and the light of
    both images. instructions: each says the whole change."""

    before: list[Shape]
    after: list[Shape]
    looks: list[Look]
    light: float
    instructions: list[str]

    def images(self, image_size: int) -> tuple[UInt8[np.ndarray, "s s 3"], ...]:
        """The images before and after."""
        return tuple(
            draw(shapes, image_size, self.looks, self.light) for shapes in (self.before, self.after)
        )


def shape_edits(
    *,
    image_size: int = 32,
    max_shapes: int = 2,
    train: int = 20_000,
    test: int = 2_000,
    seed: int = 0,
) -> Data:
    """Triplets: the part "source" is an image of 1 to `max_shapes` coloured shapes (`shapes`),
    "caption" are three instructions that say the same, such as "make the red circle blue", and
    "image" is the image after the change. What Brooks et al. 2023 (arXiv:2211.09800, sec. 3.1) make
    by large models is drawn here, so the result of an edit can be read back.

    One attribute of one shape changes: its colour, form, size or place. The number of an example
    decides which, in turn. All else stays: the other attributes, the other shapes, the shade, the
    shift and the background. A triplet depends on its number and the seed alone. The pairs of a
    colour and a form are all that there are.

    train, test: how many.

    Raises DataError where a number is out of range.
    """
    check_numbers(image_size, max_shapes, train, test)

    def source(split: int, size: int) -> Source:
        def read(index: int) -> Example:
            made = edit((seed, split, index), KINDS[index % len(KINDS)], max_shapes)
            before, after = made.images(image_size)
            return {"source": before, "image": after, "caption": np.array(made.instructions)}

        return Mapped(range(size), read)

    image = Feature((image_size, image_size, 3), 256)
    features = {"source": image, "image": image} | caption_features(INSTRUCTIONS)
    return Data("shape_edits", source(TRAIN, train), source(TEST, test), features)


def edit(words: Sequence[int], kind: str, max_shapes: int) -> Edit:
    """The edit of a seed, which is several whole numbers. kind: the attribute that changes."""
    shown = scene(words, PAIRS, max_shapes)
    draws = Draws((*words, _EDIT), 4 + INSTRUCTIONS)
    number = draws.choice(range(len(shown.shapes)))
    shape = shown.shapes[number]
    # a place that another shape has is not free
    taken = {getattr(s, kind) for s in (shown.shapes if kind == "place" else [shape])}
    new = draws.choice([value for value in _VALUES[kind] if value not in taken])
    after = [*shown.shapes]
    after[number] = shape._replace(**{kind: new})
    word = WORDS[new][draws.choice((0, 1))] if kind == "size" else new
    first = draws.choice(range(INSTRUCTIONS))
    phrasings = PHRASINGS[kind][first:] + PHRASINGS[kind][:first]
    names = _names(shown.shapes, number)
    instructions = [
        phrasing.format(it=draws.choice(names), new=word, at=at(new)) for phrasing in phrasings
    ]
    return Edit(shown.shapes, after, shown.looks, shown.light, instructions)


def _names(shapes: Sequence[Shape], number: int) -> list[str]:
    """What an instruction can call this shape, so that it means no other."""
    shape = shapes[number]
    name = f"the {shape.colour} {shape.form}"
    if len(shapes) == 1:
        return ["it", name]
    alike = [other for other in shapes if other[:2] == shape[:2]]
    return [name if len(alike) == 1 else f"{name} {at(str(shape.place))}"]


def _vocabulary() -> tuple[str, ...]:
    phrasings = [p.format(it="", new="", at="") for of in PHRASINGS.values() for p in of]
    names = [*COLOURS, *FORMS, *PLACES, *sum(WORDS.values(), ())]
    said = {"it", "in", "at", *re.findall(r"\w+", " ".join(phrasings + names))}
    return (*shapes_captions.VOCABULARY, *sorted(said - {*shapes_captions.VOCABULARY}))


VOCABULARY = _vocabulary()
"""All words that captions have (`shapes_captions.VOCABULARY`), and then the others of
instructions."""
LONGEST = 16  # words of an instruction
