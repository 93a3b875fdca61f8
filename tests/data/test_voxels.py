"""Solids as voxels: the volume is that of the solid, and pictures and files show where it is."""

import numpy as np
import pytest
import trimesh
from PIL import Image

from score_sde.config import build
from score_sde.data.draws import uniform
from score_sde.data.solids import CONE, CUBE, CYLINDER, KINDS, SIZES, TORUS
from score_sde.errors import DataError
from score_sde.media.medium import Medium
from score_sde.media.voxels import sides


def test_volumes_are_those_of_the_solids():
    """The mean of (x + 1)/2, times 8, for grids of 48: a voxel at the surface is partly full."""
    data = build("data", {"name": "voxels", "side": 48, "train": 5, "test": 1})
    size = SIZES[0] + (SIZES[1] - SIZES[0]) * uniform((0, 0), 5)
    radius, low, high = CONE
    volumes = {
        "sphere": 4 / 3 * np.pi,
        "cube": (2 * CUBE) ** 3,
        "cylinder": np.pi * CYLINDER[0] ** 2 * 2 * CYLINDER[1],
        "cone": np.pi * radius**2 * (high - low) / 3,
        "torus": 2 * np.pi**2 * TORUS[0] * TORUS[1] ** 2,
    }
    for i, kind in enumerate(KINDS):
        full = np.mean((data.train[i]["voxels"] + 1) / 2) * 8
        assert full == pytest.approx(volumes[kind] * size[i] ** 3, rel=0.02)
    assert data.features["voxels"].shape == data.test[0]["voxels"].shape


def test_pictures_and_files(tmp_path):
    """A bar along x above the middle, at one side of y: from the front it is long, from the right
    a point, from above long."""
    medium = build("media", "voxels")
    assert isinstance(medium, Medium)
    grid = np.full((4, 4, 4, 1), -1.0)
    grid[:, 3, 2] = 1
    front, right, above = np.split(sides(grid)[..., 0], 3, axis=1)
    quarter, whole = np.round(255 * (1 - 1 / 4)), 0
    assert (
        front.tolist() == np.where(np.arange(4)[:, None] == 1, quarter, 255 + np.zeros(4)).tolist()
    )
    truth = np.full((4, 4), 255)
    truth[1, 3] = whole
    assert right.tolist() == truth.tolist()
    assert (
        above.tolist() == np.where(np.arange(4)[:, None] == 0, quarter, 255 + np.zeros(4)).tolist()
    )
    medium.save(tmp_path / "a.ply", grid)
    read = trimesh.load(tmp_path / "a.ply").vertices
    np.testing.assert_allclose(read, [[x, 0.75, 0.25] for x in (-0.75, -0.25, 0.25, 0.75)])
    medium.sheet(tmp_path / "s.png", np.stack([grid] * 3))
    medium.rows(tmp_path / "r.png", np.stack([grid] * 4).reshape(2, 2, 4, 4, 4, 1), ["a", "b"])
    medium.over_time(tmp_path / "t.png", {1: tmp_path / "s.png"}, 3, (4, 4, 4, 1))
    with Image.open(tmp_path / "t.png") as picture:
        assert picture.width > 3 * 4


def test_wrong_options_are_named():
    with pytest.raises(DataError, match="side must be at least 4"):
        build("data", "voxels(side=2)")
    with pytest.raises(DataError, match="there is no kind 'egg'"):
        build("data", "voxels(kinds=('egg',))")
