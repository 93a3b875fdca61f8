"""Mode reference: the summary of a data set, which evaluate compares with; needs no model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from score_sde.experiment import workdirs
from score_sde.experiment.report import reference as summaries
from score_sde.experiment.workdirs import load


def reference(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Summarises `evaluate.split` of the data set: `evaluate.reference`, else
    DIR/reference_SPLIT.npz, and DIR/reference.json. No model is needed."""
    begin = time.perf_counter()
    workdir.mkdir(parents=True, exist_ok=True)
    experiment = load(config)
    split = config.evaluate.split
    features = summaries.extractor(config, experiment)
    found = summaries.of_data(config, experiment, features, split, workdir)
    result = {
        "file": str(summaries.path_of(config, split, workdir)),
        "num_images": int(found.moments.count),
        "features": found.moments.mean.shape[0],
        "seconds": time.perf_counter() - begin,
    }
    return workdirs.store(workdir / "reference.json", result)
