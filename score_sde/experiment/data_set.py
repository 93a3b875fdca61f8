"""Samples as a data set: images with their labels or prompts, and a card of what made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from score_sde.data.folder_captions import METADATA
from score_sde.errors import ConfigError, DataError
from score_sde.experiment import requests, workdirs
from score_sde.experiment.build import Experiment
from score_sde.experiment.filters import Filter
from score_sde.media.medium import Medium
from score_sde.runtime import json_file
from score_sde.runtime.atomic import write_text

CARD = "card.json"
FIELDS = {"labels": "label", "prompts": "text"}  # of metadata.jsonl, by what is asked for


class Folder:
    """A data set while it is made, in the folder DIR.partial beside the one that it becomes.

    made_by: JSON of all that its images depend on. It is the same for a run that goes on.
    finished: whether DIR holds the whole data set of the same `made_by` already.
    is_new: whether nothing of it is there.

    Raises:
      DataError: DIR or DIR.partial holds something else. It stays as it is.
    """

    def __init__(self, path: Path, made_by: dict[str, Any]):
        self.path, self.made_by = path, made_by
        self.partial = path.with_name(f"{path.name}.partial")
        self.finished = _is_of(path, made_by)
        self.is_new = not self.finished and not _is_of(self.partial, made_by)
        if self.is_new:
            self.partial.mkdir(parents=True, exist_ok=True)
            self._write_card({})

    def put(
        self,
        medium: Medium,
        numbers: Sequence[int],
        shown: UInt8[np.ndarray, "b h w c"],
        asked: dict[str, np.ndarray],
    ) -> list[dict[str, Any]]:
        """Writes images under their numbers, and returns their lines of metadata.jsonl."""
        lines = []
        for i, (number, image) in enumerate(zip(numbers, shown, strict=True)):
            name = f"{number:07d}{medium.suffix}"
            medium.save(self.partial / name, image)
            values = {FIELDS[field]: array[i].item() for field, array in asked.items()}
            known = {field: value for field, value in values.items() if not _is_nothing(value)}
            lines.append({"file_name": name, **known})
        return lines

    def finish(self, lines: Sequence[dict[str, Any]], about: dict[str, Any]) -> dict[str, Any]:
        """Writes metadata.jsonl and the card, puts the folder in its place, and returns the card.

        about: what the card tells beside `made_by`.
        """
        for left in self.partial.glob(".*.tmp"):  # by a process that was killed
            left.unlink()
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_text(self.partial / METADATA, text)
        self._write_card(about)
        self.partial.rename(self.path)
        return self.card()

    def card(self) -> dict[str, Any]:
        """That of the finished data set."""
        return json_file.read(self.path / CARD)

    def _write_card(self, about: dict[str, Any]) -> None:
        workdirs.store(self.partial / CARD, {"made_by": self.made_by, **about})


def _is_of(path: Path, made_by: dict[str, Any]) -> bool:
    """Whether a folder holds a data set, or a part of one, by `made_by`; False if it is empty."""
    try:
        if not any(path.iterdir()):
            return False
        found = json_file.read(path / CARD)["made_by"]
    except FileNotFoundError:
        found = None
        if not path.exists():
            return False
    except (OSError, ValueError, KeyError):
        found = None
    if found != made_by:
        raise DataError(
            f"sampling.as_data: {path} holds something else than what this run would write: name "
            "another folder, or remove that one"
        )
    return True


def _is_nothing(value: Any) -> bool:
    """Whether what is asked for says nothing: no class, or an empty text."""
    return value == -1 or (isinstance(value, str) and not value.strip())


def check(config: ConfigDict, experiment: Experiment) -> tuple[int, ...]:
    """The shape of the images.

    Raises:
      ConfigError: several processes write, the samples are no images that loaders read, or only
        some of them are asked for by something.
    """
    if jax.process_count() > 1:
        raise ConfigError("sampling.as_data is written by one process: start a single one")
    codec = experiment.codec
    x = jax.ShapeDtypeStruct((1, *codec.shape), np.float32)
    shown = jax.eval_shape(lambda codec, x: codec.show(codec.decode(x)), codec, x)
    if shown.dtype != np.uint8 or shown.ndim != 4 or shown.shape[-1] not in (1, 3):
        raise ConfigError(
            "sampling.as_data writes grey or RGB images, and the samples of this model are "
            f"{shown.dtype} {list(shown.shape[1:])}: take samples.npz"
        )
    field = experiment.conditioner.field
    nothing = [_is_nothing(value) for value in requests.asked_for(config, experiment.conditioner)]
    if any(nothing) and not all(nothing):
        raise ConfigError(
            f"sampling.as_data: some of sampling.{field} ask for nothing, and a data set has a "
            "label or text of each image or of none"
        )
    return shown.shape[1:]


def made_by(
    config: ConfigDict, trained: workdirs.Trained, filters: Mapping[str, Filter]
) -> dict[str, Any]:
    """What the samples depend on: the config, as its fields of sampling and the SHA-256 of all its
    fields, the training step, the SHA-256 of the parameters and of frozen networks, the seed, and
    what filters depend on."""
    whole = workdirs.as_json(config)
    del whole["sampling"]["as_data"]  # the folder may be moved
    experiment = trained.experiment
    networks = {**experiment.codec.digests, **experiment.conditioner.digests}
    if experiment.base_digest is not None:
        networks["base"] = experiment.base_digest
    return {
        "config": hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest(),
        "step": trained.step,
        "parameters": trained.digest,
        "networks": networks,
        "seed": config.seed,
        "sampling": whole["sampling"],
        "filters": {spec: each.made_of for spec, each in filters.items()},
    }


def loader(path: Path, experiment: Experiment, line: dict[str, Any], shape: tuple[int, ...]) -> str:
    """The `data` of a config that reads the data set, by a line of metadata.jsonl."""
    options: dict[str, Any] = {"image_size": min(shape[:2]), "channels": shape[2]}
    if "label" in line:
        options |= {"label_field": "label", "num_classes": experiment.conditioner.sizes["label"]}
    if "text" in line:
        options["caption_field"] = "text"
    told = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return f"folder(path={str(path)!r}, {told})"
