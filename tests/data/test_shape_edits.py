"""Triplets of edits: the images are read back as the instruction says, and nothing else changes."""

import re

import numpy as np
import pytest

from score_sde.data.shape_edits import KINDS, LONGEST, PHRASINGS, VOCABULARY, edit, shape_edits
from score_sde.data.shapes import agree, read_attributes
from score_sde.data.shapes_captions import WORDS
from score_sde.data.shapes_drawing import COLOURS, FORMS, PLACES, draw
from score_sde.errors import DataError


def edits(kind, n=30, max_shapes=3):
    return [edit((7, 9, i), kind, max_shapes) for i in range(n)]


def changed(made):
    """The numbers of the shapes that differ, and the names of the attributes."""
    pairs = [*zip(made.before, made.after, strict=True)]
    numbers = [i for i, (a, b) in enumerate(pairs) if a != b]
    names = {n for a, b in pairs for n in a._fields if getattr(a, n) != getattr(b, n)}
    return numbers, names


@pytest.mark.parametrize("kind", KINDS)
def test_a_triplet_is_read_back_before_and_after(kind):
    """One attribute of one shape has changed, and both images show it."""
    for made in edits(kind):
        numbers, names = changed(made)
        assert (len(numbers), names) == (1, {kind})
        for image, shapes in zip(made.images(32), (made.before, made.after), strict=True):
            assert agree(shapes, read_attributes(image))


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_outside_the_changed_shape_stay_bit_for_bit(kind):
    for made in edits(kind):
        before, after = made.images(48)
        (number,), _ = changed(made)
        plain = draw([], 48, [], made.light)
        here = np.zeros((48, 48), bool)
        for shapes in (made.before, made.after):
            alone = draw([shapes[number]], 48, [made.looks[number]], made.light)
            here |= np.any(alone != plain, axis=-1)
        np.testing.assert_array_equal(before[~here], after[~here])
        assert np.any(before[here] != after[here])


def test_a_new_colour_keeps_the_shade():
    """Pixels that the shape covers whole differ by the difference of the two named colours."""
    for made in edits("colour", max_shapes=1):
        before, after = made.images(64)
        old, new = (COLOURS[str(shapes[0].colour)] for shapes in (made.before, made.after))
        centre = np.unravel_index(
            np.argmax(np.abs(after.astype(int) - before).sum(-1)), before.shape[:2]
        )
        difference = after[centre].astype(int) - before[centre]
        np.testing.assert_array_equal(difference, np.subtract(new, old))


def obeyed(shapes, text):
    """The shapes after an instruction, by a reader of its own."""
    size_of = {word: size for size, words in WORDS.items() for word in words}
    for kind, values in {
        "place": sorted(PLACES, key=len, reverse=True),
        "form": FORMS,
        "colour": COLOURS,
        "size": size_of,
    }.items():
        lead = {
            "place": "(?:to|at|in) the",
            "form": "(?:a|into a|with a)",
            "colour": "(?:to)?",
            "size": "(?:to|be)?",
        }[kind]
        found = re.fullmatch(rf"(.+?) {lead} ?({'|'.join(values)})", text)
        if found:
            break
    rest, value = found.groups()
    rest = rest.removesuffix(" so that it is")

    def meant(shape):
        at = re.search(r" (?:at|in) the (.+)$", rest)
        named = {shape.colour, shape.form} <= set(rest.split())
        return named and (at is None or at[1] == shape.place)

    (number,) = [i for i, shape in enumerate(shapes) if meant(shape)] if len(shapes) > 1 else [0]
    after = [*shapes]
    after[number] = shapes[number]._replace(**{kind: size_of.get(value, value)})
    return after


@pytest.mark.parametrize("kind", KINDS)
def test_every_instruction_says_the_whole_change(kind):
    said = set()
    for made in edits(kind, 60):
        for text in made.instructions:
            words = text.split()
            assert set(words) <= set(VOCABULARY)
            assert len(words) <= LONGEST
            assert obeyed(made.before, text) == made.after, text
            said.add((words[0], words[1] == "it"))
        assert len({text.split()[0] + text.split()[-2] for text in made.instructions}) > 1
    assert {lead for lead, _ in said} == {p.split()[0] for p in PHRASINGS[kind]}


def test_shapes_of_one_colour_and_form_are_told_apart_by_their_place():
    found = 0
    for i in range(400):
        made = edit((3, 1, i), "size", 4)
        (number,), _ = changed(made)
        same = [s for s in made.before if s[:2] == made.before[number][:2]]
        if len(same) > 1:
            found += 1
            place = str(made.before[number].place)
            assert all(f"the {place}" in text for text in made.instructions)
    assert found


def test_an_example_depends_on_its_number_and_the_seed_alone():
    long, short = shape_edits(train=50), shape_edits(train=9, test=9)
    for i in (8, 3, 3, 0):
        for name in ("source", "image", "caption"):
            np.testing.assert_array_equal(long.train[i][name], short.train[i][name])
    sets = [shape_edits(seed=s, train=9, test=9) for s in (0, 1)]
    sources = [getattr(data, split) for data in sets for split in ("train", "test")]
    assert len({source[i]["source"].tobytes() for source in sources for i in range(9)}) == 36
    for i in range(8):
        example = short.train[i]
        assert {k: v.shape for k, v in example.items()} == {
            k: f.shape for k, f in short.features.items()
        }
        texts = example["caption"].tolist()
        assert texts[0].split()[0] in {p.split()[0] for p in PHRASINGS[KINDS[i % 4]]}


@pytest.mark.parametrize("options", [{"image_size": 8}, {"max_shapes": 5}, {"train": 0}])
def test_wrong_options_are_one_line(options):
    with pytest.raises(DataError, match=next(iter(options))):
        shape_edits(**options)
