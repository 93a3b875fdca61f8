"""What the network of a workdir is good for, as a command line says it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from score_sde.experiment import digests
from score_sde.runtime import json_file

_FIELDS = {  # of another model, which has this network beside its own
    "log_prob": """--config.sampling.guidance="classifier(workdir='{}')\"""",
    "reconstruction": """--config.codec="autoencoder(workdir='{}')\"""",
}
_SAMPLE = "--mode sample --config.sampling.solver=dpmpp --config.sampling.steps=20"
_JUMP = "--mode sample --config.sampling.steps=2"
_TOKENS = (
    "--mode sample --config.sampling.solver=first_hitting",
    '--mode likelihood --config.likelihood.bound="elbo(draws=4)"',
)
_BRIDGE = "--mode sample --config.sampling.images=IMAGES"
_LIKELIHOOD = "--mode likelihood --config.likelihood.probes=4"
_EDIT = "--mode edit --config.edit.task=image_to_image --config.sampling.grid=log_snr"
# Fields of one mode, and those among them that ask for samples.
_OF_A_MODE = re.compile(r"--config\.(sampling|likelihood|evaluate|edit)\.")
_ASKED = re.compile(r"--config\.sampling\.(labels|prompts|negative|guidance|adapters|words)=")


def stays(argument: str) -> bool:
    """Whether the next command has this argument too: what the network is, and what is asked of
    its samples. What one mode does, such as its solver, is for each command to say."""
    return not _OF_A_MODE.match(argument) or bool(_ASKED.match(argument))


def commands(workdir: Path) -> list[str]:
    """What comes after the config and the workdir, for each thing that the model can do."""
    gives = _gives(workdir)
    if gives in _FIELDS:
        return []
    if gives == "jump":  # which is no score
        return [_JUMP]
    if gives == "probabilities":
        return [*_TOKENS]
    if _begins_at_examples(workdir):  # which have no density, and not every solver is right
        return [_BRIDGE]
    latent = f"{_EDIT} --config.edit.images=IMAGES --config.edit.resize=True"
    return [
        _JUMP if gives == "flow_map" else _SAMPLE,
        latent if digests.is_of_latents(workdir) else _LIKELIHOOD,
    ]


def fields(workdir: Path) -> list[str]:
    """How another model takes the network, if it is one that helps others."""
    gives = _gives(workdir)
    return [_FIELDS[gives].format(workdir)] if gives in _FIELDS else []


def _gives(workdir: Path) -> str:
    """`Objective.gives` of its training; that of most where it was imported."""
    gives = _read(workdir / "train.json").get("gives")
    return gives if isinstance(gives, str) else "denoiser"


def _begins_at_examples(workdir: Path) -> bool:
    """Whether it goes from one data set to another."""
    return str(_read(workdir / "config.json").get("conditioner")).startswith("starts(")


def _read(path: Path) -> dict[str, Any]:
    """A file of JSON; empty where there is none, or a damaged one."""
    try:
        return json_file.read(path)
    except (OSError, ValueError):  # a hint is no place for an error
        return {}
