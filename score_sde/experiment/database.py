"""The database of a retrieval model: the training examples of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Num
from ml_collections import ConfigDict

from score_sde.conditioning.conditioner import Conditioner
from score_sde.conditioning.neighbours import DATABASE
from score_sde.config import build
from score_sde.data import Data, gather
from score_sde.errors import ConfigError
from score_sde.types import Feature


def images_of(options: Mapping[str, Any], data: Data) -> Num[np.ndarray, "n *shape"]:
    """All images of the database of a conditioner with these options (`conditioning.neighbours`),
    with as many values as those of the data set. They are read into memory.

    Raises:
      ConfigError: one of the data sets has no such part. DataError: the database is not there.
    """
    spec, part = options.get("database"), options.get("part", "image")
    source = data if spec is None else build("data", spec)
    features = {**data.made_of, **data.features}
    for name, there in ((data.name, features), (source.name, source.features)):
        if part not in there:
            raise ConfigError(
                f"conditioner: the data set {name} has no part {part!r} to find neighbours by: "
                "name one that has it, such as neighbours(database='digits')"
            )
    images = gather(source.train, np.arange(len(source.train)))[part]
    return _with_values(images, source.features[part], features[part])


def _with_values(images: np.ndarray, theirs: Feature, ours: Feature) -> np.ndarray:
    """Whole numbers 0..n-1 as numbers 0..m-1, rounded; real numbers stay."""
    if theirs.values == ours.values or theirs.values is None or ours.values is None:
        return images
    scaled = np.round(images.astype(np.float64) * (ours.values - 1) / (theirs.values - 1))
    return scaled.astype(images.dtype)


def check_augmentation(config: ConfigDict, conditioner: Conditioner) -> None:
    """Raises a ConfigError if training changes the images that neighbours are found by: the
    original of a changed image would be its own neighbour."""
    if retrieves(conditioner) and config.data.get("augment") not in (None, "none"):
        raise ConfigError(
            f"data.augment={config.data.augment!r} changes images, so that training would find the "
            "original of each among its neighbours: set data.augment='none'"
        )


def retrieves(conditioner: Conditioner) -> bool:
    """Whether a conditioner finds neighbours of images in a database."""
    return DATABASE in conditioner.digests
