"""Mode reference: the summary of a data set, which evaluate compares with; needs no model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from score_sde.config import build
from score_sde.data import fingerprint
from score_sde.errors import ConfigError
from score_sde.evaluation.metrics import summary
from score_sde.evaluation.metrics.summary import Extractor, Summary
from score_sde.experiment import workdirs
from score_sde.experiment.build import Experiment
from score_sde.experiment.workdirs import load
from score_sde.runtime.mesh import round_to_devices
from score_sde.runtime.progress import progress

MAX_PIXELS = 4096  # numbers of an image whose covariance is affordable


def reference(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Summarises `evaluate.split` of the data set: `evaluate.reference`, else
    DIR/reference_SPLIT.npz, and DIR/reference.json. No model is needed."""
    begin = time.perf_counter()
    workdir.mkdir(parents=True, exist_ok=True)
    experiment = load(config)
    split = config.evaluate.split
    found = of_data(config, experiment, extractor(config, experiment), split, workdir)
    result = {
        "file": str(path_of(config, split, workdir)),
        "num_images": int(found.moments.count),
        "features": found.moments.mean.shape[0],
        "seconds": time.perf_counter() - begin,
    }
    return workdirs.store(workdir / "reference.json", result)


def extractor(config: ConfigDict, experiment: Experiment) -> Extractor:
    """`evaluate.features`."""
    found = build("evaluation.metrics.features", config.evaluate.features)
    dim, _ = summary.features_dim(found, experiment.codec.shape)
    if dim > MAX_PIXELS:
        raise ConfigError(
            f"evaluate.features={config.evaluate.features!r} gives {dim} numbers an image, whose "
            f"covariance is too large (at most {MAX_PIXELS}): take inception(path=FILE)"
        )
    return found


def empty(config: ConfigDict, experiment: Experiment, features: Extractor) -> Summary:
    """The summary of no images."""
    dim, classes = summary.features_dim(features, experiment.codec.shape)
    return summary.empty(dim, classes, capacity=config.evaluate.reservoir)


def path_of(config: ConfigDict, split: str, workdir: Path) -> Path:
    """Where the summary of a split is."""
    given = config.evaluate.reference if split == config.evaluate.split else None
    return Path(given) if given else workdir / f"reference_{split}.npz"


def of_data(
    config: ConfigDict, experiment: Experiment, features: Extractor, split: str, workdir: Path
) -> Summary:
    """The summary of all images of a split: from its file, or else computed and written there.

    Raises:
      ConfigError: there is no such split; or the file is of other images or features.
    """
    if split not in ("train", "test"):
        raise ConfigError(f"evaluate.split is {split!r}: one of train, test")
    source, codec = getattr(experiment.data, split), experiment.codec
    about = {
        "data": experiment.data.name,
        "split": split,
        "images": fingerprint(source, codec.part),
        "features": config.evaluate.features,
        "reservoir": config.evaluate.reservoir,
    }
    path = path_of(config, split, workdir)
    if path.exists():
        try:
            found, stored = summary.load(path)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if stored != about:
            differing = ", ".join(
                f"{key} {stored.get(key)!r}, not {value!r}"
                for key, value in about.items()
                if stored.get(key) != value
            )
            raise ConfigError(
                f"{path} is a summary of something else ({differing}): remove it, or set "
                "evaluate.reference to another file"
            )
        return found
    size = round_to_devices(config.likelihood.batch_size, len(source))
    found = empty(config, experiment, features)
    with progress(len(source), "image", f"{split} images") as bar:
        for numbers, mask, batch in experiment.batches(source, size):
            shown = codec.show_raw(batch[codec.part])
            found = summary.update(found, features(shown), numbers, mask)
            bar.update(int(mask.sum()))
    summary.save(path, found, about)
    return found
