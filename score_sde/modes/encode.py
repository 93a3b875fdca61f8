"""Mode encode: examples as the frozen networks of a config make them, so that training need not."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from score_sde.codecs.codec import Codec
from score_sde.conditioning.conditioner import Conditioner
from score_sde.data import fingerprint
from score_sde.data.encoded import SPLITS, as_json, description, features_of
from score_sde.errors import ConfigError
from score_sde.experiment import stored_data, workdirs
from score_sde.experiment.build import Experiment
from score_sde.runtime.resumable import Partial
from score_sde.types import Feature

ONE_PROCESS = True


def encode(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Calls the encoder of the autoencoder, and the encoders of text, for each example once:
    DIR/encoded, for `data.name="encoded"`, and DIR/encode.json. No checkpoint of the config's own
    network is needed.

    DIR/encoded/{train,test}/PART.npy: the moments of the latents; for captions the tokens, or what
        the encoders make of each caption; the label and other parts that nothing replaces.
    DIR/encoded/encoded.json: the SHA-256 of the networks and tokenizers, and of the data.

    What is there already is kept, and a run that was killed goes on.

    Raises:
      ConfigError, DataError. CheckpointError: there is no autoencoder.
    """
    begin = time.perf_counter()
    if config.encode.dtype not in ("float16", "float32"):
        raise ConfigError(f"encode.dtype is {config.encode.dtype!r}: one of float16, float32")
    workdir.mkdir(parents=True, exist_ok=True)
    experiment = workdirs.load(config)
    _check(config, experiment)
    about, folder = _about(config, experiment), workdir / "encoded"
    place = Partial(workdir, "encoded", about)
    made = description(folder) != about
    if made:
        stored_data.make(
            experiment,
            folder,
            about,
            _dtypes(config, experiment, about),
            place,
            functools.partial(_of_batch, experiment),
            batch_size=config.encode.batch_size,
            doing="encoding",
            where=f"encode.dtype={config.encode.dtype}",
        )
    place.remove()
    result = {
        "folder": str(folder),
        **about["number"],
        "megabytes": sum(p.stat().st_size for p in folder.rglob("*.npy")) / 2**20,
        "made": made,
        "seconds": time.perf_counter() - begin,
    }
    return workdirs.store(workdir / "encode.json", result)


def _check(config: ConfigDict, experiment: Experiment) -> None:
    """Whether there is something to encode."""
    if not {**experiment.codec.digests, **experiment.conditioner.digests}:
        raise ConfigError(
            f"--mode encode has nothing to do: codec {config.codec.name} and conditioner "
            f"{config.conditioner} have no frozen network, as codec.name='autoencoder' has"
        )
    if experiment.data.made_by:
        raise ConfigError(f"the data set {experiment.data.name} is encoded already")


@jax.jit
def kept(codec: Codec, conditioner: Conditioner, raw: dict[str, Any]) -> dict[str, Any]:
    """What is stored of raw examples."""
    read = {codec.part, *conditioner.features}
    others = {name: part for name, part in raw.items() if name not in read}
    return {**others, **conditioner.stored(raw), **codec.stored(raw[codec.part])}


def _of_batch(experiment: Experiment, split: str, batch: dict[str, Any]) -> dict[str, Any]:
    raw = {name: part for name, part in batch.items() if name != "number"}
    return kept(experiment.codec, experiment.conditioner, raw)


def _about(config: ConfigDict, experiment: Experiment) -> dict[str, Any]:
    """The description of what is made, and of all that it depends on."""
    data, codec, conditioner = experiment.data, experiment.codec, experiment.conditioner
    raw = {name: feature.abstract(1) for name, feature in data.features.items()}
    known = {**conditioner.features, **data.features}
    features = {
        name: known.get(name, Feature(part.shape[1:]))
        for name, part in jax.eval_shape(kept, codec, conditioner, raw).items()
    }
    made_of = {name: part for name, part in data.features.items() if name not in features}
    splits = {split: getattr(data, split) for split in SPLITS}
    return {
        "data": data.name,
        "number": {split: len(source) for split, source in splits.items()},
        "sha256": {split: fingerprint(source, codec.part) for split, source in splits.items()},
        "made_by": {**codec.digests, **conditioner.digests},
        "made_of": as_json(made_of),
        "features": as_json(features),
        "dtype": config.encode.dtype,
    }


def _dtypes(config: ConfigDict, experiment: Experiment, about: dict[str, Any]) -> dict[str, Any]:
    """Real numbers are stored as `encode.dtype`, whole ones as the data set has them."""
    example = experiment.data.train[0]
    return {
        name: config.encode.dtype
        if feature.values is None
        else np.asarray(example.get(name, np.int32(0))).dtype
        for name, feature in features_of(about["features"]).items()
    }
