"""A folder of meshes and clouds of points, as clouds."""

from __future__ import annotations

import io
import os
import re
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from score_sde.data.draws import uniform
from score_sde.data.files import read_arrays
from score_sde.data.labelled_files import files_under, labels_of
from score_sde.data.source import Arrays, Data, every_kth, labelled_reals
from score_sde.errors import DataError, foreign, one_line

__all__ = ["mesh_folder"]

MESHES = (".ply", ".obj", ".stl")
SUFFIXES = (*MESHES, ".npz")


def mesh_folder(
    path: str | os.PathLike,
    *,
    points: int | None = None,
    normals: bool = False,
    centre: bool = True,
    test_fraction: float = 0.1,
) -> Data:
    """The .ply, .obj, .stl and .npz files under a folder, in the order of their paths, as clouds
    float32 [points, 3 + k], in memory.

    A mesh gives points that are uniform on its surface. Which ones they are depends on its path in
    the folder alone. A .ply or .obj without faces is a cloud itself, and so is an .npz with the
    array `points`, float [n, 3 + k]: their points are kept, or so many of them. Of a .ply or .obj
    they are x, y and z; other numbers need an .npz. The class of a file is the topmost subfolder
    that it lies in, by sorted name; without subfolders every label is 0.

    points: of a cloud; None where no file is a mesh and all have the same number.
    normals: whether the points of meshes have the outward normals of their faces, [points, 6].
    centre: moves the middle of the box around each cloud to the origin, and scales its longest side
        to 2.
    test_fraction: every `round(1 / test_fraction)`-th file is for the test.

    Raises DataError, of one line, where the folder is missing or holds fewer than two such files,
    where a file is damaged or holds no points, too few of them, or other numbers for each than the
    files before, and where trimesh, which reads meshes, is not installed.
    """
    root = Path(path).expanduser()
    if points is not None and points < 1:
        raise DataError(f"points must be at least 1, got {points}")
    if not root.is_dir():
        raise DataError(f"{root} is not a folder")
    files = files_under(root, SUFFIXES, "mesh or cloud")
    labels, classes = labels_of(root, files, None, None)
    clouds = []
    for file in files:
        cloud = _cloud(root / file, str(file), points, normals)
        if centre:
            low, high = cloud[:, :3].min(axis=0), cloud[:, :3].max(axis=0)
            half = float((high - low).max()) / 2
            cloud[:, :3] = (cloud[:, :3] - (low + high) / 2) / (half or 1.0)
        if clouds and cloud.shape != clouds[0].shape:
            raise DataError(
                f"{root / file} has {list(cloud.shape)} numbers, and {files[0]} "
                f"{list(clouds[0].shape)}: set data.points to the least number of points, or give "
                "all files the same fields"
            )
        clouds.append(cloud.astype(np.float32))
    label = np.array([labels[file] for file in files], np.int32)
    whole = Arrays(points=np.stack(clouds), label=label)
    train, test = (Arrays(**whole[i]) for i in every_kth(len(files), test_fraction))
    features = labelled_reals("points", clouds[0].shape, classes)
    return Data(root.name, train, test, features)


def _cloud(path: Path, name: str, points: int | None, normals: bool) -> Float[np.ndarray, "n f"]:
    """The cloud of one file, float64."""
    u = uniform((zlib.crc32(name.encode()),), 3 * (points or 1)).reshape(3, -1)
    if path.suffix.lower() == ".npz":
        cloud = read_arrays(path, ["points"]).get("points")
        if cloud is None or cloud.dtype.kind != "f" or cloud.ndim != 2 or cloud.shape[1] < 3:
            found = "none" if cloud is None else one_line(f"{cloud.dtype} {list(cloud.shape)}")
            raise DataError(f"{path} should hold `points`, floats [n, 3 + k], but has {found}")
    else:
        mesh = _mesh(path)
        if len(getattr(mesh, "faces", ())):
            if points is None:
                raise DataError(f"{path} is a mesh: set data.points, how many points it is to give")
            with foreign(f"{path} is damaged"):  # vertices may have fewer than three numbers
                return _on_surface(path, mesh, u, normals)
        cloud = np.asarray(getattr(mesh, "vertices", np.zeros((0, 3))))
    if not len(cloud):
        raise DataError(f"{path} holds no vertices: remove it, or write it anew")
    if not np.isfinite(cloud).all():
        raise DataError(f"{path} has points that are not finite")
    if points is None:
        return cloud.astype(np.float64)
    if len(cloud) < points:
        raise DataError(f"{path} has {len(cloud)} points, and data.points={points}: set fewer")
    order = np.argsort(uniform((zlib.crc32(name.encode()),), len(cloud)), kind="stable")
    return cloud[np.sort(order[:points])].astype(np.float64)


def _mesh(path: Path) -> Any:
    """What trimesh reads of the bytes of a file. It opens no other file, such as a texture."""
    try:
        import trimesh
    except ModuleNotFoundError:
        raise DataError(
            f"{path} is read by trimesh, which is not installed: "
            "pip install 'score_sde[meshes]', or save clouds as .npz"
        ) from None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    kind = path.suffix.lower().removeprefix(".")
    with (
        foreign(f"{path} is damaged or is no {path.suffix} file"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        mesh = trimesh.load(io.BytesIO(content), file_type=kind, process=False)
        if kind == "ply":
            _check_whole(path, content, mesh)
        # a file of several materials is a scene of several meshes
        whole: Any = mesh
        return whole.to_mesh() if hasattr(mesh, "to_mesh") else mesh


def _check_whole(path: Path, content: bytes, mesh: Any) -> None:
    """Raises a DataError of a PLY file of text that ends too early, which trimesh reads as if it
    were whole."""
    header = content.partition(b"end_header")[0]
    for name, held in (("vertex", "vertices"), ("face", "faces")):
        found = re.search(rb"element +%s +(\d{1,18})" % name.encode(), header)
        there = len(getattr(mesh, held, ()))
        if found and there < int(found[1]):
            raise DataError(
                f"{path} is damaged: it ends after {there} of {int(found[1])} {held}: copy it again"
            )


def _on_surface(
    path: Path, mesh: Any, u: Float[np.ndarray, "3 n"], normals: bool
) -> Float[np.ndarray, "n f"]:
    """Points that are uniform on the faces, by area, from uniform numbers."""
    try:
        corners = np.asarray(mesh.vertices, np.float64)[np.asarray(mesh.faces)]
    except IndexError as error:
        raise DataError(f"{path} is damaged: a face has a vertex that is not there") from error
    a, b, c = np.moveaxis(corners, 1, 0)
    cross = np.cross(b - a, c - a)
    area = np.linalg.norm(cross, axis=1)
    total = np.cumsum(area)
    if not (np.isfinite(total[-1]) and total[-1] > 0):
        raise DataError(f"{path} has a surface of area {total[-1] / 2}: write it anew")
    face = np.searchsorted(total, u[0] * total[-1], side="right").clip(max=len(area) - 1)
    root = np.sqrt(u[1])[:, None]
    v = u[2][:, None]
    where = (1 - root) * a[face] + root * (1 - v) * b[face] + root * v * c[face]
    if not normals:
        return where
    return np.concatenate([where, cross[face] / area[face][:, None]], axis=1)
