"""Emoji: those that the font has, under their names."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from score_sde.conditioning.words import words
from score_sde.data import emoji
from score_sde.data.source import Mapped
from score_sde.errors import DataError
from score_sde.types import Feature

# (the module has the name of its function)
from score_sde.data.emoji import FONTS, vocabulary  # isort: skip

FONT = next((f for f in map(Path, FONTS) if f.expanduser().is_file()), None)
needs_font = pytest.mark.skipif(FONT is None, reason="NotoColorEmoji.ttf is not installed")


@pytest.fixture(scope="module")
def small():
    return emoji(image_size=34)


def names(source):
    return [str(source[i]["caption"][0]) for i in range(len(source))]


def named(data, name):
    return next(
        source[i]
        for source in (data.train, data.test)
        for i in range(len(source))
        if source[i]["caption"][0] == name
    )


@needs_font
def test_the_emoji_are_those_of_the_font(small):
    """By its tables: the code points with a name and a bitmap."""
    font = pytest.importorskip("fontTools.ttLib").TTFont(FONT)
    bitmaps = {
        name
        for strike in font["CBLC"].strikes
        for table in strike.indexSubTables
        for name in table.names
    }
    blank = {0x20, 0x200D, *range(0xE0020, 0xE0080)}  # bitmaps of nothing
    points = {
        point
        for point, glyph in font.getBestCmap().items()
        if glyph in bitmaps and unicodedata.name(chr(point), "") and point not in blank
    }
    found = [ord(unicodedata.lookup(n)) for n in names(small.train) + names(small.test)]
    assert len(found) == len(set(found))
    assert set(found) == points


@needs_font
def test_captions_are_the_names(small):
    assert small.features["caption"] == Feature((3,), text=True)
    assert named(small, "red apple")["caption"].tolist() == [
        "red apple",
        "the red apple emoji",
        "a picture of the red apple emoji",
    ]


@needs_font
@pytest.mark.parametrize(
    ("name", "colour"),
    [
        ("large blue square", (0, 0, 1)),
        ("large red square", (1, 0, 0)),
        ("large green circle", (0, 1, 0)),
        ("black large square", (0, 0, 0)),
        ("white large square", (1, 1, 1)),
    ],
)
def test_pictures_are_what_the_names_say(small, name, colour):
    image = named(small, name)["image"]
    middle = image[14:20, 14:20].mean((0, 1))
    if len(set(colour)) == 1:
        assert np.abs(middle - 255 * np.array(colour)).max() < 80
    else:
        assert middle.argmax() == np.argmax(colour)
    assert (image[0] == 255).all()  # 4 pixels of 136 above and below are white
    assert (image[-1] == 255).all()


@needs_font
def test_a_smaller_picture_is_the_mean_of_a_larger():
    large, small = (emoji(image_size=n, memory=False) for n in (136, 34))
    assert isinstance(large.test, Mapped)
    for i in range(0, len(large.test), 20):
        mean = large.test[i]["image"].reshape(34, 4, 34, 4, 3).mean((1, 3))
        assert np.abs(mean - small.test[i]["image"]).max() <= 1


@needs_font
def test_the_split_hangs_on_the_code_point(small):
    points = [ord(unicodedata.lookup(n)) for n in names(small.test)]
    assert points == [p for p in points if p % 10 == 0]
    assert all(ord(unicodedata.lookup(n)) % 10 for n in names(small.train))
    other = emoji(image_size=2, test_fraction=0.25, memory=False)
    assert all(ord(unicodedata.lookup(n)) % 4 == 0 for n in names(other.test))


@needs_font
def test_the_vocabulary_has_the_words_of_pictographs(small):
    """It has every word of their captions. Modifiers and marks are no pictographs."""
    read = words(names=vocabulary(), length=16)
    captions = [
        c for of in (small.train, small.test) for i in range(len(of)) for c in of[i]["caption"]
    ]
    for caption, told in zip(captions, read.texts(read(captions)), strict=True):
        name = caption.removeprefix("a picture of ").removeprefix("the ").removesuffix(" emoji")
        if unicodedata.category(unicodedata.lookup(name)) == "So":
            assert told == " ".join(re.findall(r"\w+", caption))


def test_fonts_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"x\.ttf does not exist: install it .*fonts-noto-color-em"):
        emoji(font=tmp_path / "x.ttf")
    import sys

    monkeypatch.setattr(sys.modules["score_sde.data.emoji"], "FONTS", (str(tmp_path / "y.ttf"),))
    with pytest.raises(DataError, match=r"there is no NotoColorEmoji\.ttf: install it"):
        emoji()


def test_files_that_are_other_fonts(tmp_path):
    outlines = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    (tmp_path / "junk.ttf").write_bytes(b"junk")
    for font in (outlines, tmp_path / "junk.ttf"):
        with pytest.raises(DataError, match=r"ttf has no bitmaps of 136x128 pixels: set data\.fo"):
            emoji(font=font)


@pytest.mark.parametrize("options", [{"image_size": 0}, {"test_fraction": 0.9}])
def test_wrong_options(options):
    with pytest.raises(DataError, match=next(iter(options))):
        emoji(**options)


@needs_font
def test_emoji_of_one_word(small):
    """Those with the whole word in their name, as they are among all, in the same split."""
    cats = emoji(image_size=34, word="cat")
    for split in ("train", "test"):
        every = names(getattr(small, split))
        assert names(getattr(cats, split)) == [name for name in every if "cat" in name.split()]
    assert "cat face" in names(cats.train) + names(cats.test)
    with pytest.raises(DataError, match="no name has the word 'Cat'"):
        emoji(word="Cat")
