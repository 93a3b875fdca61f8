"""Clouds as files and pictures: another library reads the file, and points are where they are."""

import numpy as np
import trimesh
from PIL import Image

from score_sde.config import build
from score_sde.media import pictures
from score_sde.media.medium import Medium
from score_sde.media.points import GAP, TOP, Points


def dark(path):
    return np.asarray(Image.open(path).convert("L")) < 205  # the cells are brighter


def places(cell):
    """The middle of what is dark, (x, y) in [-1, 1], y upwards."""
    rows, columns = np.nonzero(cell)
    half = (len(cell) - 5) / 2
    return (columns.mean() - 0.5 - 2 - half) / half, -(rows.mean() - 0.5 - 2 - half) / half


def test_a_ply_is_read_by_another_library(tmp_path):
    medium = build("media", "points(cell=32)")
    assert isinstance(medium, Medium)
    assert medium == Points(32)
    cloud = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    medium.save(tmp_path / "a.ply", cloud)
    np.testing.assert_array_equal(trimesh.load(tmp_path / "a.ply").vertices, cloud)
    assert f"comment {pictures.SOURCE}".encode() in (tmp_path / "a.ply").read_bytes()

    wide = np.random.default_rng(1).normal(size=(20, 7)).astype(np.float32)
    medium.save(tmp_path / "b.ply", wide)
    read = trimesh.load(tmp_path / "b.ply").metadata["_ply_raw"]["vertex"]["data"]
    names = ["x", "y", "z", "nx", "ny", "nz", "feature_0"]
    np.testing.assert_array_equal(np.stack([read[name] for name in names], axis=-1), wide)


def test_four_sides(tmp_path):
    """One point at a time, on the unit sphere: from the front x is to the right and z upwards,
    from the right y and z, from above x and y, from the corner as the axes say."""
    medium, cell = Points(64), 64
    for point in np.concatenate([np.eye(3), [[0.6, -0.48, 0.64]]]):
        medium.sheet(tmp_path / "a.png", np.tile(point, (1, 5, 1)))
        picture = dark(tmp_path / "a.png")[GAP:-GAP, GAP:-GAP]
        assert picture.shape == (2 * cell, 2 * cell)
        x, y, z = point
        a, b, c = 2**-0.5, 6**-0.5, (2 / 3) ** 0.5
        truth = [(x, z), (y, z), (x, y), (a * (x + y), b * (y - x) + c * z)]
        for i, (right, up) in enumerate(truth):
            row, column = i // 2 * cell, i % 2 * cell
            found = places(picture[row : row + cell, column : column + cell])
            np.testing.assert_allclose(found, (right, up), atol=1.5 / 29.5)
    assert pictures.says_generated(tmp_path / "a.png")


def test_sheets_rows_and_steps(tmp_path):
    """Five clouds lie in a grid of three columns; a cloud that is not finite is drawn all the
    same."""
    medium = Points(20)
    clouds = np.random.default_rng(0).normal(size=(6, 30, 3)).astype(np.float32)
    clouds[4] = np.nan
    medium.sheet(tmp_path / "s.png", clouds[:5])
    picture, step = dark(tmp_path / "s.png"), 2 * 20 + GAP
    assert picture.shape == (2 * step + GAP, 3 * step + GAP)
    there = [
        [picture[i * step + GAP : (i + 1) * step, j * step + GAP : (j + 1) * step].any()]
        for i in range(2)
        for j in range(3)
    ]
    assert np.ravel(there).tolist() == [True] * 5 + [False]
    medium.rows(tmp_path / "r.png", clouds.reshape(2, 3, 30, 3), ["a", "b", "c"])
    rows = dark(tmp_path / "r.png")
    assert rows.shape == (TOP + 2 * step + GAP, 3 * step + GAP)
    assert rows[:TOP].any()
    medium.over_time(tmp_path / "t.png", {1: tmp_path / "s.png"}, 5, (30, 3))
    assert len(dark(tmp_path / "t.png")) == step + GAP
