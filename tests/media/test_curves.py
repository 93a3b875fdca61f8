"""Pictures of curves: each point is where its number says, in the cell of its curve."""

import numpy as np
from PIL import Image, ImageColor

from score_sde.config import build
from score_sde.media.curves import GAP, TOP, Curves, curves
from score_sde.media.medium import Medium

SMALL = Curves(width=16, height=11)  # a pixel for each of 16 points, and a row for each tenth
LEVELS = np.random.default_rng(0).permutation(np.arange(16) % 11) / 10  # has 0 and 1


def dark(path):
    return np.asarray(Image.open(path).convert("L")) < 128


def cell(picture, i, j, top=0):
    y, x = top + GAP + i * (11 + GAP), GAP + j * (16 + GAP)
    return picture[y : y + 11, x : x + 16]


def has_points(cell, levels):
    rows = np.round((1 - levels) * 10).astype(int)
    return cell[rows, np.arange(16)].all()


def test_a_file_and_a_sheet_go_through_every_point(tmp_path):
    assert isinstance(SMALL, Medium)
    assert build("media", "curves(width=16, height=11)") == SMALL == curves(16, 11)
    SMALL.save(tmp_path / "one.png", 7 * LEVELS - 3)
    assert has_points(cell(dark(tmp_path / "one.png"), 0, 0), LEVELS)

    # flat curves at the levels 0, .2, ..., .8, and one that sets the scale
    shown = np.stack([LEVELS, *(np.full(16, v) for v in (0.0, 0.2, 0.4, 0.6, 0.8))])
    SMALL.sheet(tmp_path / "sheet.png", shown)
    sheet = dark(tmp_path / "sheet.png")
    assert sheet.shape == (2 * (11 + GAP) + GAP, 3 * (16 + GAP) + GAP)
    assert has_points(cell(sheet, 0, 0), LEVELS)
    for number in range(1, 6):
        found = cell(sheet, number // 3, number % 3)
        row = 10 - 2 * (number - 1)
        assert found[row].all()
        assert found.sum() == 16  # nothing else is drawn


def test_rows_are_in_order_under_their_labels(tmp_path):
    flat = np.array([[0.0, 1.0], [0.5, 0.2], [0.3, 0.7]])
    SMALL.rows(tmp_path / "rows.png", np.repeat(flat[..., None], 16, axis=2), ["a", "b"])
    picture = dark(tmp_path / "rows.png")
    for i in range(3):
        for j in range(2):
            assert cell(picture, i, j, TOP)[round((1 - flat[i, j]) * 10)].all()
    for x in (0, 16 + GAP):  # something is written above each column
        assert picture[:TOP, x + GAP : x + GAP + 16].any()


def test_over_time_has_the_first_row_of_each_sheet(tmp_path):
    sheets = {}
    for step, level in ((200, 1.0), (100, 0.5)):
        shown = np.stack([np.full(16, v) for v in (level, 0.0, 0.0, 1.0)])
        sheets[step] = tmp_path / f"{step}.png"
        SMALL.sheet(sheets[step], shown)
    SMALL.over_time(tmp_path / "all.png", sheets, 4, (16,))
    picture = dark(tmp_path / "all.png")
    for i, row in enumerate((5, 0)):  # step 100 first
        assert cell(picture[:, 80:], i, 0)[row].all()
        assert picture[i * (11 + GAP) : (i + 1) * (11 + GAP), :80].any()  # the step


def test_what_is_not_finite_is_drawn_at_an_end(tmp_path):
    SMALL.save(tmp_path / "one.png", np.where(LEVELS == 0.5, np.nan, LEVELS))
    assert has_points(cell(dark(tmp_path / "one.png"), 0, 0), np.where(LEVELS == 0.5, 0, LEVELS))


def test_a_series_has_a_line_of_its_own_colour_for_each_channel(tmp_path):
    flat = np.stack([np.full(16, level) for level in (0.0, 1.0, 0.5)], axis=1)  # [t, channels]
    medium = build("media", "series(width=16, height=11)")
    assert isinstance(medium, Medium)
    medium.sheet(tmp_path / "sheet.png", np.stack([flat, flat[:, ::-1]]))
    picture = np.asarray(Image.open(tmp_path / "sheet.png"))
    for j, rows in enumerate(((10, 0, 5), (5, 0, 10))):
        found = cell(picture, 0, j)
        for row, colour in zip(rows, ("black", "firebrick", "steelblue"), strict=True):
            assert np.all(found[row] == ImageColor.getrgb(colour))
