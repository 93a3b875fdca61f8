"""The summary of a data set, with which samples are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from score_sde.codecs.codec import Codec
from score_sde.config import build
from score_sde.data import fingerprint
from score_sde.errors import ConfigError
from score_sde.evaluation.metrics import summary
from score_sde.evaluation.metrics.summary import Extractor, Summary
from score_sde.experiment.build import Experiment
from score_sde.runtime.mesh import round_to_devices
from score_sde.runtime.progress import progress

MAX_PIXELS = 4096  # numbers of an example whose covariance is affordable


def extractor(config: ConfigDict, experiment: Experiment) -> Extractor:
    """`evaluate.features`."""
    found = build("evaluation.metrics.features", config.evaluate.features)
    dim, _ = summary.features_dim(found, _shown(experiment))
    if dim > MAX_PIXELS:
        raise ConfigError(
            f"evaluate.features={config.evaluate.features!r} gives {dim} numbers an image, whose "
            f"covariance is too large (at most {MAX_PIXELS}): take inception(path=FILE)"
        )
    return found


def empty(config: ConfigDict, experiment: Experiment, features: Extractor) -> Summary:
    """The summary of no images."""
    dim, classes = summary.features_dim(features, _shown(experiment))
    return summary.empty(dim, classes, capacity=config.evaluate.reservoir)


@jax.jit
def _show_raw(codec: Codec, raw: Any) -> jax.Array:
    return codec.show_raw(raw)


def _shown(experiment: Experiment) -> jax.ShapeDtypeStruct:
    """The shape and dtype of one example as it is shown."""
    codec = experiment.codec
    x = jax.ShapeDtypeStruct((1, *codec.shape), jnp.float32)
    return jax.eval_shape(lambda x: codec.show(codec.decode(x)), x)


def path_of(config: ConfigDict, split: str, workdir: Path) -> Path:
    """Where the summary of a split is."""
    given = config.evaluate.reference if split == config.evaluate.split else None
    return Path(given) if given else workdir / f"reference_{split}.npz"


def name_of(experiment: Experiment, split: str) -> str:
    """What reports call the images of a split. If the data set has the latents of the codec, they
    are what its decoder makes of them."""
    ours = experiment.codec.digests.keys() & experiment.data.made_by.keys()
    return f"{split} images, decoded" if ours else f"{split} images"


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
        **({"made_by": dict(made)} if (made := experiment.data.made_by) else {}),
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
            shown = _show_raw(codec, batch[codec.part])
            found = summary.update(found, features(shown), numbers, mask)
            bar.update(int(mask.sum()))
    summary.save(path, found, about)
    return found
