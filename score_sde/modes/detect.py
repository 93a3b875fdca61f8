"""Mode detect: which images bear the watermark of a key."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from ml_collections import ConfigDict

from score_sde.conditioning.conditions import check_labels
from score_sde.config import at
from score_sde.data import Pixels, gather, read_arrays, read_images
from score_sde.editing.watermark import p_values
from score_sde.errors import ConfigError, ConvergenceError, DataError
from score_sde.evaluation import figures
from score_sde.experiment import build as door
from score_sde.experiment import samplers, workdirs
from score_sde.experiment.build import Experiment
from score_sde.experiment.workdirs import restore
from score_sde.runtime import hosts
from score_sde.runtime.progress import progress
from score_sde.sampling.likelihood import invert
from score_sde.types import PyTree

BELOW = 1e-3  # the level of which the result tells how many images are below


def detect(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """The p-value of every image of `watermark.images`, and of `watermark.num_control` test images,
    with the key: DIR/detect.json, and DIR/detect.png, their histogram.

    Images are encoded from `sampling.t_min` on, as their sampling ended there, with the labels
    that samples.npz has. A p-value is the probability that a random key fits an image as well.

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
    test = _reader(config, experiment, params)
    path = Path(options.images) if options.images else workdir / "samples.npz"
    images, names = read_images(path, experiment.data.image_shape, options.resize)
    found = {path.name: test(images, _labels(path, len(images), config))}
    if options.num_control:
        source = experiment.data.test
        batch = gather(source, np.arange(min(len(source), options.num_control)))
        control = np.asarray(experiment.pixels.to_uint8(batch["image"]))
        found["test images"] = test(control, batch["label"])
    result = {"step": step, "images": str(path), "num_images": len(images)}
    for name, p in found.items():
        result[f"{name}, median p"] = float(np.median(p))
        result[f"{name}, share of p < {BELOW:g}"] = float(np.mean(p < BELOW))
    result["seconds"] = time.perf_counter() - begin
    each = dict(zip(names, found[path.name].tolist(), strict=True))
    figures.p_histogram(workdir / "detect.png", found, BELOW)
    workdirs.store(workdir / "detect.json", result | {"p_values": each})
    return result


def _labels(path: Path, n: int, config: ConfigDict) -> Int[np.ndarray, " n"]:
    """The labels beside the samples of an .npz, else -1, none. Those that the network looks at must
    be of its classes."""
    labels = read_arrays(path, ["labels"]).get("labels") if path.suffix == ".npz" else None
    if labels is None:
        return np.full(n, -1, np.int32)
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: `labels` should be integers [{n}], not {labels.dtype} {list(labels.shape)}"
        )
    if config.net.get("num_classes", 0):
        with at(f"{path}, labels"):
            check_labels(labels.tolist(), config.net.num_classes)
    return labels.astype(np.int32)


def to_x(config: ConfigDict, pixels: Pixels, images: UInt8[np.ndarray, "b ..."]) -> Array:
    """Images 0..255 as the network's x: the inverse of what mode sample writes, at the middle of
    what is rounded to the same number."""
    if config.sampling.truncate:
        return pixels.untruncate(images)
    levels = pixels.from_uint8(images)
    return pixels.middle(levels) if config.data.dequantize else pixels.encode(levels)


def _reader(
    config: ConfigDict, experiment: Experiment, params: PyTree
) -> Callable[[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, " n"]], Float[np.ndarray, " n"]]:
    """From images 0..255 and labels to p-values."""
    options, sde = config.watermark, samplers.sampling_sde(config)
    watermark = samplers.build_watermark(config, experiment)
    denoiser_of = samplers.build_denoiser(config, experiment)
    ode = {name: options[name] for name in ("rtol", "atol", "method")}
    size = door.round_to_devices(options.batch_size, options.batch_size)

    @jax.jit
    def latents(denoiser_of, params, x, label):
        return invert(sde, denoiser_of(params, {"label": label}), x, **ode)

    def read(images, labels):
        found = []
        with progress(len(images), "image", "encoding") as bar, at("watermark"):
            for first in range(0, len(images), size):
                index = np.minimum(np.arange(first, first + size), len(images) - 1)
                x = to_x(config, experiment.pixels, images[index])
                arrays = experiment.spread((np.asarray(x), labels[index]))
                z = hosts.gathered(latents(denoiser_of, params, *arrays))
                found.append(p_values(watermark, z)[: len(images) - first])
                bar.update(len(found[-1]))
        found = np.concatenate(found)
        if failed := int(np.sum(~np.isfinite(found))):
            raise ConvergenceError(
                f"the ODE of {failed} of {len(found)} images did not converge: raise "
                "watermark.rtol and watermark.atol"
            )
        return found

    return read
