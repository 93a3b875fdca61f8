"""The grammar of the captions of shapes, and its inverse."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from score_sde.data.shapes_drawing import COLOURS, FORMS, PAINTS, PLACES, Shape

PHRASINGS = (  # of one shape, and what joins two of them
    ("a {size} {colour} {form} {at}", " and "),
    ("{place}: a {colour} {form}, {size}", "; "),
    ("a {size} {form} {at}, coloured {colour}", " and "),
    ("{at}, a {colour} {form} of {size} size", "; "),
    ("the {colour} {form} {at} is {size}", " and "),
    ("a {colour} {form}, {size}, {at}", "; "),
)
WORDS = {"small": ("small", "little"), "large": ("large", "big")}  # for each size

_SIZE_OF = {word: size for size, words in WORDS.items() for word in words}
_PLACE_OF = {frozenset(place.split()): place for place in PLACES}
_PLACE_WORDS = frozenset().union(*_PLACE_OF)
_OTHER_WORDS = {
    *("a", "an", "the", "at", "in", "on", "of", "is", "it", "there"),
    *("size", "coloured", "colored", "shape"),
}


def caption(shapes: Sequence[Shape], phrasing: int, synonym: int = 0) -> str:
    """The sentence of this phrasing. synonym: 0 or 1, which word stands for a size."""
    pattern, joint = PHRASINGS[phrasing]
    return joint.join(
        pattern.format(
            size=WORDS[str(shape.size)][synonym],
            colour=shape.colour,
            form=shape.form,
            place=shape.place,
            at=at(str(shape.place)),
        )
        for shape in shapes
    )


def at(place: str) -> str:
    """The place with its preposition, such as "at the top left"."""
    return f"{'in' if place == 'middle' else 'at'} the {place}"


def _vocabulary() -> tuple[str, ...]:
    every = itertools.product(COLOURS, FORMS, WORDS, PLACES)
    ways = [(phrasing, synonym) for phrasing in range(len(PHRASINGS)) for synonym in (0, 1)]
    texts = (caption([Shape(*each)], *way) for each in every for way in ways)
    return tuple(sorted({"and", *re.findall(r"\w+", " ".join(texts))}))


def parse_caption(text: str) -> list[Shape]:
    """The shapes that a caption names, in the order of their places; None for attributes that it
    does not name. It inverts the grammar, and reads the like of "a red circle" too.

    Raises:
      ValueError: the text is no such caption.
    """
    clauses = re.split(r";|\band\b", text.lower())
    return in_order([_clause(clause, text) for clause in clauses])


def in_order(shapes: Sequence[Shape]) -> list[Shape]:
    """Sorted by place, in the order of reading; those without a place last."""
    return sorted(shapes, key=lambda shape: [*PLACES, None].index(shape.place))


def _clause(clause: str, text: str) -> Shape:
    """The shape of a part of the text."""
    words = re.findall(r"[^\s,.:]+", clause)
    named: dict[str, list[str]] = {"colour": [], "form": [], "size": [], "place": []}
    for word in words:
        if word in PAINTS:
            named["colour"].append(word)
        elif word in FORMS:
            named["form"].append(word)
        elif word in _SIZE_OF:
            named["size"].append(_SIZE_OF[word])
        elif word in _PLACE_WORDS:
            named["place"].append(word)
        elif word not in _OTHER_WORDS:
            raise ValueError(f"{text!r}: {word!r} is no word of the captions of shapes")
    place = _PLACE_OF.get(frozenset(named["place"]))
    if named["place"] and (place is None or len(named["place"]) != len(place.split())):
        raise ValueError(f"{text!r}: {' '.join(named['place'])!r} is no place")
    named["place"] = [] if place is None else [place]
    for name, found in named.items():
        if len(found) > 1:
            raise ValueError(f"{text!r} names the {name} of a shape twice: {', '.join(found)}")
    if not (named["form"] or "shape" in words):
        raise ValueError(f"{text!r} names no form in {clause.strip()!r}")
    return Shape(**{name: found[0] for name, found in named.items() if found})


VOCABULARY = _vocabulary()
"""All words that captions have, without those of NEW_COLOURS."""
