"""The frozen text encoders that a conditioner names, and the changes that adapters make to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from score_sde.config import call, parse
from score_sde.experiment.build import (
    Experiment,
    Load,
    build_conditioner,
    build_objective,
    check_made_by,
    completed,
)
from score_sde.experiment.trained import digest
from score_sde.models.adapters import add_change
from score_sde.published import lora_text
from score_sde.types import Factors, Frozen, PyTree


class Change(NamedTuple):
    """base: the SHA-256 of the parameters of an encoder. params: those that an adapter makes of
    them. weight: the factor of the difference."""

    base: str
    params: PyTree
    weight: float


def folders_of(conditioner: str) -> tuple[str, ...]:
    """The folders of the text encoders that a conditioner, or the one within it, names."""
    _, options = parse(conditioner)
    if "text" in options:
        return folders_of(options["text"])
    return tuple(options.get("encoders", ()))


def with_folders(conditioner: str, folders: Sequence[str]) -> str:
    """The conditioner with text encoders of other folders."""
    name, options = parse(conditioner)
    if "text" in options:
        return call(name, {**options, "text": with_folders(options["text"], folders)})
    return call(name, {**options, "encoders": tuple(folders)})


def factors_of(folder: str, load: Load) -> dict[str, Factors]:
    """The change of a text encoder that a folder of peft holds, by the name of a layer; {} for the
    folder of another network."""
    if not lora_text.is_change(Path(folder)):
        return {}
    return lora_text.read(Path(folder), load(lora_text.base_of(Path(folder))).module)


def changes_of(conditioner: str, weight: float, load: Load) -> list[Change]:
    """Those of the text encoders that the conditioner of an adapter names. One that is no LoRA
    changes nothing."""
    found = map(load, folders_of(conditioner))
    return [Change(each.about.get("base", each.digest), each.params, weight) for each in found]


def with_conditioner(
    config: ConfigDict, conditioner: str, plain: Experiment, load: Load
) -> Experiment:
    """The experiment with another conditioner, whose networks `load` gives.

    Raises:
      ConfigError: the data set holds what other networks made.
    """
    made = completed(build_conditioner(conditioner, plain.data, plain.codec), load)
    check_made_by(plain.data, made.digests)
    found = build_objective(config.objective, plain.model, made, load=load)
    return plain._replace(conditioner=made, objective=found)


def changing(load: Load, changes: Sequence[Change]) -> tuple[Load, Callable[[], set[str]]]:
    """`load`, whose encoders with parameters W have W + sum_i weight_i (W_i - W) in their place;
    and the changes, by their bases, that no network had yet."""
    missing = {change.base for change in changes}

    def changed(folder: str) -> Frozen:
        found = load(folder)
        missing.discard(found.digest)
        params, own = found.params, [c for c in changes if c.base == found.digest]
        for change in own:
            params = jax.jit(add_change)(params, found.params, change.params, change.weight)
        return found._replace(params=params, digest=digest(params)) if own else found

    return changed, lambda: missing
