"""Mode import: a workdir made of a published checkpoint (--source)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from score_sde import published
from score_sde.errors import CheckpointError
from score_sde.experiment import workdirs
from score_sde.experiment.workdirs import load
from score_sde.models.model import num_params
from score_sde.runtime.checkpoint import Checkpoints
from score_sde.runtime.signals import only_run
from score_sde.training.state import create
from score_sde.types import PyTree

ONE_PROCESS = True


def import_(config: ConfigDict, workdir: Path, source: Path) -> dict[str, Any]:
    """Makes a workdir of a published checkpoint: a checkpoint of ours, config.json, import.json.

    Parameters, averages and step are those of the source; without an average, the parameters take
    its place. The optimiser begins anew. The config says what the network is. If the source does
    not fit it, nothing is written.

    Raises:
      CheckpointError: the workdir has a checkpoint already, or another run writes there; the source
        is missing, damaged, not finite, of an unknown kind or another network's. ConfigError,
        DataError. OSError: the workdir cannot be written.
    """
    _check_is_new(config, workdir)
    workdirs.check_config(config, workdir)
    experiment = load(config)
    try:
        imported = published.load(source, experiment.model.net, experiment.codec.shape)
    except FileNotFoundError as error:
        raise CheckpointError(f"--source {source} does not exist") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(" ".join(str(error).split())) from error
    _check_is_finite(source, {"params": imported.params, "ema": imported.ema})
    result = {
        "source": str(source),
        "file": imported.file.name,
        "sha256": _sha256(imported.file),
        "kind": imported.kind,
        "step": imported.step,
        "parameters": num_params(imported.params),
        "averaged": imported.ema is not None,
    }

    average = imported.params if imported.ema is None else imported.ema
    count = len(experiment.averages)
    state = jax.jit(lambda params: create(params, experiment.optimizer, count))(imported.params)
    state = state.replace(step=jnp.asarray(imported.step, jnp.int32), ema=(average,) * count)
    workdir.mkdir(parents=True, exist_ok=True)
    with only_run(workdir):
        _check_is_new(config, workdir)  # another run may have begun since
        workdirs.store_config(config, workdir)  # before the checkpoint that it explains
        checkpoints = Checkpoints(workdir, config.train.keep)
        checkpoints.save(imported.step, state, None, workdirs.as_json(config))
        checkpoints.close()
    if imported.scheduler is not None:
        ours = config.sampling
        print(
            f"samples are drawn by sampling.solver={ours.solver}, sampling.grid={ours.grid}, "
            f"sampling.steps={ours.steps}; the folder's own scheduler is {imported.scheduler}, and "
            "docs/coming_from/diffusers.md has the fields for that"
        )
    if imported.step >= config.train.steps:
        print(
            f"train.steps={config.train.steps} is not above the imported step {imported.step}: to "
            "train on, set --config.train.steps"
        )
    return workdirs.store(workdir / "import.json", result)


def _check_is_new(config: ConfigDict, workdir: Path) -> None:
    if not (workdir / "checkpoints").is_dir():
        return
    checkpoints = Checkpoints(workdir, config.train.keep)
    steps = checkpoints.steps()
    checkpoints.close()
    if steps:
        raise CheckpointError(
            f"{workdir} has checkpoints already, the newest of step {steps[-1]}: choose another "
            "--workdir"
        )


def _check_is_finite(source: Path, weights: PyTree) -> None:
    for path, array in jax.tree_util.tree_leaves_with_path(weights):
        if not np.isfinite(array).all():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise CheckpointError(
                f"{source} has weights that are not finite, the first in {name}: take another file"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
