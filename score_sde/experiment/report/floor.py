"""The least loss that a denoiser of the training images can have, and the network's above it."""

from __future__ import annotations

from typing import Any

from score_sde.errors import ConfigError
from score_sde.evaluation.loss_floor import loss_floor
from score_sde.experiment.report import field
from score_sde.experiment.report.subject import Subject, first
from score_sde.experiment.requests import reads_conditions
from score_sde.runtime.progress import progress


def floor(subject: Subject) -> dict[str, Any]:
    """By noise level, the floor of the noise error of some training images, and how far above it
    that of the network is (`evaluation.loss_floor`).

    Raises:
      ConfigError: the ideal denoiser of the training images is not known.
    """
    config, experiment = subject.config, subject.experiment
    experiment.check_denoises()
    experiment.check_reals()
    truth = field.few_images(experiment)
    if not truth or reads_conditions(config, experiment.conditioner):
        raise ConfigError(
            "evaluate.parts: floor needs the ideal denoiser of the training images, which is known "
            f"of at most {field.MAX_IDEAL:,} numbers, not of latents, and without conditions: "
            "leave it out"
        )
    measured = field.compiled_measure(config, experiment)
    batch = first(experiment, experiment.data.train, field.FIELD_IMAGES)
    with progress(1, "measure", "floor") as bar:
        found = measured(loss_floor, field.frozen(experiment), subject.params, *batch, *truth)
        log_snr, *values = (a.tolist() for a in found)
        bar.update()
    names = "floor_of_training_images", "training_images_above_the_floor"
    return {
        name: {"log_snr": log_snr, "value": value, "standard_error": error}
        for name, value, error in zip(names, values[::2], values[1::2], strict=True)
    }
