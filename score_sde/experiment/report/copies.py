"""How near samples are to training images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from score_sde.data import Arrays
from score_sde.evaluation import diagnostics
from score_sde.experiment.build import Experiment
from score_sde.experiment.drawing import draw
from score_sde.experiment.report.subject import Subject, examples
from score_sde.runtime import hosts
from score_sde.runtime.mesh import round_to_devices

COPIES = 500  # samples whose neighbours are looked for


def copies(subject: Subject) -> dict[str, Any]:
    """Distances of COPIES samples, and of test examples, to the nearest training examples, in the
    network's space."""
    config, experiment = subject.config, subject.experiment
    drawn, *_ = draw(config, experiment, subject.params, COPIES)
    codec = experiment.codec
    train, test = (
        codec.show_raw(examples(source)[codec.part])
        for source in (experiment.data.train, experiment.data.test)
    )
    drawn, train, test = (np.asarray(codec.locate(a)) for a in (drawn, train, test))
    nearest = compiled_nearest(experiment)

    def neighbours(images):
        size = round_to_devices(len(images), len(images))
        ((_, mask, batch),) = experiment.batches(Arrays(images=images), size)
        found = hosts.gathered(nearest(batch["images"], train))
        return jax.tree.map(lambda a: a[mask], found)

    ours, held_out = neighbours(drawn), neighbours(test)
    found = diagnostics.memorisation(ours, held_out)
    return {
        "num_samples": len(drawn),
        "median_distance": float(np.median(ours.distance)),
        "median_distance_test": float(np.median(held_out.distance)),
        **{name: estimate._asdict() for name, estimate in found._asdict().items()},
    }


def compiled_nearest(experiment: Experiment) -> Callable[..., diagnostics.Nearest]:
    """`(images, points) -> Nearest`: each device looks for the neighbours of its part of the
    images among all points, of which it has a copy."""
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
