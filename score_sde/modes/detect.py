"""Mode detect: which images bear the watermark of a key."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from score_sde.codecs.decoder import inverted
from score_sde.conditioning.conditioner import Conditioner, unknown
from score_sde.config import at
from score_sde.data import Arrays, gather, read_arrays, read_images
from score_sde.editing.watermark import p_values
from score_sde.errors import ConfigError, ConvergenceError, DataError
from score_sde.evaluation import figures
from score_sde.experiment import coding, requests, samplers, workdirs
from score_sde.experiment.build import Experiment
from score_sde.experiment.workdirs import restore
from score_sde.runtime import hosts
from score_sde.runtime.mesh import round_to_devices
from score_sde.runtime.progress import progress
from score_sde.sampling.likelihood import invert
from score_sde.types import PyTree

BELOW = 1e-3  # the result tells what share of images has a smaller p-value


def detect(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Looks for the key in every image of `watermark.images`, and in `watermark.num_control` test
    images.

    A p-value is the probability that a random key fits an image as well. An image of a decoder is
    first made the latent that the decoder makes it of. Images are then carried to noise from
    `sampling.t_min`, where their sampling ended, under the labels that samples.npz has.
    Writes DIR/detect.json, and DIR/detect.png, a histogram of the p-values.

    Raises:
      CheckpointError, ConfigError, DataError. ConvergenceError: the ODE of an image failed.
    """
    begin = time.perf_counter()
    options = config.watermark
    for name in ("rtol", "atol"):
        if not options[name] > 0:
            raise ConfigError(f"watermark.{name} must be positive, not {options[name]}")
    if options.key is None:
        raise ConfigError("watermark.key is not set: a whole number, the secret of the watermark")
    experiment, params, step = restore(config, workdir)
    experiment.check_reals()
    test = reader(config, experiment, params)
    path = Path(options.images) if options.images else workdir / "samples.npz"
    images, names = read_images(path, experiment.codec.inner.shape, options.resize)
    found = {path.name: test(images, told(path, len(images), experiment.conditioner))}
    if options.num_control:
        source = experiment.data.test
        raw = gather(source, np.arange(min(len(source), options.num_control)))
        control = coding.shown_raw(experiment.codec, raw.pop(experiment.codec.part))
        found["test images"] = test(control, raw)
    result = {"step": step, "images": str(path), "num_images": len(images)}
    for name, p in found.items():
        result[f"{name}, median p"] = float(np.median(p))
        result[f"{name}, share of p < {BELOW:g}"] = float(np.mean(p < BELOW))
    result["seconds"] = time.perf_counter() - begin
    each = dict(zip(names, found[path.name].tolist(), strict=True))
    figures.p_histogram(workdir / "detect.png", found, BELOW)
    workdirs.store(workdir / "detect.json", result | {"p_values": each})
    return result


def told(path: Path, n: int, conditioner: Conditioner) -> dict[str, np.ndarray]:
    """The raw parts that were asked for, of labels or prompts that an .npz has beside its n
    samples; otherwise nothing.

    Raises:
      DataError: they are not n. ConfigError: no example has such a part.
    """
    field = conditioner.field
    asked = read_arrays(path, [field]).get(field) if path.suffix == ".npz" else None
    if asked is None:
        return {name: np.asarray(part) for name, part in unknown(conditioner, n).items()}
    if asked.shape != (n,):
        raise DataError(
            f"{path}: `{field}` should be one for each of {n} samples, not {asked.dtype} "
            f"{list(asked.shape)}"
        )
    with at(str(path)):
        of_numbers = conditioner.request(asked.tolist())
    raw = of_numbers(jax.random.split(jax.random.key(0), n), jnp.arange(n))
    return {name: np.asarray(part) for name, part in raw.items()}


def reader(
    config: ConfigDict, experiment: Experiment, params: PyTree
) -> Callable[[np.ndarray, dict[str, np.ndarray]], Float[np.ndarray, " n"]]:
    """`(images as they are shown, their raw conditions) -> p-values`."""
    options, sde = config.watermark, requests.sampling_sde(config)
    watermark = samplers.build_watermark(config, experiment)
    denoiser_of = samplers.build_denoiser(config, experiment)
    ode = {name: options[name] for name in ("rtol", "atol", "method")}
    size = round_to_devices(options.batch_size, options.batch_size)

    @jax.jit
    def noise(denoiser_of, codec, conditioner, params, batch):
        denoiser = denoiser_of(params, conditioner.encode(batch))
        x = inverted(codec, batch["shown"], options.decoder_steps)
        return invert(sde, denoiser, x, **ode)

    def read(images, raw):
        found = []
        with progress(len(images), "image", "inverting") as bar, at("watermark"):
            for _, mask, batch in experiment.batches(Arrays(shown=images, **raw), size):
                codec, conditioner = experiment.codec, experiment.conditioner
                z = hosts.gathered(noise(denoiser_of, codec, conditioner, params, batch))
                found.append(p_values(watermark, z)[mask])
                bar.update(len(found[-1]))
        found = np.concatenate(found)
        if failed := int(np.sum(~np.isfinite(found))):
            raise ConvergenceError(
                f"the ODE of {failed} of {len(found)} images did not converge: raise "
                "watermark.rtol and watermark.atol"
            )
        return found

    return read
