"""The medium of text."""

import numpy as np
from PIL import Image

from score_sde.media import pictures
from score_sde.media.text import text, text_of


def shown(*texts, length=12):
    rows = [t.encode().ljust(length, b"\0") for t in texts]
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(texts), length, 1)


def test_a_text_is_a_file_in_utf8(tmp_path):
    medium, sample = text(), shown("Größe")
    assert medium.suffix == ".txt"
    medium.save(tmp_path / "a.txt", shown("zwei\nWörter", length=16)[0])
    assert (tmp_path / "a.txt").read_text() == "zwei\nWörter"
    assert text_of(sample[0][:3]) == "Gr\N{REPLACEMENT CHARACTER}"  # in the middle of a letter


def test_a_picture_has_each_text_in_its_cell(tmp_path):
    """A cell is white where its text is empty, and no other is; a label is above its column."""
    medium = text(width=60, lines=1)
    medium.sheet(tmp_path / "a.png", shown("abc", "", "def", "ghi"))
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    width = picture.shape[1] // 3
    cells = [picture[: picture.shape[0] // 2, i * width : (i + 1) * width] for i in range(3)]
    assert [bool((cell < 128).any()) for cell in cells] == [True, False, True]
    assert pictures.says_generated(tmp_path / "a.png")
    medium.rows(tmp_path / "b.png", shown("", "abc").reshape(1, 2, 12, 1), ("", "known"))
    ink = np.asarray(Image.open(tmp_path / "b.png").convert("L")) < 160
    half = ink.shape[1] // 2
    assert not ink[:, :half].any()
    assert ink[:18, half:].any()
    assert ink[24:, half:].any()


def test_pictures_of_steps_are_below_one_another(tmp_path):
    medium, paths = text(width=60), {}
    for step, word in ((10, "aaa"), (20, "bbb")):
        paths[step] = tmp_path / f"{step}.png"
        medium.sheet(paths[step], shown(*[word] * 6))
    medium.over_time(tmp_path / "all.png", paths, 6, (12,))
    picture = np.asarray(Image.open(tmp_path / "all.png").convert("L"))
    half = picture.shape[0] // 2
    assert (picture[:half, 80:] < 128).any()
    assert (picture[half:, 80:] < 128).any()
