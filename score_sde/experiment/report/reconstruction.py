"""How near images come back from an autoencoder."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.errors import ConfigError
from score_sde.evaluation import solver_error
from score_sde.evaluation.metrics import summary
from score_sde.evaluation.metrics.frechet import frechet
from score_sde.experiment.build import Experiment
from score_sde.experiment.report import reference
from score_sde.experiment.report.subject import Subject
from score_sde.runtime import hosts
from score_sde.runtime.mesh import round_to_devices
from score_sde.runtime.progress import progress
from score_sde.types import as_pytree

ROUNDING = 1 / 12  # the mean square error of rounding to whole numbers: no image has less


def reconstruction(subject: Subject) -> dict[str, Any]:
    """The peak signal-to-noise ratio of test images after the autoencoder, in dB,

        10 log10(255^2 / mean square error)

    of images 0..255, its mean over images; and the Frechet distance of the reconstructed images to
    the images, by `evaluate.features`. The autoencoder is that of the workdir, or that of a latent
    model's codec. What is decoded is the mean of the posterior.

    Raises:
      ConfigError: every image comes back exactly, for there is no autoencoder, or the data set has
        latents and no images; the examples are no images.
    """
    config, experiment = subject.config, subject.experiment
    features = reference.extractor(config, experiment)
    truth = reference.of_data(config, experiment, features, "test", subject.workdir)
    source, found, squares = experiment.data.test, reference.empty(config, experiment, features), []
    size = round_to_devices(config.likelihood.batch_size, len(source))
    frozen = (as_pytree(experiment.objective.result), experiment.codec, experiment.conditioner)
    rebuilt = _compiled(experiment)
    with progress(len(source), "image", "reconstruction") as bar:
        for numbers, mask, batch in experiment.batches(source, size):
            shown, square = rebuilt(*frozen, subject.params, batch)
            found = summary.update(found, features(shown), numbers, mask)
            squares.append(np.asarray(hosts.gathered(square))[mask])
            bar.update(int(mask.sum()))
    square = np.concatenate(squares)
    if not square.any():
        raise ConfigError(
            "evaluate.parts: reconstruction finds no difference. It is for an autoencoder, and for "
            "a latent model on images: if its data are encoded, set --config.data='digits()' or "
            "what they are"
        )
    psnr = solver_error.mean((10 * np.log10(255**2 / np.maximum(square, ROUNDING))).tolist())
    return {
        "num_images": len(square),
        "psnr": psnr.value,
        "standard_error": psnr.standard_error,
        "features": config.evaluate.features,
        "frechet": frechet(jax.device_get(found), jax.device_get(truth)),
    }


def _compiled(experiment: Experiment) -> Any:
    """`(result, codec, conditioner, params, batch) -> (images that come back, mean squares of
    their errors)`."""
    own, t = experiment.objective.gives == "reconstruction", experiment.model.sde.t_min

    @jax.jit
    def rebuilt(result, codec, conditioner, params, batch):
        raw = batch[codec.part]
        x, seen = codec.middle(raw), codec.show_raw(raw)
        if seen.dtype != jnp.uint8:
            raise ConfigError("evaluate.parts: reconstruction is of images, 8 bits a number")
        if own:
            x = result(params, conditioner.encode(batch))(x, jnp.full(len(x), t, x.dtype))
        shown = codec.show(codec.decode(x))
        error = shown.astype(jnp.float32) - seen.astype(jnp.float32)
        return shown, jnp.mean(error.reshape(len(error), -1) ** 2, axis=1)

    return rebuilt
