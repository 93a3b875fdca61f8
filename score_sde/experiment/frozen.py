"""Networks of other folders that a codec or a conditioner reads."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_sde import published
from score_sde.codecs import moments
from score_sde.codecs.pixels import pixels
from score_sde.data import gather
from score_sde.errors import CheckpointError, DataError, ReportedError
from score_sde.experiment.trained import Trained, check_finite, digest
from score_sde.nets.autoencoder import AutoencoderKL
from score_sde.published import diffusers_vae, lora_text
from score_sde.runtime import json_file
from score_sde.runtime.atomic import write_text
from score_sde.types import Frozen

EXAMPLES = 2048  # training examples whose latents are measured
BATCH = 64


def load(folder: str, restore: Callable[[Path], Trained]) -> Frozen:
    """The network of a workdir, which `restore` reads, or of a folder of published files, such as
    the folders `vae` and `text_encoder` of a pipeline of diffusers, for others to use.

    Its `about` has "codec", `(features) -> Codec` of its images; of a workdir its "model" and what
    its objective "gives"; of an autoencoder the "shift" and "scale" of its latents. Those of a
    workdir make each channel of mean 0 and variance 1, and published files state theirs. A folder
    of peft holds a LoRA of the text encoder of another folder: it has "base", the digest of that.

    Raises:
      CheckpointError: there is no network. ConfigError, DataError.
    """
    path = Path(folder)
    if not path.is_dir():
        raise CheckpointError(
            f"{folder} is no folder, and the config names it for a network: put that back, or name "
            "the folder where it is now"
        )
    if not (path / "checkpoints").is_dir():
        with _as_checkpoint_errors():
            if published.describes_network(path):
                return _published(path)
            if lora_text.is_change(path):
                return _changed(path, restore)
    trained = restore(path)
    experiment = trained.experiment
    about: dict[str, Any] = {
        "model": experiment.model,
        "gives": experiment.objective.gives,
        "codec": lambda features: experiment.codec,
    }
    if experiment.objective.gives == "reconstruction":
        about |= _statistics(path, trained)
    return Frozen(experiment.model.net, trained.whole, trained.digest, about)


@contextlib.contextmanager
def _as_checkpoint_errors() -> Iterator[None]:
    """Turns what readers of published files raise into a CheckpointError of one line."""
    try:
        yield
    except ReportedError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(" ".join(str(error).split())) from error


def _published(folder: Path) -> Frozen:
    module = published.module_of(folder)
    params = published.load(folder, module).params
    check_finite(folder, params)
    about = _of_latents(folder) if isinstance(module, AutoencoderKL) else {}
    return Frozen(module, params, digest(params), about)


def _changed(folder: Path, restore: Callable[[Path], Trained]) -> Frozen:
    """A text encoder with the LoRA of a folder of peft."""
    base = load(lora_text.base_of(folder), restore)
    factors = lora_text.read(folder, base.module)
    params = lora_text.merge(base.module, base.params, factors)
    check_finite(folder, params)
    return Frozen(base.module, params, digest(params), {**base.about, "base": base.digest})


def _of_latents(folder: Path) -> dict[str, Any]:
    """What the folder of an autoencoder says of its latents and its images."""
    scaling = diffusers_vae.scaling(folder)

    return {"codec": pixels, "shift": scaling.shift, "scale": scaling.factor}


def _statistics(workdir: Path, trained: Trained) -> dict[str, list[float]]:
    """The shift and scale of latents: from DIR/latents.json, or measured and written there."""
    path, digest = workdir / "latents.json", trained.digest
    with contextlib.suppress(OSError, ValueError):  # a damaged file is written anew
        stored = json_file.read(path)
        if stored.get("sha256") == digest and _are_statistics(stored):
            return stored
    mean, std = _measured(trained)
    found = {"shift": mean.tolist(), "scale": (1 / std).tolist(), "sha256": digest}
    write_text(path, json.dumps(found, indent=2) + "\n")
    return found


def _are_statistics(stored: dict[str, Any]) -> bool:
    """Whether they are numbers for each channel."""
    shift, scale = stored.get("shift"), stored.get("scale")
    if not isinstance(shift, list) or not isinstance(scale, list) or len(shift) != len(scale):
        return False
    return all(isinstance(n, float) and math.isfinite(n) for n in (*shift, *scale))


def _measured(trained: Trained) -> tuple[np.ndarray, np.ndarray]:
    """The mean and standard deviation of each channel of latents drawn from the posterior, over the
    first training examples.

    Raises:
      DataError: the data set is not there.
    """
    experiment = trained.experiment
    codec, net, source = experiment.codec, experiment.model.net, experiment.data.train

    @jax.jit
    def of_batch(params, x):
        found: Any = net.apply({"params": params}, x, method="encode")
        mean, std = moments.mean_and_std(found)
        axes = tuple(range(mean.ndim - 1))
        return jnp.mean(mean, axes), jnp.mean(mean**2 + std**2, axes)

    total = min(len(source), EXAMPLES)
    if not total:
        raise DataError("the training split is empty")
    size = min(BATCH, total)
    parts = []
    for i in range(total // size):
        raw = gather(source, np.arange(i * size, (i + 1) * size))[codec.part]
        parts.append(of_batch(trained.whole, codec.middle(raw)))
    mean, square = np.mean(np.asarray(jax.device_get(parts), np.float64), axis=0)
    return mean, np.sqrt(square - mean**2)
