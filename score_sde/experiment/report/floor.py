"""The least loss that a denoiser of the training images can have, and the network's above it."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from score_sde.errors import ConfigError
from score_sde.evaluation import figures
from score_sde.evaluation.loss_floor import loss_floor, whole_floor
from score_sde.experiment.report import field
from score_sde.experiment.report.subject import Subject, first
from score_sde.experiment.requests import reads_conditions
from score_sde.runtime import metrics_log
from score_sde.runtime.progress import progress
from score_sde.training.objective import WeightedError

DRAWS = 16  # of t and noise for each image, for the whole loss


def floor(subject: Subject) -> dict[str, Any]:
    """By noise level, the floor of the noise error of some training images, and how far above it
    that of the network is (`evaluation.loss_floor`). Of a loss that is an error with a weight, the
    same of the whole, and DIR/loss_above_floor.png: the logged losses, less the floor.

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
    arguments = field.frozen(experiment), subject.params, *batch, *truth
    weighted, whole = experiment.objective.weighted, {}
    with progress(1 + (weighted is not None), "measure", "floor") as bar:
        log_snr, *values = (a.tolist() for a in measured(loss_floor, *arguments))
        bar.update()
        if weighted is not None:
            whole = {"whole": _named(*map(float, measured(_of(weighted), *arguments)))}
            bar.update()
    if whole:
        _curve(subject, whole["whole"]["floor"])
    names = "floor_of_training_images", "training_images_above_the_floor"
    return {
        name: {"log_snr": log_snr, "value": value, "standard_error": error}
        for name, value, error in zip(names, values[::2], values[1::2], strict=True)
    } | whole


def _of(weighted: WeightedError) -> Any:
    """`whole_floor` as a measure of `field.compiled_measure`. It draws times of its own."""

    def measure(key, sde, denoiser, truth, x, times, *, mask):
        arguments = key, sde, denoiser, truth, x, weighted
        return jnp.stack(whole_floor(*arguments, draws=DRAWS, mask=mask))

    return measure


def _named(floor: float, floor_error: float, above: float, above_error: float) -> dict[str, float]:
    return {
        "floor": floor,
        "floor_standard_error": floor_error,
        "above": above,
        "above_standard_error": above_error,
    }


def _curve(subject: Subject, floor: float) -> None:
    """The logged losses less their floor, unless training saw other images than those of the floor,
    which augmentation makes."""
    rows = [row for row in metrics_log.read(subject.workdir) if "loss" in row]
    if rows and subject.config.data.get("augment") in (None, "none"):
        figures.loss_curve(subject.workdir / "loss_above_floor.png", rows, floor)
