"""The network that a student learns from."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from score_sde.errors import ConfigError
from score_sde.models.model import Model
from score_sde.training.objective import Batch
from score_sde.types import Cond, Denoiser, PyTree


class Teacher(NamedTuple):
    """A trained network with its frozen parameters, a pytree of those.

    of_cond: `jax.tree_util.Partial`, `cond -> Denoiser`, guided if that was asked for.
    params: the parameters of the network, from which a student may start.
    """

    of_cond: Any
    params: PyTree

    def __call__(self, cond: Cond) -> Denoiser:
        return self.of_cond(cond)


def required(teacher: Teacher | None) -> Teacher:
    """The teacher, for losses that cannot do without.

    Raises:
      ConfigError: there is none.
    """
    if teacher is None:
        raise ConfigError(
            "this objective learns from a trained network: set objective.teacher to its workdir"
        )
    return teacher


def start_from(teacher: Teacher, model: Model) -> Any:
    """`(key, batch) -> params`, those of the teacher. Layers that the teacher lacks, such as the
    embedding of a jump, are at their start.

    Raises:
      ConfigError: when it is called, the teacher has a layer that the student lacks, or one of
        another shape.
    """

    def init(given, key, batch: Batch):
        own = flatten_dict(model.init(key, batch["x"], batch["cond"]))
        theirs = flatten_dict(given)
        for path, leaf in theirs.items():
            found = own.get(path)
            if found is None or found.shape != leaf.shape:
                what = "is missing" if found is None else f"has the shape {found.shape}"
                raise ConfigError(
                    f"the student cannot start from its teacher: {'/'.join(path)} of shape "
                    f"{leaf.shape} {what} in net={type(model.net).__name__}: give the student the "
                    "net of its teacher"
                )
        return unflatten_dict({**own, **theirs})

    return jax.tree_util.Partial(init, teacher.params)
