"""How far a trained flow map is from the identities of an exact one."""

from __future__ import annotations

import functools
from typing import Any

from score_sde.errors import ConfigError
from score_sde.evaluation import flow_identities
from score_sde.experiment.report.field import FIELD_IMAGES, FIELD_LOG_SNR, compiled_measure, frozen
from score_sde.experiment.report.subject import Subject, first
from score_sde.runtime.progress import progress

MEASURES = {
    "eulerian_residual": flow_identities.eulerian,
    "lagrangian_residual": flow_identities.lagrangian,
    "semigroup_residual": flow_identities.semigroup,
    "eulerian_residual_to_t_min": functools.partial(
        flow_identities.eulerian, end=flow_identities.to_t_min
    ),
}
"""By name. The flow ends half-way in tau, or at t_min."""


def flow_map(subject: Subject) -> dict[str, Any]:
    """The residuals of the three identities by noise level, on test images.

    Raises:
      ConfigError: the network gives no flow map.
    """
    config, experiment = subject.config, subject.experiment
    if not experiment.objective.answers("flow_map") or not experiment.objective.denoises:
        raise ConfigError(
            "evaluate.parts: flow_map compares a flow with its own velocity, and a network of "
            f"objective.name={config.objective.name!r} does not give both: train a flow map, such "
            "as objective.name='mean_flow'"
        )
    measured = compiled_measure(config, experiment)
    batch, found = first(experiment, experiment.data.test, FIELD_IMAGES), {}
    with progress(len(MEASURES), "measure", "flow map") as bar:
        for name, measure in MEASURES.items():
            levels = measured(measure, frozen(experiment), subject.params, *batch)
            found[name] = {
                "log_snr": list(FIELD_LOG_SNR),
                "value": levels.value.tolist(),
                "standard_error": levels.standard_error.tolist(),
            }
            bar.update()
    return found
