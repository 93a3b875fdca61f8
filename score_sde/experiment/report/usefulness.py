"""What samples are worth as training data: a classifier learns from them, and is asked about real
examples."""

from __future__ import annotations

from typing import Any

import numpy as np

from score_sde.errors import ConfigError
from score_sde.evaluation import solver_error
from score_sde.evaluation.metrics.usefulness import accuracy
from score_sde.experiment import coding, drawing
from score_sde.experiment.report.subject import Subject, examples


def usefulness(subject: Subject) -> dict[str, Any]:
    """The accuracy on test examples of a classifier that learnt from the training examples
    ("real"), from as many samples ("synthetic"), and from both: the mean over `evaluate.seeds`
    seeds of samples and classifier, and its standard error, which has no part for the choice of the
    test examples. Samples have the labels of the training examples, in turn.

    Raises:
      ConfigError: the data set has one class, or the model is not asked by labels.
      ConvergenceError: a sample is not finite.
    """
    config, experiment = subject.config, subject.experiment
    train, test = (examples(source) for source in (experiment.data.train, experiment.data.test))
    classes = experiment.data.features["label"].values if "label" in train else 1
    if experiment.conditioner.field != "labels" or (classes or 1) < 2:
        raise ConfigError(
            "evaluate.parts: usefulness is of samples of classes, and the data set "
            f"{experiment.data.name} with the conditioner {config.conditioner} has none"
        )
    if config.evaluate.seeds < 2:
        raise ConfigError(f"evaluate.seeds must be at least 2, not {config.evaluate.seeds}")
    real, real_test = (
        _pixels(coding.shown_raw(experiment.codec, part[experiment.codec.part]))
        for part in (train, test)
    )
    labels, test_labels = (np.asarray(part["label"], int) for part in (train, test))
    found: dict[str, list[float]] = {"real": [], "synthetic": [], "both": []}
    for seed in range(config.evaluate.seeds):
        asked = config.copy_and_resolve_references()
        asked.seed = config.seed + seed
        asked.sampling.labels = tuple(labels.tolist())
        drawn, *_ = drawing.draw(asked, experiment, subject.params, len(labels))
        synthetic = _pixels(drawn)
        for name, x, y in (
            ("real", real, labels),
            ("synthetic", synthetic, labels),
            ("both", np.concatenate([real, synthetic]), np.concatenate([labels, labels])),
        ):
            found[name].append(accuracy(x, y, real_test, test_labels, seed))
    rows = {name: solver_error.mean(values)._asdict() for name, values in found.items()}
    return {"num_train": len(labels), "num_test": len(test_labels), "seeds": seed + 1, **rows}


def _pixels(shown: np.ndarray) -> np.ndarray:
    """Each example as numbers from 0 to 1."""
    scale = 255.0 if shown.dtype == np.uint8 else 1.0
    return shown.reshape(len(shown), -1).astype(float) / scale
