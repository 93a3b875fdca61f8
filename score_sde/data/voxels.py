"""Solids as voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from score_sde.data.draws import uniform
from score_sde.data.solids import SIZES, check_kinds
from score_sde.data.solids_reading import signed_distance
from score_sde.data.source import Arrays, Data, labelled_reals
from score_sde.errors import DataError

__all__ = ["voxels"]

TRAIN, TEST = range(2)  # each has random numbers of its own


def voxels(
    *,
    side: int = 12,
    kinds: Sequence[str] = ("sphere", "cube", "cylinder", "cone", "torus"),
    train: int = 1000,
    test: int = 100,
    seed: int = 0,
) -> Data:
    """float32 [side, side, side, 1]: 1 inside of a solid of `data.solids` and -1 outside, between
    them linear in the distance to the surface within half a voxel. The axes are x, y, z from -1 to
    1. The solids are not turned. The label is the kind; the kinds alternate.

    side: voxels along an axis. train, test: how many.

    Raises DataError where a number is out of range or there is no such kind.
    """
    if side < 4 or min(train, test) < 1:
        raise DataError(
            f"side must be at least 4, train and test at least 1, got {side}, {train} and {test}"
        )
    check_kinds(kinds)
    middle = (2 * np.arange(side) + 1) / side - 1
    grid = np.stack(np.meshgrid(middle, middle, middle, indexing="ij"), axis=-1)

    def source(split: int, size: int) -> Arrays:
        label = np.arange(size, dtype=np.int32) % len(kinds)
        sizes = SIZES[0] + (SIZES[1] - SIZES[0]) * uniform((seed, split), size)
        solid = np.empty((size, side, side, side, 1), np.float32)
        for i, (k, scale) in enumerate(zip(label.tolist(), sizes, strict=True)):
            away = scale * signed_distance(kinds[k], grid / scale)
            solid[i, ..., 0] = np.clip(-away * side, -1, 1)
        return Arrays(voxels=solid, label=label)

    features = labelled_reals("voxels", (side, side, side, 1), len(kinds))
    return Data("voxels", source(TRAIN, train), source(TEST, test), features)
