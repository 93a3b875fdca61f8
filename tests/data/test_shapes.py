"""Coloured shapes: a picture shows what its caption says, and what is read from it is true."""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
import pytest
from PIL import Image, ImageFilter

from score_sde.data.draws import _mixed
from score_sde.data.shapes import (
    HELD_OUT,
    PAIRS,
    SEEN,
    agree,
    parse_caption,
    prompts,
    read_attributes,
    scene,
    shapes,
)
from score_sde.data.shapes_captions import PHRASINGS, caption
from score_sde.data.shapes_drawing import (
    COLOURS,
    FORMS,
    PLACES,
    SIZES,
    Look,
    Shape,
    centre,
    distance,
    draw,
)
from score_sde.data.shapes_reading import EDGES
from score_sde.errors import DataError
from score_sde.types import Feature

ALL = [Shape(*of) for of in itertools.product(COLOURS, FORMS, SIZES, PLACES)]


def scenes(n, max_shapes=1, pairs=PAIRS):
    return [scene((7, 9, i), pairs, max_shapes) for i in range(n)]


def drawn(shown, size):
    return draw(shown.shapes, size, shown.looks, shown.light)


def looks(n):
    """Of every strength, the strongest too."""
    rng = np.random.default_rng(0)
    u = np.concatenate([rng.choice([-1.0, 1.0], (n // 2, 6)), rng.uniform(-1, 1, (n - n // 2, 6))])
    return [Look((a, b), c, (d, e, f)) for a, b, c, d, e, f in rng.permutation(u).tolist()]


# Drawing


def cover(form, radius, size, look=None):
    """The share of each pixel that a black shape in the middle covers, as the picture has it."""
    image = draw([Shape("black", form, radius, "middle")], size, look and [look])
    return (245.0 - image.mean(-1)) / (245 - 30)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("radius", SIZES)
def test_a_shape_has_the_area_and_the_middle_of_its_form(form, radius):
    r = SIZES[radius]
    area, drop = {
        "circle": (math.pi * r**2, 0),
        "square": ((2 * 0.88 * r) ** 2, 0),
        "triangle": (1.05 * r * 1.8 * r, 1.8 / 6 * r),
        "ring": (math.pi * r**2 * 3 / 4, 0),
    }[form]
    for size in (32, 64, 200):
        found = cover(form, radius, size)
        assert found.sum() / size**2 == pytest.approx(area, rel=0.01)
        at = (np.arange(size) + 0.5) / size
        assert found.sum(0) @ at / found.sum() == pytest.approx(0.5, abs=1e-3)
        assert found.sum(1) @ at / found.sum() == pytest.approx(0.5 + drop, abs=1e-3)


def test_pictures_of_other_sizes_show_the_same():
    for shown in scenes(12, 4):
        small = drawn(shown, 32)
        for factor in (2, 8):
            large = drawn(shown, 32 * factor).reshape(32, factor, 32, factor, 3)
            assert np.abs(large.mean((1, 3)) - small).max() <= 2.5


def test_shapes_do_not_overlap():
    for shown in scenes(50, 4):
        alone = [
            draw([s], 96, [look]) != 245 for s, look in zip(shown.shapes, shown.looks, strict=True)
        ]
        assert np.sum(alone, axis=0).max() <= 1


# Random numbers and splits


def test_random_numbers_are_those_of_splitmix64():
    """The first outputs for the seed 1234567, as Vigna's reference program gives them."""
    states = 1234567 + np.arange(1, 6, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert _mixed(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_an_example_depends_on_its_number_and_the_seed_alone():
    long, short = shapes(train=50, max_shapes=2), shapes(train=9, test=3, max_shapes=2)
    for i in (8, 3, 3, 0):
        one, other = long.train[i], short.train[i]
        np.testing.assert_array_equal(one["image"], other["image"])
        assert one["caption"].tolist() == other["caption"].tolist()
        assert one["label"] == other["label"]
        large = shapes(image_size=64, train=9, max_shapes=2).train[i]
        assert large["caption"].tolist() == one["caption"].tolist()

    def seen(data, split):
        return {getattr(data, split)[i]["image"].tobytes() for i in range(9)}

    sets = [seen(short, "train"), seen(long, "test"), seen(shapes(seed=1, max_shapes=2), "train")]
    assert len(set.union(*sets)) == 27


def test_examples_fit_the_features():
    data = shapes(image_size=40, max_shapes=3, train=30, test=20)
    assert (len(data.train), len(data.test)) == (30, 20)
    assert data.features["caption"] == Feature((3,), text=True)
    assert data.features["label"].values == 24
    for i in range(30):
        example = data.train[i]
        assert {k: v.shape for k, v in example.items()} == {
            k: f.shape for k, f in data.features.items()
        }
        said = [parse_caption(str(text)) for text in example["caption"]]
        assert said[0] == said[1] == said[2] == read_attributes(example["image"])
        assert len(set(example["caption"].tolist())) == 3
        assert PAIRS[example["label"]] == said[0][0][:2]


def test_pairs_that_are_held_out_are_in_no_training():
    def found(source, n=150):
        return {s for i in range(n) for s in parse_caption(str(source[i]["caption"][0]))}

    data = shapes(max_shapes=3, held_out=True)
    train, test = found(data.train), found(data.test)
    assert {s[:2] for s in train} == set(SEEN)
    assert {s[:2] for s in test} == set(HELD_OUT) == set(PAIRS) - set(SEEN)
    for part in range(4):  # every attribute by itself is seen
        assert {s[part] for s in train} == {s[part] for s in ALL}
    assert {s[:2] for s in found(shapes().test)} == set(SEEN)
    for held_out, pairs in ((False, SEEN), (True, HELD_OUT)):
        asked = prompts(held_out, 150)
        assert {named[0][:2] for _, named in asked} == set(pairs)
        assert all(parse_caption(text) == named for text, named in asked)
    assert {len(named) for _, named in prompts(True, 50, max_shapes=2)} == {1, 2}


@pytest.mark.parametrize(
    "options", [{"image_size": 8}, {"max_shapes": 0}, {"max_shapes": 5}, {"train": 0}, {"test": 0}]
)
def test_wrong_options_are_one_line(options):
    with pytest.raises(DataError, match=next(iter(options))):
        shapes(**options)


# The grammar


def test_every_caption_is_parsed_to_what_it_names():
    texts = {}
    for shape, phrasing, synonym in itertools.product(ALL, range(len(PHRASINGS)), (0, 1)):
        text = caption([shape], phrasing, synonym)
        assert parse_caption(text) == [shape]
        assert texts.setdefault(text, shape) == shape
    for shown in scenes(100, 4):
        for phrasing in range(len(PHRASINGS)):
            assert parse_caption(caption(shown.shapes, phrasing)) == shown.shapes


def test_captions_that_name_less():
    assert parse_caption("A red circle") == [Shape("red", "circle")]
    assert parse_caption("a big shape on the left and a ring") == [
        Shape(size="large", place="left"),
        Shape(form="ring"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a red dog", "'dog' is no word"),
        ("a red blue circle", "names the colour of a shape twice: red, blue"),
        ("a circle and", "names no form in ''"),
        ("something red", "'something' is no word"),
        ("a red circle at the top bottom", "'top bottom' is no place"),
        ("a circle at the top top", "'top top' is no place"),
        ("", "names no form"),
    ],
)
def test_other_texts_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_caption(text)


def test_what_agrees():
    red, blue = ALL[0], ALL[200]
    assert agree([red, blue], [blue, red])
    assert agree([Shape("red"), blue], [blue, red])
    assert agree([], [])
    assert not agree([red], [red, blue])
    assert not agree([red], [])
    assert not agree([red], [red._replace(colour=None)])
    assert not agree([Shape("red"), Shape("red")], [red, blue])
    # the first wanted shape must leave the only one that the second can be
    assert agree([Shape("red"), red], [red, red._replace(place="left")])


# Reading


@pytest.mark.parametrize("size", [32, 64])
def test_all_combinations_are_read_back(size):
    for shape, look in zip(ALL, looks(len(ALL)), strict=True):
        assert read_attributes(draw([shape], size, [look])) == [shape]


@pytest.mark.parametrize(("size", "n"), [(32, 60), (64, 30), (47, 30), (256, 6)])
def test_several_shapes_are_read_back(size, n):
    for shown in scenes(n, 4):
        assert read_attributes(drawn(shown, size)) == shown.shapes


def blurred(image, radius):
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def noisy(image):
    noise = np.random.default_rng(int(image.sum())).normal(0, 8, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def compressed(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize(
    "spoilt",
    [noisy, lambda image: noisy(blurred(image, 0.6)), compressed],
    ids=["noise", "blur and noise", "JPEG"],
)
def test_spoilt_pictures_are_read_back(spoilt):
    n = 100
    right = sum(read_attributes(spoilt(drawn(shown, 32))) == shown.shapes for shown in scenes(n))
    assert right >= 0.98 * n  # of 99 % and more, but for chance
    right = sum(read_attributes(spoilt(drawn(s, 64))) == s.shapes for s in scenes(20, 3))
    assert right == 20


def test_the_edges_of_forms_are_their_lengths_over_their_areas():
    """Beside the 2/r of a circle, in the order of FORMS."""
    base, height = 2 * 1.05, 1.8
    square = 4 * (2 * 0.88) / (2 * 0.88) ** 2
    triangle = (base + 2 * math.hypot(base / 2, height)) / (base * height / 2)
    ring = (2 * math.pi + math.pi) / (math.pi * (1 - 0.5**2))
    wanted = np.array([2, square, triangle, ring]) / 2
    np.testing.assert_allclose(EDGES, wanted, rtol=1e-4)


# Reading what is not there


def paint(inside, size, radius, colour="red", at=(0.5, 0.5), fine=6):
    """A picture of the points where `inside(x, y)`, in units of the radius."""
    points = (np.arange(size * fine) + 0.5) / (size * fine)
    x, y = (points - at[0]) / radius, (points[:, None] - at[1]) / radius
    x, y = np.broadcast_arrays(x, y)
    share = inside(x, y).reshape(size, fine, size, fine).mean((1, 3))[..., None]
    middle = slice(fine // 2, None, fine)
    colours = colour(x[middle, middle], y[middle, middle]) if callable(colour) else COLOURS[colour]
    return np.rint(245 + share * (np.asarray(colours) - 245)).astype(np.uint8)


def whole(found):
    """Whether a picture reads as shapes with all their attributes."""
    return all(None not in shape for shape in found)


def test_the_painter_of_these_tests_paints_what_is_read():
    for form, (name, radius) in itertools.product(FORMS, SIZES.items()):
        for size in (32, 64):
            image = paint(lambda x, y, f=form: distance(f, x, y, 1.0) < 0, size, radius)
            assert read_attributes(image) == [Shape("red", form, name, "middle")]


@pytest.mark.parametrize(("bend", "form"), [(0.2, "triangle"), (0.4, None)])
def test_a_triangle_with_hollow_sides(bend, form):
    """Half-way up it is narrower by the factor 1 + bend. A fifth is an edge drawn badly."""

    def inside(x, y):
        return distance("triangle", x * (1 + bend * np.clip(1 - (y / 0.9) ** 2, 0, 1)), y, 1.0) < 0

    for colour in ("green", "yellow"):
        [found] = read_attributes(paint(inside, 64, SIZES["large"], colour))
        assert found.form == form


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("radius", SIZES.values())
@pytest.mark.parametrize("form", FORMS)
def test_half_a_shape_is_none(form, radius, size):
    for turn in np.arange(8) * math.pi / 4:
        if form == "triangle" and turn == math.pi / 2:
            continue  # without its lower half it is a triangle

        def inside(x, y, turn=turn):
            far = x * math.cos(turn) + y * math.sin(turn)
            filled = distance(form, x, y, 1.0) < 0
            return filled & (far < np.quantile(far[filled], 0.6))

        for colour in ("green", "yellow"):
            found = read_attributes(paint(inside, size, radius, colour))
            assert len(found) > 1 or not whole(found), (turn, found)


OTHERS = {
    "cross": lambda x, y: np.minimum(abs(x), abs(y)) < 0.36,
    "diamond": lambda x, y: abs(x) + abs(y) < 1.2,
    "ellipse": lambda x, y: (x / 1.25) ** 2 + (y * 1.25) ** 2 < 1,
    "bar": lambda x, y: np.maximum(abs(x) / 1.25, abs(y) * 1.25) < 0.88,
    "triangle upside down": lambda x, y: distance("triangle", x, -y, 1.0) < 0,
    "triangle on its side": lambda x, y: distance("triangle", y, x, 1.0) < 0,
    "open ring": lambda x, y: (distance("ring", x, y, 1.0) < 0) & ~((x > 0) & (abs(y) < 0.45)),
    "thin ring": lambda x, y: abs(np.hypot(x, y) - 0.9) < 0.1,
    "square ring": lambda x, y: abs(np.maximum(abs(x), abs(y)) - 0.66) < 0.22,
    "corner": lambda x, y: (np.maximum(abs(x), abs(y)) < 0.88) & ~((x > 0) & (y < 0)),
    "two circles": lambda x, y: np.hypot(abs(x) - 0.6, y) < 0.7,
    "two bars": lambda x, y: (np.maximum(abs(x), abs(y)) < 0.88) & (abs(x) > 0.3),
}


def readable(name, radius, size):
    """Of 6 pixels a diamond is as a circle, and a square ring as a ring."""
    return name not in ("diamond", "square ring") or radius * size >= 3


@pytest.mark.parametrize(
    ("name", "radius", "size"),
    [each for each in itertools.product(OTHERS, SIZES.values(), (32, 64)) if readable(*each)],
)
def test_other_forms_are_none(name, radius, size):

    def inside(x, y):
        return OTHERS[name](x, y) & (np.maximum(abs(x), abs(y)) < 1.6)

    for colour in ("blue", "black"):
        found = read_attributes(paint(inside, size, radius, colour))
        assert not whole(found), found


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("radius", SIZES.values())
def test_smeared_and_faded_colours_are_none(radius, size):
    def inside(x, y):
        return np.hypot(x, y) < 1

    for one, other in itertools.combinations(COLOURS.values(), 2):
        for sharp in (0.9, 50.0):  # a slope of colour, and two halves

            def mixed(x, y, one=one, other=other, sharp=sharp):
                share = np.clip(0.5 + sharp * (x + y), 0, 1)[..., None]
                return (1 - share) * one + share * other

            [found] = read_attributes(paint(inside, size, radius, mixed))
            assert found.colour is None, (one, other, sharp)
    for colour in COLOURS.values():

        def faded(x, y, colour=colour):
            return np.broadcast_to(0.5 * (np.array(colour) + 245), (*x.shape, 3))

        found = read_attributes(paint(inside, size, radius, faded))
        assert not whole(found)


def test_what_is_between_two_attributes_is_none():
    size_, place_ = 0.112, (1 / 3, 0.5)
    [found] = read_attributes(paint(lambda x, y: np.hypot(x, y) < 1, 64, size_))
    assert found == Shape("red", "circle", None, "middle")
    [found] = read_attributes(paint(lambda x, y: np.hypot(x, y) < 1, 64, SIZES["small"], at=place_))
    assert found.place is None


def test_a_shape_too_many_or_too_few_is_seen():
    one = Shape("red", "circle", "large", "top left")
    for other in (one._replace(place="top"), Shape("yellow", "ring", "small", "bottom right")):
        found = read_attributes(draw([one, other], 32))
        assert found == [one, other]
        assert not agree([one], found)
        assert not agree([one, other], read_attributes(draw([one], 32)))
    spot = draw([one], 32)
    spot[20:23, 20:23] = 120
    found = read_attributes(spot)
    assert found[0] == one
    assert len(found) == 2
    assert not whole(found)
    touching = draw([one], 32)
    touching[8:12, 4:8] = COLOURS["blue"]
    assert not whole(read_attributes(touching))


def test_pictures_without_a_shape():
    rng = np.random.default_rng(0)
    assert read_attributes(np.full((32, 32, 3), 240, np.uint8)) == []
    assert read_attributes(noisy(np.full((32, 32, 3), 240, np.uint8))) == []
    assert read_attributes(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) == [Shape()]
    slope = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[:, None, None], (1, 64, 3))
    assert not any(shape.form for shape in read_attributes(slope))
    for form in FORMS:
        smear = blurred(draw([Shape("blue", form, "large", "left")], 32), 3)
        assert not whole(read_attributes(smear) or [Shape()])


def test_pictures_that_are_too_small_or_no_square():
    for shape in ((31, 31, 3), (32, 64, 3)):
        with pytest.raises(ValueError, match="is not a square of 32 or more"):
            read_attributes(np.zeros(shape, np.uint8))
    assert centre("top right") == pytest.approx((5 / 6, 1 / 6))
