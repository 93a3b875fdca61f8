"""Nearest neighbours of examples, over all devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from score_sde.data import Arrays
from score_sde.evaluation import diagnostics
from score_sde.experiment.build import Experiment
from score_sde.runtime import hosts
from score_sde.runtime.mesh import round_to_devices


def neighbours_among(
    experiment: Experiment, points: np.ndarray
) -> Callable[[np.ndarray], diagnostics.Nearest]:
    """`x [n, ...] -> Nearest` among the points [m, ...]."""
    nearest = compiled_nearest(experiment)

    def neighbours(x: np.ndarray) -> Any:
        size = round_to_devices(len(x), len(x))
        ((_, mask, batch),) = experiment.batches(Arrays(x=x), size)
        found = hosts.gathered(nearest(batch["x"], points))
        return jax.tree.map(lambda a: a[mask], found)

    return neighbours


def compiled_nearest(experiment: Experiment) -> Callable[..., diagnostics.Nearest]:
    """`(images, points) -> Nearest`: every device holds all points, and finds the neighbours
    of its part of the images."""
    spread = experiment.sharded().spec
    return jax.jit(
        jax.shard_map(
            diagnostics.nearest,
            mesh=experiment.mesh,
            in_specs=(spread, PartitionSpec()),
            out_specs=spread,
            check_vma=False,  # its loops begin with constants, which no device's images vary
        )
    )
