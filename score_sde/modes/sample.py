"""Mode sample: samples of a trained model."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from score_sde.config import at
from score_sde.experiment import samplers, workdirs
from score_sde.experiment.build import Experiment, key_for
from score_sde.experiment.workdirs import restore
from score_sde.runtime import hosts
from score_sde.runtime.atomic import replacing
from score_sde.runtime.mesh import round_to_devices
from score_sde.runtime.progress import progress
from score_sde.types import PyTree


def sample(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Draws `sampling.num_samples` samples: DIR/samples.npz (`samples` [n, ...], images as uint8
    0..255, and `labels` [n], -1 where no class was asked for), DIR/samples.png (the first 100) and
    DIR/sample.json (which tells how many there are of each label).

    Raises:
      CheckpointError, ConfigError, DataError. ConvergenceError: a sample is not finite; nothing is
        written.
    """
    experiment, params, step = restore(config, workdir)
    samples, raw, work, seconds = draw(config, experiment, params, config.sampling.num_samples)
    asked = {f"{name}s": values for name, values in raw.items()}
    with replacing(workdir / "samples.npz") as file:
        np.savez_compressed(file, samples=samples, **asked)
    experiment.medium.sheet(workdir / "samples.png", samples[:100])
    result = {
        "step": step,
        "num_samples": len(samples),
        **{name: counts for name, v in asked.items() if set(counts := _counts(v)) != {"-1"}},
        **({"guidance": config.sampling.guidance} if config.sampling.guidance else {}),
        "solver": config.sampling.solver,
        "steps": config.sampling.steps,
        **work,
        "seconds": seconds,
    }
    return workdirs.store(workdir / "sample.json", result)


def _counts(values: np.ndarray) -> dict[str, int]:
    numbers = zip(*np.unique(values, return_counts=True), strict=True)
    return {str(value): int(count) for value, count in numbers}


def draw(
    config: ConfigDict, experiment: Experiment, params: PyTree, num_samples: int
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, float], float]:
    """num_samples samples as they are shown, the raw parts that were asked for, such as the label
    of each, the mean network evaluations a sample (`nfe`) and network calls in a row (`depth`), and
    the seconds it took, compilation included.

    Raises:
      ConvergenceError: a sample is not finite. ConfigError.
    """
    begin = time.perf_counter()
    batch_size = round_to_devices(config.sampling.batch_size, num_samples)
    sampler = samplers.build_sampler(config, experiment, batch_size)
    root = key_for(config, "sample")
    drawn, work = [], []
    with progress(num_samples, "sample", "sampling") as bar:
        for i in range(math.ceil(num_samples / batch_size)):
            with at("sampling"):  # what a solver says of its grid, when it is traced
                out = sampler(params, root, i * batch_size)
            left = num_samples - i * batch_size
            samplers.check_finite(config, hosts.gathered(out.finite)[:left])
            drawn.append(hosts.gathered((out.shown, out.raw)))
            work.append([float(jnp.mean(out.nfe)), float(out.depth)])
            bar.update(min(batch_size, left))
    nfe, depth = np.mean(work, axis=0).tolist()
    seconds = time.perf_counter() - begin
    shown, raw = jax.tree.map(lambda *a: np.concatenate(a)[:num_samples], *drawn)
    return shown, raw, {"nfe": nfe, "depth": depth}, seconds
