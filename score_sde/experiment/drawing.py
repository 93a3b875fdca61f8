"""Many samples, drawn batch by batch."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from score_sde.config import at
from score_sde.experiment import samplers
from score_sde.experiment.build import Experiment, key_for
from score_sde.runtime import hosts
from score_sde.runtime.mesh import round_to_devices
from score_sde.runtime.progress import progress
from score_sde.types import PyTree


class Batch(NamedTuple):
    """Samples as they are shown [b, ...], the raw parts that were asked for, the mean network
    evaluations a sample, and the network calls in a row."""

    shown: np.ndarray
    raw: dict[str, np.ndarray]
    nfe: float
    depth: float


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
    found = list(batches(config, experiment, params, num_samples))
    nfe, depth = (float(np.mean([getattr(b, name) for b in found])) for name in ("nfe", "depth"))
    seconds = time.perf_counter() - begin
    drawn = [(batch.shown, batch.raw) for batch in found]
    shown, raw = jax.tree.map(lambda *a: np.concatenate(a), *drawn)
    return shown, raw, {"nfe": nfe, "depth": depth}, seconds


def batches(
    config: ConfigDict, experiment: Experiment, params: PyTree, num_samples: int, done: int = 0
) -> Iterator[Batch]:
    """The samples of `draw` batch by batch, from the number `done` on.

    Raises:
      ConvergenceError: a sample is not finite. ConfigError.
    """
    return batches_of(config, experiment, params, np.arange(num_samples), done)


def batches_of(
    config: ConfigDict,
    experiment: Experiment,
    params: PyTree,
    numbers: Int[np.ndarray, " n"],
    done: int = 0,
    sampler_of: Callable[..., Callable[..., samplers.Drawn]] = samplers.build_sampler,
) -> Iterator[Batch]:
    """The samples of these numbers batch by batch, without the first `done` of them. A sample
    depends on its number, and not on those beside it.

    sampler_of: as `build_sampler`; one that remembers what is compiled, say.

    Raises:
      ConvergenceError: a sample is not finite. ConfigError.
    """
    size = round_to_devices(config.sampling.batch_size, len(numbers))
    sampler = sampler_of(config, experiment, size)
    root = key_for(config, "sample")
    with progress(len(numbers), "sample", "sampling", initial=done) as bar:
        for first in range(done, len(numbers), size):
            chosen = numbers[first : first + size]
            filled = np.pad(chosen, (0, size - len(chosen)), mode="edge").astype(np.int32)
            with at("sampling"):  # what a solver says of its grid, when it is traced
                out = sampler(params, root, filled - np.arange(size, dtype=np.int32))
            wanted = slice(len(chosen))
            samplers.check_finite(config, hosts.gathered(out.finite)[wanted])
            each = hosts.gathered((out.shown, out.raw))
            shown, raw = jax.tree.map(operator.itemgetter(wanted), each)
            bar.update(len(shown))
            yield Batch(shown, raw, float(jnp.mean(out.nfe)), float(out.depth))
