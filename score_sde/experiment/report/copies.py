"""How near samples are to training images."""

from __future__ import annotations

from typing import Any

import numpy as np

from score_sde.evaluation import diagnostics
from score_sde.experiment import coding
from score_sde.experiment.drawing import draw
from score_sde.experiment.neighbours import neighbours_among
from score_sde.experiment.report.subject import Subject, examples

COPIES = 500  # samples whose neighbours are looked for


def copies(subject: Subject) -> dict[str, Any]:
    """Distances of COPIES samples, and of test examples, to the nearest training examples, in the
    network's space."""
    config, experiment = subject.config, subject.experiment
    drawn, *_ = draw(config, experiment, subject.params, COPIES)
    codec = experiment.codec
    train, test = (
        coding.shown_raw(codec, examples(source)[codec.part])
        for source in (experiment.data.train, experiment.data.test)
    )
    drawn, train, test = (coding.located(codec, a) for a in (drawn, train, test))
    nearest = neighbours_among(experiment, train)
    ours, held_out = nearest(drawn), nearest(test)
    found = diagnostics.memorisation(ours, held_out)
    return {
        "num_samples": len(drawn),
        "median_distance": float(np.median(ours.distance)),
        "median_distance_test": float(np.median(held_out.distance)),
        **{name: estimate._asdict() for name, estimate in found._asdict().items()},
    }
