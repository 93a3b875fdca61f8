"""A data set that a mode makes of another, batch by batch, in a folder (`data.encoded`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from score_sde.config import at
from score_sde.data.encoded import SPLITS, Building
from score_sde.experiment.build import Experiment
from score_sde.runtime.mesh import round_to_devices
from score_sde.runtime.progress import progress
from score_sde.runtime.resumable import Partial


def make(
    experiment: Experiment,
    folder: Path,
    about: dict[str, Any],
    dtypes: Mapping[str, Any],
    place: Partial,
    of_batch: Callable[[str, dict[str, Any]], dict[str, Any]],
    *,
    batch_size: int,
    doing: str,
    where: str,
) -> None:
    """Goes on from where a run before this one stopped.

    of_batch: `(split, raw parts of a batch and their "number") -> parts`.
    doing: the word for the progress. where: the field of the config that a ValueError is about.
    """
    stored = place.load()
    building = Building(folder, about, dtypes, goes_on=stored is not None)
    done = dict.fromkeys(SPLITS, 0)
    if stored and building.goes_on:
        done = {split: int(stored[split]) for split in SPLITS}
    total, already = sum(about["number"].values()), sum(done.values())
    with progress(total, "example", doing, initial=already) as bar:
        for split in SPLITS:
            source = getattr(experiment.data, split)
            size = round_to_devices(batch_size, len(source))
            for numbers, mask, batch in experiment.batches(source, size):
                last = int(numbers[mask][-1]) + 1
                if last <= done[split]:
                    continue
                parts = jax.device_get(of_batch(split, batch))
                with at(where):
                    building.put(split, numbers, mask, parts)
                bar.update(last - done[split])
                done[split] = last
                if place.due:
                    building.flush()
                    place.save(**{name: np.array(count) for name, count in done.items()})
    building.finish()
