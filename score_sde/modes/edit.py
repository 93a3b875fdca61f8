"""Mode edit: images completed, varied, mixed or restored."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from score_sde.experiment import edits, workdirs
from score_sde.experiment.workdirs import restore


def edit(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Does `edit.task` on `edit.num_images` images, sampled as `config.sampling` says. Writes

    DIR/edit.png: a row for each of the first 16 images: the image, what the edit saw, the results.
    DIR/edit/NUMBER_NAME_LABEL.png: every result. Those of the run before are removed.
    DIR/edit.npz: `source`, what the edit saw (`observed`, `noisy`, ...) and `results` as they are
        shown; `x`, the results in the network's space.
    DIR/edit.json: errors of what was known; `spread`, the root of the mean variance of a pixel
        among the results of an image; both in the units of x. Network evaluations, seconds.

    Raises:
      CheckpointError, ConfigError, DataError. ConvergenceError: a result is not finite.
    """
    begin = time.perf_counter()
    edits.check(config)
    experiment, params, step = restore(config, workdir)
    done = edits.edited(config, experiment, params)
    x, errors = done.x, done.errors
    spread = np.sqrt(np.mean(np.var(x, axis=1), axis=tuple(range(1, x.ndim - 1))))
    result = {
        "step": step,
        "task": config.edit.task,
        "num_images": len(done.names),
        "results_of_each": len(done.labels),
        **{name: float(np.max(error)) for name, error in errors.items()},
        "spread": float(np.mean(spread)),
        "nfe": done.nfe,
        "seconds": time.perf_counter() - begin,
    }
    each = {"names": done.names, "spreads": spread.tolist()}
    each |= {f"{name}s": error.tolist() for name, error in errors.items()}
    edits.write(workdir, experiment.medium, done)
    workdirs.store(workdir / "edit.json", result | each)
    return result
