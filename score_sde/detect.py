"""Mode detect: which images bear the watermark of a key."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from score_sde import experiment as door
from score_sde import figures
from score_sde.config import ConfigError, at
from score_sde.data import Pixels, gather, read_images
from score_sde.evaluate import ConvergenceError, restore
from score_sde.experiment import Experiment
from score_sde.likelihood import encode
from score_sde.progress import progress
from score_sde.types import PyTree
from score_sde.watermark import p_values

SHARE_BELOW = 1e-3  # the level of which the result tells how many images are below


def detect(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """The p-value of every image of `watermark.images`, and of `watermark.num_control` test images,
    with the key: DIR/detect.json, and DIR/detect.png, their histogram.

    Images are encoded from `sampling.t_min` on, as their sampling ended there. The network is told
    no condition. A p-value is the probability that a key chosen at random fits an image as well.

    Raises:
      CheckpointError, ConfigError, DataError. ConvergenceError: the ODE of an image failed.
    """
    begin = time.perf_counter()
    options = config.watermark
    for name in ("rtol", "atol"):
        if not options[name] > 0:
            raise ConfigError(f"watermark.{name} must be positive, not {options[name]}")
    experiment, params, step = restore(config, workdir)
    door.build_watermark(config, experiment)  # a wrong ring is told before images are read
    path = options.images or str(workdir / "samples.npz")
    images, names = read_images(path, experiment.data.image_shape, options.resize)
    groups = {"images": images}
    if options.num_control:
        source = experiment.data.test
        count = min(len(source), options.num_control)
        levels = gather(source, np.arange(count))["image"]
        groups["control"] = np.asarray(experiment.pixels.to_uint8(levels))
    found = _of_groups(config, experiment, params, groups)
    figures.p_histogram(
        workdir / "detect.png",
        {f"{Path(path).name} ({len(images)})": found["images"]}
        | (
            {f"test images ({len(groups['control'])})": found["control"]}
            if options.num_control
            else {}
        ),
        SHARE_BELOW,
    )
    shares = {
        f"{name}_below_{SHARE_BELOW:g}": float(np.mean(p < SHARE_BELOW))
        for name, p in found.items()
    }
    result = {
        "step": step,
        "source": path,
        "num_images": len(images),
        "median_p": float(np.median(found["images"])),
        **shares,
        "seconds": time.perf_counter() - begin,
    }
    each = {"p_values": dict(zip(names, found["images"].tolist(), strict=True))}
    if options.num_control:
        each["control_p_values"] = found["control"].tolist()
    door.store(workdir / "detect.json", result | each)
    return result


def to_x(config: ConfigDict, pixels: Pixels, images: UInt8[np.ndarray, "b ..."]) -> Array:
    """Images 0..255 as the network's x: the inverse of what mode sample writes, at the middle of
    what is rounded to the same number."""
    if config.sampling.truncate:
        return Pixels(256, pixels.centered).middle(images)
    levels = pixels.from_uint8(images)
    return pixels.middle(levels) if config.data.dequantize else pixels.encode(levels)


def _of_groups(
    config: ConfigDict,
    experiment: Experiment,
    params: PyTree,
    groups: dict[str, UInt8[np.ndarray, "n ..."]],
) -> dict[str, Float[np.ndarray, " n"]]:
    options, sde = config.watermark, door.sampling_sde(config)
    watermark = door.build_watermark(config, experiment)
    every = np.concatenate(list(groups.values()))
    size = door.round_to_devices(options.batch_size, len(every))
    denoiser = door.build_denoiser(config, experiment)

    @jax.jit
    def coefficients(params, x):
        cond = {"label": jax.numpy.full(size, -1)}
        latent = encode(sde, denoiser(params, cond), x, rtol=options.rtol, atol=options.atol)
        return latent

    found = []
    with progress(len(every), "image", "encoding") as bar, at("watermark"):
        for first in range(0, len(every), size):
            index = np.minimum(np.arange(first, first + size), len(every) - 1)
            x = to_x(config, experiment.pixels, every[index])
            latents = coefficients(params, jax.device_put(x, experiment.sharded()))
            here = min(size, len(every) - first)
            if failed := int(np.sum(~np.isfinite(np.asarray(latents[:here]).sum(axis=(1, 2, 3))))):
                raise ConvergenceError(
                    f"the ODE of {failed} images did not converge: raise watermark.rtol and atol"
                )
            found.append(p_values(watermark, latents)[:here])
            bar.update(here)
    ends = np.cumsum([len(images) for images in groups.values()])[:-1]
    return dict(zip(groups, np.split(np.concatenate(found), ends), strict=True))
