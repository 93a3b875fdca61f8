"""How far the network is from the ideal score, and from any score."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from score_sde.codecs.codec import Codec
from score_sde.evaluation import diagnostics
from score_sde.experiment.build import Experiment, key_for
from score_sde.experiment.report.subject import Subject, examples, first
from score_sde.processes import exact
from score_sde.runtime import mesh
from score_sde.runtime.progress import progress
from score_sde.types import as_pytree

FIELD_LOG_SNR = (-8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0)
FIELD_IMAGES = 128
MAX_IDEAL = 10_000_000  # numbers that the ideal denoiser of a data set may hold


def field(subject: Subject) -> dict[str, Any]:
    """By noise level, the distance of the score from the ideal one, the asymmetry of its Jacobian,
    and the residual of the Fokker-Planck equation."""
    config, experiment = subject.config, subject.experiment
    experiment.check_denoises()
    experiment.check_reals()
    measured = compiled_measure(config, experiment)
    train, test = (
        first(experiment, source, FIELD_IMAGES)
        for source in (experiment.data.train, experiment.data.test)
    )
    known = few_images(experiment)

    def by_level(measure: Callable, batch: tuple, *truth: Any) -> dict[str, list]:
        found = measured(measure, frozen(experiment), subject.params, *batch, *truth)
        levels = {
            "log_snr": list(FIELD_LOG_SNR),
            "value": found.value.tolist(),
            "standard_error": found.standard_error.tolist(),
        }
        bar.update()
        return levels

    found = {}
    with progress(4 if known else 2, "measure", "field") as bar:
        for name, batch in (("training", train), ("test", test)) if known else ():
            found[f"score_error_of_{name}_images"] = by_level(
                diagnostics.score_error, batch, *known
            )
        for name in ("jacobian_asymmetry", "fokker_planck_residual"):
            found[name] = by_level(functools.partial(getattr(diagnostics, name), probes=4), test)
    return found


def compiled_measure(config: ConfigDict, experiment: Experiment) -> Callable[..., Any]:
    """`(measure, frozen, params, raw batch, mask, *images) -> what the measure gives`: one of
    `diagnostics`, or `loss_floor`, at FIELD_LOG_SNR. There is a program for each measure; each
    device has its part of the batch.

    frozen: that of the experiment (`frozen`). images: for a measure whose truth is their ideal
        denoiser.
    """
    sde = experiment.model.sde
    key_images, key_field = jax.random.split(key_for(config, "field"))

    @functools.partial(jax.jit, static_argnums=0, out_shardings=mesh.whole(experiment.mesh))
    def measured(measure, frozen, params, raw, mask, *images):
        codec, prepare, result = frozen
        batch = prepare(key_images, raw)
        denoiser = result(params, batch["cond"])
        truth = (_ideal(codec, known).denoiser(sde) for known in images)
        times = sde.t_of_log_snr(jnp.array(FIELD_LOG_SNR, jnp.float32))
        return measure(key_field, sde, denoiser, *truth, batch["x"], times, mask=mask)

    return measured


def frozen(experiment: Experiment) -> tuple[Any, ...]:
    """What a compiled measure reads beside the parameters, a pytree: the codec, `prepare`, and the
    result of the objective."""
    return experiment.codec, experiment.prepare, as_pytree(experiment.objective.result)


def few_images(experiment: Experiment) -> list[np.ndarray]:
    """The training images, if their ideal denoiser is known and not too large; else nothing. That
    of latents, which are drawn from a posterior of each image, is not known."""
    source, codec = experiment.data.train, experiment.codec
    if codec.digests:
        return []
    numbers = len(source) * math.prod(codec.shape)
    if numbers * ((codec.feature.values or 1) if codec.noise_width else 1) > MAX_IDEAL:
        return []
    return [examples(source)[codec.part]]


def _ideal(codec: Codec, raw: Array) -> Any:
    """The distribution of raw parts as the network sees them."""
    if not codec.noise_width:
        return exact.Dataset(codec.middle(raw), std=0.0)
    return exact.dequantized(raw, codec.feature.values, *codec.bounds)  # pyright: ignore[reportArgumentType, reportOptionalIterable]
