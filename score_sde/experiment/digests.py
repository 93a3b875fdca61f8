"""The frozen networks that a workdir rests on: their digests are stored, and compared."""

from __future__ import annotations

import json
from pathlib import Path

from score_sde.codecs.autoencoder import AUTOENCODER
from score_sde.conditioning.neighbours import DATABASE
from score_sde.errors import CheckpointError, ConfigError
from score_sde.experiment.build import Experiment
from score_sde.runtime import json_file
from score_sde.runtime.atomic import write_text

_BASE, _FROZEN = "base.json", "frozen.json"


def store(experiment: Experiment, workdir: Path) -> None:
    """Writes DIR/base.json, the digest of the frozen parameters under an adapter, and
    DIR/frozen.json, those of the frozen networks of codec and conditioner; each if there are
    any."""
    if experiment.base_digest is not None:
        _write(workdir / _BASE, {"sha256": experiment.base_digest})
    if digests := _frozen(experiment):
        _write(workdir / _FROZEN, digests)


def check(experiment: Experiment, workdir: Path) -> None:
    """Raises a ConfigError if the workdir was trained with other frozen networks. Another database
    is allowed: a model that retrieves reads what it is given."""
    stored = _read(workdir / _BASE)
    if stored and stored.get("sha256") != experiment.base_digest:
        raise ConfigError(
            f"{workdir} was trained on other frozen parameters than its adapter finds now (the "
            "SHA-256 differs): restore the workdir that config.adapter names"
        )
    if names := differing(experiment, workdir):
        raise ConfigError(
            f"{workdir} was trained with another {', '.join(names)} than that of this config "
            "(the SHA-256 differs): restore the workdir or folder that the config names"
        )


def differing(experiment: Experiment, workdir: Path) -> list[str]:
    """What of the codec and the conditioner is another than the workdir was trained with, such as
    "text encoders". Another database does not count."""
    stored, found = _read(workdir / _FROZEN), _frozen(experiment)
    return [name for name in stored if name != DATABASE and stored[name] != found.get(name)]


def is_of_latents(workdir: Path) -> bool:
    """Whether the model draws latents of an autoencoder. It reads what `store` wrote, and no
    network."""
    return AUTOENCODER in _read(workdir / _FROZEN)


def base_of(workdir: Path) -> str | None:
    """The digest of the base of an adapter; None without."""
    return _read(workdir / _BASE).get("sha256")


def _frozen(experiment: Experiment) -> dict[str, str]:
    return {**experiment.codec.digests, **experiment.conditioner.digests}


def _read(path: Path) -> dict[str, str]:
    """The digests by name; {} if nothing was stored. Raises CheckpointError of a damaged file."""
    try:
        found = json_file.read(path)
        if not all(isinstance(value, str) for value in found.values()):
            raise ValueError(f"{path} is damaged, it holds no digests")
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise CheckpointError(f"{error}: restore the workdir from a copy") from error
    return found


def _write(path: Path, digests: dict[str, str]) -> None:
    write_text(path, json.dumps(digests, indent=2) + "\n")
