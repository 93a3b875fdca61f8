"""Mode sample: samples of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from score_sde.experiment import workdirs
from score_sde.experiment.drawing import draw
from score_sde.experiment.workdirs import restore
from score_sde.runtime.atomic import replacing


def sample(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Draws `sampling.num_samples` samples: DIR/samples.npz (`samples` [n, ...], images as uint8
    0..255, and `labels` [n], -1 where no class was asked for), DIR/samples.png (the first 100) and
    DIR/sample.json (which tells how many there are of each label).

    Raises:
      CheckpointError, ConfigError, DataError. ConvergenceError: a sample is not finite; nothing is
        written.
    """
    experiment, params, step = restore(config, workdir)
    samples, raw, work, seconds = draw(config, experiment, params, config.sampling.num_samples)
    asked: dict[str, Any] = {f"{name}s": values for name, values in raw.items()}
    with replacing(workdir / "samples.npz") as file:
        np.savez_compressed(file, samples=samples, **asked)
    experiment.medium.sheet(workdir / "samples.png", samples[:100])
    result = {
        "step": step,
        "num_samples": len(samples),
        **{name: counts for name, v in asked.items() if set(counts := _counts(v)) != {"-1"}},
        **({"guidance": config.sampling.guidance} if config.sampling.guidance else {}),
        "solver": config.sampling.solver,
        "steps": config.sampling.steps,
        **work,
        "seconds": seconds,
    }
    return workdirs.store(workdir / "sample.json", result)


def _counts(values: np.ndarray) -> dict[str, int]:
    numbers = zip(*np.unique(values, return_counts=True), strict=True)
    return {str(value): int(count) for value, count in numbers}
