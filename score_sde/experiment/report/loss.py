"""The loss of test images, as a whole and by noise level."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.evaluation import solver_error
from score_sde.experiment import teachers
from score_sde.experiment.build import key_for
from score_sde.experiment.report.subject import Subject
from score_sde.runtime import mesh
from score_sde.runtime.mesh import round_to_devices
from score_sde.runtime.progress import progress
from score_sde.types import as_pytree

NOISE_LEVELS = 16  # at which the loss is told
DRAWS = 8  # of noise for each test image


def loss(subject: Subject) -> dict[str, Any]:
    """The loss of every test image with DRAWS draws of noise, and once at each noise level."""
    config = subject.config
    experiment = teachers.load(config, subject.experiment.data)
    objective, sde, source = experiment.objective, experiment.model.sde, experiment.data.test
    ends = sde.log_snr(jnp.array([sde.t_max, sde.t_min]))
    ends = jnp.clip(ends, -20.0, 20.0)  # beyond, nothing or everything is known
    log_snr = jnp.linspace(ends[0], ends[1], NOISE_LEVELS)
    times = jnp.clip(sde.t_of_log_snr(log_snr), sde.t_min, sde.t_max)

    @functools.partial(jax.jit, out_shardings=mesh.whole(experiment.mesh))
    def errors(losses, error_at, prepare, params, key, raw):
        key_draws, key_levels = jax.random.split(key)

        def one(key):
            key_prepare, key_losses = jax.random.split(key)
            batch = prepare(key_prepare, raw)
            return losses(params, key_losses, batch, None).value

        def at_noise_level(inputs):
            key, t = inputs
            key_prepare, key_noise = jax.random.split(key)
            batch = prepare(key_prepare, raw)
            return error_at(params, key_noise, batch, t)

        whole = jax.lax.map(one, jax.random.split(key_draws, DRAWS))
        return jnp.mean(whole, axis=0), jax.lax.map(
            at_noise_level, (jax.random.split(key_levels, NOISE_LEVELS), times)
        )

    functions = map(as_pytree, (objective.losses, objective.error_at, experiment.prepare))
    errors_of = functools.partial(errors, *functions)
    size = round_to_devices(config.train.batch_size, len(source))
    root, whole, by_level = key_for(config, "loss"), [], []
    with progress(len(source), "image", "loss") as bar:
        for i, (_, mask, batch) in enumerate(experiment.batches(source, size)):
            of_batch = errors_of(subject.params, jax.random.fold_in(root, i), batch)
            loss, levels = (np.asarray(a) for a in of_batch)
            whole.append(loss[mask])
            by_level.append(levels[:, mask])
            bar.update(int(mask.sum()))
    loss = solver_error.mean(np.concatenate(whole).tolist())
    levels = [solver_error.mean(row.tolist()) for row in np.concatenate(by_level, axis=1)]
    return {
        "loss": loss.value,
        "standard_error": loss.standard_error,
        experiment.objective.error_name: {
            "log_snr": log_snr.tolist(),
            "value": [level.value for level in levels],
            "standard_error": [level.standard_error for level in levels],
        },
    }
