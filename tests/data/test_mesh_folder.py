"""Folders of meshes and clouds: points are even on the surface, and one line tells each mistake."""

import sys

import numpy as np
import pytest
import trimesh

from score_sde.config import build
from score_sde.errors import DataError
from score_sde.media.points import Points

BOX = trimesh.creation.box((2.0, 1.0, 4.0))


def write(path, mesh):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = mesh.export(file_type=path.suffix[1:])
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def load(root, **options):
    return build("data", {"name": "mesh_folder", "path": str(root), **options})


def test_meshes_of_three_kinds_give_even_points(tmp_path):
    """Of a box 2 x 1 x 4, which is centred and scaled to 1 x .5 x 2: on its faces, each by area
    (28 in all), with their normals. Points depend on the path alone."""
    for i, suffix in enumerate(("ply", "obj", "stl")):
        moved = BOX.copy()
        moved.apply_translation((5.0, 0.0, 0.0))
        write(tmp_path / f"{'ab'[i % 2]}/{i}.{suffix}", moved)
    data = load(tmp_path, points=8000, normals=True, test_fraction=0.3)
    assert (len(data.train), len(data.test)) == (2, 1)
    assert data.features["label"].values == 2
    assert [data.test[0]["label"], *data.train.parts["label"]] == [0, 0, 1]
    half = np.array([0.5, 0.25, 1.0])
    clouds = [data.test[0]["points"], *data.train.parts["points"]]
    for cloud in clouds:
        points, normal = cloud[:, :3], cloud[:, 3:]
        beyond = np.abs(points) - half
        np.testing.assert_allclose(beyond.max(axis=1), 0, atol=1e-6)
        np.testing.assert_allclose(
            np.sum(normal * points, axis=1), np.abs(normal) @ half, rtol=1e-5
        )
        for axis, area in enumerate((8.0, 16.0, 4.0)):
            share = area / 28
            found = np.mean(np.abs(normal[:, axis]) > 0.99)
            assert abs(found - share) < 4 * np.sqrt(share * (1 - share) / 8000)
        # and evenly within a face, which is two triangles
        face = points[normal[:, 1] > 0.99]
        for x, z in ((0.0, 0.0), (0.0, 1.0), (0.25, -0.5)):
            share = (x + 0.5) * (z + 1) / 2
            found = np.mean((face[:, 0] < x) & (face[:, 2] < z))
            assert abs(found - share) < 4 * np.sqrt(share * (1 - share) / len(face))
    assert not np.allclose(clouds[0], clouds[1])
    again = load(tmp_path, points=8000, normals=True, test_fraction=0.3)
    np.testing.assert_array_equal(again.test[0]["points"], clouds[0])


def test_clouds_are_kept_as_they_are(tmp_path):
    """Those that this package writes, and those of an .npz."""
    clouds = np.random.default_rng(0).normal(size=(4, 10, 3)).astype(np.float32)
    for i, cloud in enumerate(clouds):
        if i % 2:
            Points().save(tmp_path / f"{i}.ply", cloud)
        else:
            np.savez(tmp_path / f"{i}.npz", points=cloud)
    data = load(tmp_path, centre=False, test_fraction=0.5)
    found = np.concatenate([data.test.parts["points"], data.train.parts["points"]])
    np.testing.assert_array_equal(found, clouds[[0, 2, 1, 3]])
    some = load(tmp_path, points=7, centre=False, test_fraction=0.5).train[1]["points"]
    kept = [np.flatnonzero((clouds[3] == point).all(axis=1)).item() for point in some]
    assert len(kept) == 7
    assert kept == sorted(set(kept))


PLY = b"ply\nformat ascii 1.0\nelement vertex %d\n" + b"".join(
    b"property float %c\n" % axis for axis in b"xyz"
)


def test_a_mesh_of_two_materials_is_one_mesh(tmp_path):
    """Two triangles of areas 1/2 and 2, in a file that names two materials: a fifth of the points
    is on the first."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.obj").write_text(
            "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 5 0 0\nv 7 0 0\nv 5 2 0\n"
            "usemtl red\nf 1 2 3\nusemtl blue\nf 4 5 6\n"
        )
    options = {"path": str(tmp_path), "points": 4000, "centre": False, "test_fraction": 0.5}
    data = build("data", {"name": "mesh_folder", **options})
    share = np.mean(data.train[0]["points"][:, 0] < 2)
    assert abs(share - 0.2) < 5 * (0.2 * 0.8 / 4000) ** 0.5


def test_bad_files_are_one_line(tmp_path):
    good = np.random.default_rng(0).normal(size=(10, 3))
    np.savez(tmp_path / "a.npz", points=good)
    write(tmp_path / "whole/box.ply", BOX)
    whole = (tmp_path / "whole/box.ply").read_bytes()
    faces = b"element face 0\nproperty list uchar int vertex_indices\nend_header\n"
    for name, content, message in (
        ("none.ply", PLY % 0 + faces, "holds no vertices: remove it, or write it anew"),
        ("empty.obj", b"", "holds no vertices"),
        ("cut.ply", whole[: len(whole) // 2], "is damaged or is no .ply file"),
        ("vast.ply", PLY % 10**12 + b"end_header\n", "is damaged: it ends after 0 of 10{12} vert"),
        ("short.ply", PLY % 3 + b"end_header\n0 0 0\n1 1 1\n", "ends after 2 of 3 vertices: copy"),
        ("junk.stl", b"x" * 300, "holds no vertices"),
        ("line.obj", b"v 0\nv 1\nv 2\nf 1 2 3\n", "is damaged"),
        ("far.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "is damaged"),
        ("flat.obj", b"v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n", "has a surface of area 0.0"),
        ("nan.obj", b"v 0 0 0\nv nan 1 0\n", "has points that are not finite"),
        ("few.obj", b"v 0 0 0\nv 1 1 0\n", r"has 2 points, and data.points=10: set fewer"),
    ):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes())
        (folder / name).write_bytes(content)
        with pytest.raises(DataError, match=message) as error:
            load(folder, points=10)
        assert "\n" not in str(error.value)
        assert str(folder / name) in str(error.value)


def test_other_mistakes_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="is not a folder"):
        load(tmp_path / "none")
    with pytest.raises(DataError, match=r"holds no mesh or cloud \(.ply, .obj, .stl, .npz\)"):
        load(tmp_path)
    with pytest.raises(DataError, match="points must be at least 1, got 0"):
        load(tmp_path, points=0)
    np.savez(tmp_path / "a.npz", points=np.zeros((10, 3)))
    np.savez(tmp_path / "b.npz", points=np.zeros((9, 3)))
    with pytest.raises(DataError, match=r"b.npz has \[9, 3\] numbers, and a.npz \[10, 3\]: set"):
        load(tmp_path)
    np.savez(tmp_path / "b.npz", points=np.zeros((9, 3), int))
    with pytest.raises(DataError, match=r"should hold `points`, floats \[n, 3 \+ k\], but has int"):
        load(tmp_path)
    write(tmp_path / "b.ply", BOX)
    (tmp_path / "b.npz").unlink()
    with pytest.raises(DataError, match=r"is a mesh: set data\.points"):
        load(tmp_path)
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(DataError, match=r"pip install 'score_sde\[meshes\]'"):
        load(tmp_path)
