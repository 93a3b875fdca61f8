"""Mode sample: samples of a trained model."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from score_sde.data.files import open_image
from score_sde.experiment import data_set, filters, sample_files, workdirs
from score_sde.experiment.data_set import FIELDS
from score_sde.experiment.filters import Filter
from score_sde.experiment.sample_files import SHOWN
from score_sde.experiment.workdirs import Trained, restore
from score_sde.runtime.resumable import Partial


def sample(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Draws `sampling.num_samples` samples: DIR/samples.npz (`samples` [n, ...], images as uint8
    0..255, and what was asked for: `labels` [n], -1 where no class was, or `prompts` [n], as the
    tokenizer spells them), DIR/samples.png (the first 100) and DIR/sample.json (which tells how
    many there are of each label or prompt).

    With `sampling.files` = n above 0 the first n samples are files of their medium too, such as WAV
    files of sounds: DIR/samples/NUMBER.wav. Those of the run before are removed.

    Samples that `sampling.filters` drop are counted, and nothing is drawn in their place.

    With `sampling.as_data` it writes a data set there in the place of samples.npz, batch by batch:
    NUMBER.png of each sample, metadata.jsonl, with the `label` or `text` that was asked for, and
    card.json, which tells what made it. A run that was killed goes on.

    Raises:
      CheckpointError, ConfigError, DataError. ConvergenceError: a sample is not finite; nothing is
        written but the batches of a data set before it.
    """
    trained = restore(config, workdir)
    begin = time.perf_counter()
    chosen = filters.build_filters(config, trained.experiment)
    write = sample_files.arrays if config.sampling.as_data is None else _data_set
    about = write(config, workdir, trained, chosen)
    result = {
        "step": trained.step,
        **{name: about[name] for name in ("num_samples", *FIELDS, "filters") if name in about},
        **{name: value for name in ("guidance", "negative") if (value := config.sampling[name])},
        "solver": config.sampling.solver,
        "steps": config.sampling.steps,
        **{name: about[name] for name in ("nfe", "depth", "data", "loader") if name in about},
        "seconds": time.perf_counter() - begin,
    }
    return workdirs.store(workdir / "sample.json", result)


def _data_set(
    config: ConfigDict, workdir: Path, trained: Trained, chosen: Mapping[str, Filter]
) -> dict[str, Any]:
    """The folder `sampling.as_data`, and DIR/samples.png."""
    experiment, path = trained.experiment, Path(config.sampling.as_data).expanduser()
    shape = data_set.check(config, experiment)
    folder = data_set.Folder(path, data_set.made_by(config, trained, chosen))
    place = Partial(workdir, "as_data", {**folder.made_by, "path": str(path.absolute())})
    if folder.finished:
        place.remove()  # of a run that was killed after its last step
        print(f"{path} holds these samples already")
        return {**folder.card(), "data": str(path)}
    if folder.is_new:
        place.remove()
    numbers, dropped = filters.allowed(config, experiment, chosen)
    state = {"done": 0, "lines": [], "work": [], "dropped": dropped}
    if stored := place.load():
        state = json.loads(str(stored["state"]))
    drawn = filters.kept(config, experiment, trained.params, chosen, numbers, state["done"])
    for batch in drawn:
        lines = folder.put(experiment.medium, batch.numbers.tolist(), batch.shown, batch.asked)
        state = {
            "done": state["done"] + batch.drawn,
            "lines": state["lines"] + lines,
            "work": [*state["work"], [batch.nfe, batch.depth]],
            "dropped": sample_files.total(state["dropped"], batch.dropped),
        }
        if place.due:
            place.save(state=np.array(json.dumps(state)))
    lines, about = state["lines"], sample_files.about_filters(config, chosen, state["dropped"])
    nfe, depth = np.mean(state["work"], axis=0).tolist()
    counts = {
        name: sample_files.counts(np.array([line[field] for line in lines]))
        for name, field in FIELDS.items()
        if field in lines[0]
    }
    loader = data_set.loader(path, experiment, lines[0], shape)
    told = {"num_samples": len(lines), **counts, **about, "nfe": nfe, "depth": depth}
    card = folder.finish(lines, {**told, "loader": loader})
    place.remove()
    first = [np.asarray(open_image(path / line["file_name"])) for line in lines[:SHOWN]]
    experiment.medium.sheet(workdir / "samples.png", np.stack(first).reshape(len(first), *shape))
    return {**card, "data": str(path)}
