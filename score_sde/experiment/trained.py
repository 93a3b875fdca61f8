"""A trained network with the experiment that it belongs to, and what is asked of its parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from score_sde.config import at
from score_sde.errors import CheckpointError
from score_sde.experiment.build import Experiment
from score_sde.models.adapters import Adapter
from score_sde.nets import text_reading
from score_sde.training.objective import adapted
from score_sde.types import PyTree


class Trained(NamedTuple):
    """A trained network: its experiment, its averaged parameters and their training step. Guides
    and the bases of adapters are such networks too."""

    experiment: Experiment
    params: PyTree
    step: int

    @property
    def digest(self) -> str:
        """That of the parameters."""
        return digest(self.params)

    @property
    def whole(self) -> PyTree:
        """The parameters of the network: those of an adapter are a small tree."""
        merge = self.experiment.merge
        return self.params if merge is None else merge(self.params)


def over(
    base: Trained, adapter: Adapter, experiment: Experiment, encoders: Sequence[PyTree] = ()
) -> Experiment:
    """The experiment with an adapter over the network `base`.

    encoders: the parameters of the text encoders that the experiment's network holds, if any.
    """

    def init(params, key, batch):
        def fresh():
            new = jax.random.fold_in(key, 1)
            return experiment.model.init(new, batch["x"], batch["cond"])

        with at("adapter"):
            return adapter.init(key, params, fresh)

    params = text_reading.joined(base.whole, encoders) if encoders else base.whole
    return experiment._replace(
        objective=adapted(experiment.objective, adapter, params),
        init=jax.tree_util.Partial(init, params),
        base_digest=base.digest,
        merge=jax.tree_util.Partial(adapter.merge, params),
    )


def digest(params: PyTree) -> str:
    """SHA-256 of parameters: their names, shapes, dtypes and numbers."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        about = f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}"
        found.update(about.encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def check_finite(source: Any, weights: PyTree) -> None:
    """Raises a CheckpointError of weights of a source, a file or folder, that are not finite."""
    for path, array in jax.tree_util.tree_leaves_with_path(weights):
        if not np.isfinite(array).all():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise CheckpointError(
                f"{source} has weights that are not finite, the first in {name}: take another file"
            )
