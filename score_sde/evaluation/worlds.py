"""Worlds that can be read back from samples: what is asked of a model, and whether it is there.

What a config can name (`evaluate.world`) are constructors `(**options) -> World`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, UInt8

from score_sde.conditioning.hints import outline
from score_sde.data.moving_shapes import draw as draw_clip
from score_sde.data.moving_shapes import motion, read_clip
from score_sde.data.shape_edits import KINDS, edit
from score_sde.data.shapes import (
    HELD_OUT,
    PROMPTS,
    SEEN,
    agree,
    pairs_of,
    read_attributes,
    scenes_to_ask,
)
from score_sde.data.shapes_drawing import COLOURS, FORMS, Shape, draw
from score_sde.data.source import Example
from score_sde.data.tones import captions, frequency
from score_sde.data.tones import prompts as tones_to_ask
from score_sde.data.tones_reading import cents, read_tone
from score_sde.evaluation.outlines import overlap

__all__ = [
    "moving_shapes",
    "new_colour",
    "shape_edits",
    "shapes",
    "shapes_outline",
    "tones",
]  # what a config can name


class Asked(NamedTuple):
    """texts: the prompts. wanted: what `World.read` compares with, of each. examples: the raw parts
    that go with each prompt, such as the image that an instruction changes; none in most worlds."""

    texts: list[str]
    wanted: list[Any]
    examples: list[Example] = []  # noqa: RUF012 (nothing changes it)


class World(NamedTuple):
    """kinds: of prompts, such as those of combinations that are in the training examples, and those
        of others. Their shares are reported apart. The first are what mode `sample` draws.
    prompts: `(kind, n) -> Asked`.
    read: `(what is shown, what was wanted) -> numbers by name`, whose means are reported, such as
        whether each attribute is as asked; "all" says whether everything is, and nothing else is
        there.
    """

    kinds: tuple[str, ...]
    prompts: Callable[[str, int], Asked]
    read: Callable[[np.ndarray, Any], Mapping[str, float]]


def shapes(max_shapes: int = 1, forms: Sequence[str] = FORMS, seed: int = 0) -> World:
    """Coloured shapes (`data.shapes`), read by their colour, form, size and place: "seen" pairs of
    a colour and a form, which training had, and "held_out" ones.

    forms: those of the prompts.
    """
    pairs = {"seen": pairs_of(SEEN, forms=forms), "held_out": pairs_of(HELD_OUT, forms=forms)}
    return _of_pairs(pairs, tuple(COLOURS), max_shapes, seed)


def new_colour(
    colour: str = "orange", max_shapes: int = 1, forms: Sequence[str] = FORMS, seed: int = 0
) -> World:
    """Coloured shapes for a model that learnt one more colour: "seen" pairs as in `shapes`, and
    "new" ones of that colour.

    colour: of `data.shapes_drawing.NEW_COLOURS`. forms: those of the prompts of both kinds.
    """
    pairs = {"seen": pairs_of(SEEN, forms=forms), "new": pairs_of((), (colour,), forms)}
    return _of_pairs(pairs, (*COLOURS, colour), max_shapes, seed)


def shapes_outline(max_shapes: int = 1, image_size: int = 32, seed: int = 0) -> World:
    """The prompts of `shapes` with an image of each scene, whose outline is the hint of a
    ControlNet. A third kind of prompts, "placed", says only colour and form, such as "a red
    circle": size and place can come from the hint alone.

    Beside the attributes it reads "iou", the intersection over union of the outlines of the sample
    and of that image, and "iou_1px", with a tolerance of one pixel (`evaluation.outlines`). Two
    scenes of the same attributes have an "iou" near 0.87 at 32 pixels, since shapes move little
    within a cell. So the "iou" of "placed" shows what the hint does.

    image_size: of what the model shows.
    """
    plain = shapes(max_shapes, seed=seed)
    pairs = {"seen": SEEN, "held_out": HELD_OUT, "placed": SEEN}

    def prompts(kind, n):
        scenes = scenes_to_ask(pairs[kind], n, max_shapes=max_shapes, seed=seed)
        texts = [
            " and ".join(f"a {shape.colour} {shape.form}" for shape in s.shapes)
            if kind == "placed"
            else s.captions[0]
            for s in scenes
        ]
        images = [draw(s.shapes, image_size, s.looks, s.light) for s in scenes]
        wanted = [(s.shapes, _outline(image)) for s, image in zip(scenes, images, strict=True)]
        return Asked(texts, wanted, [{"image": a} for a in images])

    def read(image, wanted):
        named, drawn = wanted
        found = _outline(image)
        ious = {"iou": overlap(drawn, found), "iou_1px": overlap(drawn, found, reach=1)}
        return {**plain.read(image, named), **ious}

    return World(tuple(pairs), prompts, read)


def shape_edits(max_shapes: int = 2, image_size: int = 32, seed: int = 0) -> World:
    """Instructions that change one attribute of one shape (`data.shape_edits`), with the image that
    each changes. The kinds are the attributes. "all" says whether the asked change was made and
    nothing else changed.

    image_size: of the images to change.
    """

    def prompts(kind, n):
        edits = [edit((seed, PROMPTS, i), kind, max_shapes) for i in range(n)]
        examples = [{"source": made.images(image_size)[0]} for made in edits]
        return Asked([e.instructions[0] for e in edits], [e.after for e in edits], examples)

    return World(KINDS, prompts, _reader(tuple(COLOURS)))


def tones(rate: int = 4000, near: float = 20.0, seed: int = 0) -> World:
    """Tones (`data.tones`). "pitch" says whether a sound is within `near` cents of its note;
    "timbre" and "envelope" are read as well. rate: of what the model shows."""

    def prompts(kind, n):
        wanted = tones_to_ask(n, seed)
        return Asked([captions(tone)[0] for tone in wanted], wanted)

    def read(sound, wanted):
        found, pitch = read_tone(sound, rate)
        each = {
            "pitch": abs(cents(pitch, frequency(wanted.note))) <= near,
            "timbre": found.timbre == wanted.timbre,
            "envelope": found.envelope == wanted.envelope,
        }
        return each | {"all": all(each.values())}

    return World(("tones",), prompts, read)


def moving_shapes(
    forms: Sequence[str] = FORMS,
    speeds: Sequence[int] = (2,),
    image_size: int = 16,
    grid: int = 1,
    first_frame: bool = False,
    seed: int = 0,
) -> World:
    """Clips of moving shapes (`data.moving_shapes`), all of one kind, "clips". Beside whether
    velocity, colour and form are as asked, the last two in every frame, it reads "flicker": the
    share of pairs of neighbouring frames whose colour or form differ.

    first_frame: give each prompt the first frame of its clip, for a model that goes on with that
        (`conditioning.first_frame`). image_size: of that frame. The others are those of the data.
    """

    def prompts(kind, n):
        scenes = [motion((seed, PROMPTS, i), forms=forms, speeds=speeds) for i in range(n)]
        examples = [{"video": draw_clip(s, image_size, 1, grid)[0]} for s in scenes]
        return Asked([s.caption for s in scenes], scenes, examples if first_frame else [])

    def read(clip, wanted):
        found = read_clip(clip, forms=forms)
        right = {
            "velocity": found.velocity == wanted.velocity,
            "colour": {*found.colours} == {wanted.colour},
            "form": {*found.forms} == {wanted.form},
        }
        return {**right, "all": all(right.values()), "flicker": found.flicker}

    return World(("clips",), prompts, read)


def _of_pairs(
    pairs: Mapping[str, Sequence[tuple[str, str]]],
    colours: Sequence[str],
    max_shapes: int,
    seed: int,
) -> World:
    """Shapes of these pairs of a colour and a form, by kind. colours: those that can be read."""

    def prompts(kind, n):
        scenes = scenes_to_ask(pairs[kind], n, max_shapes=max_shapes, seed=seed)
        return Asked([s.captions[0] for s in scenes], [s.shapes for s in scenes])

    return World(tuple(pairs), prompts, _reader(colours))


def _reader(colours: Sequence[str]) -> Callable[[np.ndarray, list[Shape]], Mapping[str, float]]:
    """Reads whether each attribute of the wanted shapes is there."""

    def read(image, wanted):
        found = read_attributes(image, colours)
        each = {
            name: len(found) == len(wanted)
            and sorted(str(getattr(s, name)) for s in found)
            == sorted(str(getattr(s, name)) for s in wanted)
            for name in Shape._fields
        }
        return each | {"all": agree(wanted, found)}

    return read


def _outline(image: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """The outline that a hint has of the image."""
    return np.asarray(outline(jnp.asarray(image, jnp.float32)[None] / 255))[0, ..., 0] > 0
