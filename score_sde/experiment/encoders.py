"""The frozen text encoders that a conditioner names, and the changes that adapters make to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from score_sde.conditioning.encoded_text import text_of, with_text
from score_sde.conditioning.text_ids import ids_of
from score_sde.config import at, call, parse
from score_sde.experiment.build import (
    Experiment,
    Load,
    build_conditioner,
    build_objective,
    check_made_by,
    completed,
)
from score_sde.experiment.trained import Trained, digest, over
from score_sde.models.adapters import Adapter, add_change
from score_sde.models.low_rank import Name
from score_sde.nets.text_reading import TextReading, joined, parted
from score_sde.published import lora_text
from score_sde.training.teacher import Teacher
from score_sde.types import Factors, Frozen, PyTree, as_tree


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


def _stored_factors(folder: str, load: Load) -> dict[str, Factors]:
    """The change of a text encoder that a folder of peft holds, by the name of a layer; {} for the
    folder of another network."""
    if not lora_text.is_change(Path(folder)):
        return {}
    return lora_text.read(Path(folder), load(lora_text.base_of(Path(folder))).module)


def factors_of(
    adapter: Adapter, base: PyTree, delta: PyTree, conditioner: str, load: Load
) -> tuple[dict[Name, Factors], tuple[dict[str, Factors], ...]]:
    """The factors of a LoRA in the network, by the path of a layer; and in each text encoder of the
    conditioner, by the name of a layer: those that it has trained, or that a folder holds.

    base, delta: the parameters `under` the adapter, and its small tree.

    Raises:
      ValueError: it was trained over text encoders that a LoRA had changed already.
    """
    folders = folders_of(conditioner)
    if not adapter.text_encoders:
        return _factors(adapter, base, delta), tuple(_stored_factors(f, load) for f in folders)
    parts: dict[str, dict[Name, Factors]] = {}
    for path, factors in _factors(adapter, base, delta).items():
        parts.setdefault(path[0], {})[path[1:]] = factors
    return parts.get("net", {}), tuple(
        lora_text.named(_original(folder, load).module, parts.get(f"encoders_{i}", {}))
        for i, folder in enumerate(folders)
    )


def _original(folder: str, load: Load) -> Frozen:
    """A text encoder, if no LoRA has changed it."""
    found = load(folder)
    if "base" in found.about:
        raise ValueError(
            f"{folder} holds a LoRA of a text encoder, over which another was trained, and a file "
            "has room for one"
        )
    return found


def under(adapter: Adapter, net: PyTree, conditioner: str, load: Load) -> PyTree:
    """The frozen parameters that an adapter changes: those of the network, and of the text encoders
    of a conditioner if it changes them."""
    if not adapter.text_encoders:
        return net
    return joined(net, [load(folder).params for folder in folders_of(conditioner)])


def _factors(adapter: Adapter, base: PyTree, delta: PyTree) -> dict[Name, Factors]:
    if adapter.factors is None:
        raise ValueError("the adapter is no LoRA")
    return adapter.factors(base, delta)


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


def adapted(
    base: Trained,
    adapter: Adapter,
    plain: Experiment,
    objective: ConfigDict,
    load: Load,
    teacher: Teacher | None = None,
) -> Experiment:
    """The experiment with an adapter over the network `base`, and over the text encoders of the
    conditioner if it changes them. The network then holds these, and the conditioner gives it ids.

    objective, teacher: those that the experiment was built with.

    Raises:
      ConfigError: the conditioner has no text encoders, or the data set has no captions.
    """
    if not adapter.text_encoders:
        return over(base, adapter, plain)
    with at("adapter, text_encoders=True"):
        text = text_of(plain.conditioner)
        conditioner = as_tree(with_text(plain.conditioner, as_tree(ids_of(text))))
    lengths = tuple(tokenizer.length for tokenizer in text.tokenizer.tokenizers)
    net = TextReading(plain.model.net, text.modules, lengths, text.hidden, text.pooled)
    model = plain.model._replace(net=net)
    found = build_objective(objective, model, conditioner, teacher, load)
    holding = plain._replace(model=model, conditioner=conditioner, objective=found)
    return over(base, adapter, holding, text.params)


def changes_within(changed: PyTree, plain: Experiment, weight: float) -> list[Change]:
    """Those that an adapter over network and text encoders makes to the latter.

    changed: the parameters of both. plain: the experiment without the adapter.
    """
    digests = text_of(plain.conditioner).encoders
    return [
        Change(base, params, weight)
        for base, params in zip(digests, parted(changed)[1], strict=True)
    ]
