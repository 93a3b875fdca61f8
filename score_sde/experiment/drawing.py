"""Many samples, drawn batch by batch."""

from __future__ import annotations

import math
import time

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from score_sde.config import at
from score_sde.experiment import samplers
from score_sde.experiment.build import Experiment, key_for
from score_sde.runtime import hosts
from score_sde.runtime.mesh import round_to_devices
from score_sde.runtime.progress import progress
from score_sde.types import PyTree


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
