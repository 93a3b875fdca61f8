"""Mode evaluate: loss, FID and other scores of a model and its samplers, in one report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from score_sde.errors import ConfigError
from score_sde.evaluation import report_page
from score_sde.experiment import workdirs
from score_sde.experiment.report import (
    adherence,
    clip_score,
    copies,
    field,
    floor,
    flow_map,
    loss,
    reconstruction,
    samples,
    usefulness,
)
from score_sde.experiment.report.subject import Subject
from score_sde.experiment.workdirs import restore
from score_sde.modes.likelihood import likelihood
from score_sde.runtime.atomic import write_text


def evaluate(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """The parts of `evaluate.parts`, in DIR/evaluate.json, .md and .png. A run that was
    interrupted goes on where it was.

    loss: the loss of the test images, and by noise level the error of the predicted noise. For a
        classifier, the only part that it has, the share of images taken for another class.
    floor: by noise level, the least error of the predicted noise that a denoiser of the training
        images can have, and how far above it that of the network is; the same of the whole loss,
        and its curve in training, less the floor.
    likelihood: as mode likelihood.
    metrics: `evaluate.num_samples` samples of every sampler, with every number of evaluations,
        against `evaluate.split`. The first row is the other split, to compare with.
    field: by noise level, the distance of the score from that of the training images' own law (if
        this is small enough to compute), on training and on test images; the asymmetry of its
        Jacobian and the Fokker-Planck residual, on test images.
    flow_map: by noise level, how far a flow map is from the three identities of an exact one, as a
        fraction of its velocity, on test images.
    copies: how near samples are to training images.
    adherence: how much of what prompts ask for is in the samples, at each weight of guidance.
    clip_score: how well samples show what their prompts say, by the CLIP in `evaluate.clip`.
    usefulness: the accuracy of a classifier that learnt from samples, from training images, and
        from both.
    reconstruction: of an autoencoder, or of that of a latent model, how near test images come back.

    Raises:
      CheckpointError, ConfigError, DataError. ConvergenceError: as likelihood and sample.
    """
    parts = {
        "loss": loss.loss,
        "likelihood": lambda subject: likelihood(subject.config, subject.workdir),
        "metrics": samples.metrics,
        "floor": floor.floor,
        "field": field.field,
        "flow_map": flow_map.flow_map,
        "copies": copies.copies,
        "adherence": adherence.adherence,
        "clip_score": clip_score.clip_score,
        "reconstruction": reconstruction.reconstruction,
        "usefulness": usefulness.usefulness,
    }
    wrong = [name for name in config.evaluate.parts if name not in parts]
    if wrong or not config.evaluate.parts:
        raise ConfigError(
            f"evaluate.parts={tuple(config.evaluate.parts)}: one or more of {', '.join(parts)}"
        )
    subject = Subject(config, workdir, *restore(config, workdir))
    begin, found, places = time.perf_counter(), {}, []
    for name in config.evaluate.parts:
        place = subject.partial(name, config=workdirs.as_json(config))
        places.append(place)
        found[name] = place.result or place.finish(parts[name](subject))
    result = {"step": subject.step, **found, "seconds": time.perf_counter() - begin}
    workdirs.store(workdir / "evaluate.json", result)
    page = report_page.markdown(f"{workdir.name}, step {subject.step}", result)
    write_text(workdir / "evaluate.md", page)
    report_page.plot(workdir / "evaluate.png", result)
    for place in places:
        place.remove()
    print("\n" + page, end="")
    return report_page.headline(result)
