"""What samples are worth as training data, where it is known."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from score_sde.errors import ConfigError, DataError
from score_sde.evaluation.metrics.usefulness import accuracy
from score_sde.evaluation.report_page import headline, markdown
from score_sde.experiment import build, coding
from score_sde.experiment.report import usefulness as part
from score_sde.experiment.report.subject import Subject, examples
from tests.modes.test_train import small


def drawn(n, shift, seed):
    """Two Gaussians of unit variance at -1 and 1, all moved by `shift`; the other axis is noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    x = rng.normal(size=(n, 2))
    x[:, 0] += 2.0 * labels - 1 + shift
    return x, labels


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_accuracy_is_that_of_the_best_border(shift):
    """It learns the border between the two at `shift`, and so is right on (Phi(1 + shift) + Phi(1 -
    shift)) / 2 of the real ones. Border and share have an error of .02."""
    x, labels = drawn(4000, shift, 0)
    real, real_labels = drawn(40_000, 0.0, 1)
    truth = (norm.cdf(1 + shift) + norm.cdf(1 - shift)) / 2
    assert abs(accuracy(x, labels, real, real_labels, 0) - truth) < 0.02
    wrong = accuracy(x, 1 - labels, real, real_labels, 0)
    assert abs(wrong - (1 - truth)) < 0.02


def subject(**changes):
    config = small(**changes)
    return Subject(config, Path("none"), build.build_experiment(config), {}, 0)


def test_samples_that_are_the_training_images_are_worth_as_much(monkeypatch):
    """And noise with the same labels is worth nothing: a tenth is right by chance."""
    of = subject(**{"evaluate.seeds": 2})
    codec, train = of.experiment.codec, examples(of.experiment.data.train)
    shown, asked = coding.shown_raw(codec, train[codec.part]), []

    def copied(config, experiment, params, n):
        asked.append((config.seed, config.sampling.labels, n))
        return shown, {}, {}, 0.0

    monkeypatch.setattr(part.drawing, "draw", copied)
    found = part.usefulness(of)
    assert found["synthetic"] == found["real"]
    assert found["real"]["value"] > 0.9
    labels = tuple(train["label"].tolist())
    assert asked == [(of.config.seed + i, labels, len(labels)) for i in (0, 1)]
    result = {"step": 0, "usefulness": found, "seconds": 0.0}
    assert headline(result)["accuracy, both"] == found["both"]["value"]
    assert "| both" in markdown("run", result)

    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, shown.shape).astype(np.uint8)
    monkeypatch.setattr(part.drawing, "draw", lambda *_: (noise, {}, {}, 0.0))
    worthless = part.usefulness(of)
    assert worthless["real"] == found["real"]
    assert worthless["synthetic"]["value"] < 0.3


def test_mistakes_are_told():
    with pytest.raises(ConfigError, match=r"evaluate\.seeds must be at least 2, not 1"):
        part.usefulness(subject(**{"evaluate.seeds": 1}))
    without = {"name": "absent", "image_size": 8, "channels": 1, "augment": "none"}
    with pytest.raises(DataError, match="names no data set"):
        part.usefulness(subject(data=without))
