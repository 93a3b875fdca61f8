"""Mode sample: images drawn from a trained model."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool
from ml_collections import ConfigDict

from score_sde.config import at
from score_sde.errors import ConvergenceError
from score_sde.evaluation import figures
from score_sde.experiment import build as door
from score_sde.experiment import samplers, workdirs
from score_sde.experiment.build import Experiment
from score_sde.experiment.workdirs import restore
from score_sde.runtime import hosts
from score_sde.runtime.atomic import replacing
from score_sde.runtime.progress import progress
from score_sde.types import PyTree


def check_finite(config: ConfigDict, finite: Bool[np.ndarray, " n"]) -> None:
    """Raises a ConvergenceError unless all samples of a batch are finite."""
    if failed := int(np.sum(~finite)):
        sampling = config.sampling
        raise ConvergenceError(
            f"{failed} of {len(finite)} samples are not finite (sampling.solver={sampling.solver}, "
            f"sampling.steps={sampling.steps}): take more steps or another solver; if that changes "
            "nothing, the weights or the sde are not finite"
        )


def sample(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Draws `sampling.num_samples` images: DIR/samples.npz (`samples` uint8 [n, h, w, c], 0..255,
    and `labels` [n], -1 where no class was asked for), DIR/samples.png (the first 100) and
    DIR/sample.json (which tells how many there are of each label).

    Raises:
      CheckpointError, ConfigError, DataError. ConvergenceError: a sample is not finite; nothing is
        written.
    """
    experiment, params, step = restore(config, workdir)
    images, labels, work, seconds = draw(config, experiment, params, config.sampling.num_samples)
    with replacing(workdir / "samples.npz") as file:
        np.savez_compressed(file, samples=images, labels=labels)
    figures.image_grid(workdir / "samples.png", images[:100])
    numbers = zip(*np.unique(labels, return_counts=True), strict=True)
    counts = {str(label): int(count) for label, count in numbers}
    result = {
        "step": step,
        "num_samples": len(images),
        **({} if set(counts) == {"-1"} else {"labels": counts}),
        **({"guidance": config.sampling.guidance} if config.sampling.guidance else {}),
        "solver": config.sampling.solver,
        "steps": config.sampling.steps,
        **work,
        "seconds": seconds,
    }
    return workdirs.store(workdir / "sample.json", result)


def draw(
    config: ConfigDict, experiment: Experiment, params: PyTree, num_samples: int
) -> tuple[np.ndarray, np.ndarray, dict[str, float], float]:
    """num_samples images as uint8 [n, h, w, c], their labels [n], the mean network evaluations a
    sample (`nfe`) and network calls in a row (`depth`), and the seconds it took, compilation
    included.

    Raises:
      ConvergenceError: a sample is not finite. ConfigError.
    """
    begin = time.perf_counter()
    batch_size = door.round_to_devices(config.sampling.batch_size, num_samples)
    sampler = samplers.build_sampler(config, experiment, batch_size)
    root = door.key_for(config, "sample")
    images, labels, work = [], [], []
    with progress(num_samples, "image", "sampling") as bar:
        for i in range(math.ceil(num_samples / batch_size)):
            with at("sampling"):  # what a solver says of its grid, when it is traced
                out = sampler(params, root, i * batch_size)
            left = num_samples - i * batch_size
            check_finite(config, hosts.gathered(out.finite)[:left])
            images.append(hosts.gathered(out.x))
            labels.append(hosts.gathered(out.label))
            work.append([float(jnp.mean(out.nfe)), float(out.depth)])
            bar.update(min(len(images[-1]), num_samples - bar.n))
    nfe, depth = np.mean(work, axis=0).tolist()
    seconds = time.perf_counter() - begin
    images, labels = (np.concatenate(a)[:num_samples] for a in (images, labels))
    return images, labels, {"nfe": nfe, "depth": depth}, seconds
