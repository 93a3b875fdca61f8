"""Files of samples: samples.npz, samples.png, and a file of each; what is told of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from score_sde.errors import ConfigError
from score_sde.experiment import filters, samplers
from score_sde.experiment.filters import Filter
from score_sde.experiment.workdirs import Trained
from score_sde.media.medium import Medium
from score_sde.runtime.atomic import replacing

SHOWN = 100  # samples in the picture


def arrays(
    config: ConfigDict,
    workdir: Path,
    trained: Trained,
    chosen: Mapping[str, Filter],
    sampler_of: Callable[..., Callable[..., samplers.Drawn]] = samplers.build_sampler,
) -> dict[str, Any]:
    """Draws samples, and writes DIR/samples.npz, DIR/samples.png and the first `sampling.files` of
    them as files; what there is to tell.

    chosen: filters. sampler_of: as `drawing.batches_of` has it.

    Raises:
      ConvergenceError: a sample is not finite. ConfigError.
    """
    experiment = trained.experiment
    numbers, dropped = filters.allowed(config, experiment, chosen)
    drawn = filters.kept(config, experiment, trained.params, chosen, numbers, 0, sampler_of)
    found = list(drawn)
    for batch in found:
        dropped = total(dropped, batch.dropped)
    about = about_filters(config, chosen, dropped)
    nfe, depth = np.mean([[batch.nfe, batch.depth] for batch in found], axis=0).tolist()
    samples, raw = jax.tree.map(lambda *a: np.concatenate(a), *[(b.shown, b.raw) for b in found])
    asked: dict[str, Any] = experiment.conditioner.told(raw)
    with replacing(workdir / "samples.npz") as file:
        np.savez_compressed(file, samples=samples, **asked)
    experiment.medium.sheet(workdir / "samples.png", samples[:SHOWN])
    save_each(workdir / "samples", experiment.medium, samples[: config.sampling.files])
    numbers_of = {name: counts(values) for name, values in asked.items()}
    told = {name: each for name, each in numbers_of.items() if set(each) != {"-1"}}
    return {"num_samples": len(samples), **told, **about, "nfe": nfe, "depth": depth}


def save_each(folder: Path, medium: Medium, samples: np.ndarray) -> None:
    """Every sample as a file; those of the run before are removed."""
    for old in folder.glob(f"*{medium.suffix}"):
        old.unlink()
    for i, sample in enumerate(samples):
        folder.mkdir(exist_ok=True)
        medium.save(folder / f"{i:07d}{medium.suffix}", sample)


def about_filters(
    config: ConfigDict, chosen: Mapping[str, Filter], dropped: Mapping[str, int]
) -> dict[str, Any]:
    """What is told of filters: how many each dropped, and what it measured.

    Raises:
      ConfigError: nothing is left.
    """
    n = config.sampling.num_samples
    for spec, count in dropped.items():
        print(f"sampling.filters: {spec} dropped {count} of {n}", flush=True)
    if n == sum(dropped.values()):
        raise ConfigError(
            f"sampling.filters drop all of {n} samples ({dict(dropped)}): take others, or draw more"
        )
    told = {spec: {"dropped": dropped[spec], **each.about} for spec, each in chosen.items()}
    return {"filters": told} if told else {}


def total(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    """The sums by name."""
    return {name: a[name] + b[name] for name in a}


def counts(values: np.ndarray) -> dict[str, int]:
    """How often each value comes."""
    numbers = zip(*np.unique(values, return_counts=True), strict=True)
    return {str(value): int(count) for value, count in numbers}
