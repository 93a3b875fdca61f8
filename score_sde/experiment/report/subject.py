"""What a report is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from score_sde.data import Arrays, Source, gather
from score_sde.experiment import workdirs
from score_sde.experiment.build import Experiment
from score_sde.runtime.mesh import round_to_devices
from score_sde.runtime.resumable import Partial
from score_sde.types import PyTree


class Subject(NamedTuple):
    """What is evaluated."""

    config: ConfigDict
    workdir: Path
    experiment: Experiment
    params: PyTree
    step: int

    def partial(self, name: str, **about: Any) -> Partial:
        """The place of a piece of work that depends on `about` and on the model."""
        about = {"step": self.step, **workdirs.identity(self.config), **about}
        return Partial(self.workdir, name, about)


def examples(source: Source) -> dict[str, np.ndarray]:
    """All examples of a source."""
    return gather(source, np.arange(len(source)))


def first(experiment: Experiment, source: Source, most: int) -> tuple[dict, np.ndarray]:
    """A batch of the first examples, over the devices, and which of them are filling (False)."""
    total = min(len(source), most)
    few = Arrays(**gather(source, np.arange(total)))
    ((_, mask, batch),) = experiment.batches(few, round_to_devices(total, total))
    return batch, mask
