"""The averaged parameters that a workdir holds."""

from __future__ import annotations

from pathlib import Path

import jax
from ml_collections import ConfigDict

from score_sde.config import at
from score_sde.errors import CheckpointError
from score_sde.experiment.build import Experiment, abstract_state
from score_sde.runtime.checkpoint import Checkpoints
from score_sde.training.stored_averages import StoredAverages
from score_sde.types import PyTree


def restore(
    config: ConfigDict, experiment: Experiment, workdir: Path, step: int | None
) -> tuple[PyTree, int]:
    """The average of the config and its step: `sampling.ema` of a checkpoint, or that of
    `sampling.ema_length`; of the newest step for None.

    Raises:
      CheckpointError: there is none, or it does not fit. ConfigError: a wrong length.
    """
    if config.sampling.ema_length is not None:
        params = abstract_state(experiment).params
        return _restore_length(config, experiment, workdir, params, step)
    return _restore_average(config, experiment, workdir, step)


def check_is_trained(workdir: Path) -> None:
    """Raises a CheckpointError of a workdir without checkpoints."""
    if not (workdir / "checkpoints").is_dir():
        raise CheckpointError(
            f"{workdir} has no checkpoint: run --mode train with this --workdir first"
        )


def _restore_average(
    config: ConfigDict, experiment: Experiment, workdir: Path, step: int | None
) -> tuple[PyTree, int]:
    checkpoints = Checkpoints(workdir, config.train.keep)
    restored = checkpoints.restore({"ema": abstract_state(experiment).ema}, step)
    steps = checkpoints.steps()
    checkpoints.close()
    if restored is None and steps:
        raise CheckpointError(f"{workdir} has no checkpoint of step {step}: one of {steps}")
    if restored is None:
        raise CheckpointError(f"{workdir} has no checkpoint yet: run --mode train first")
    return restored.state["ema"][config.sampling.ema], restored.step


def _restore_length(
    config: ConfigDict, experiment: Experiment, workdir: Path, params: PyTree, step: int | None
) -> tuple[PyTree, int]:
    length = config.sampling.ema_length
    with at("sampling.ema_length"):
        made = StoredAverages(workdir).reconstruct(params, length, step)
    print(
        f"the average of length {length:g} at step {made.step}, from {made.count} stored "
        f"average(s): relative error of its profile {made.error:.2g}"
    )
    return jax.device_put(made.params, experiment.layout(made.params)), made.step
