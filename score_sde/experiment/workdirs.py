"""What a workdir holds: the config that it was made with, results, and parameters."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from score_sde.conditioning.encoded_text import ENCODERS
from score_sde.config import at, build, parse
from score_sde.data import Data
from score_sde.errors import CheckpointError, ConfigError, foreign, one_line
from score_sde.experiment import averaged, base, digests, encoders, frozen
from score_sde.experiment.build import (
    Experiment,
    build_conditioner,
    build_experiment,
    build_objective,
    completed,
)
from score_sde.experiment.compared import MODEL_FIELDS, differences
from score_sde.experiment.compared import as_json as as_json
from score_sde.experiment.controls import Control, controlled
from score_sde.experiment.new_words import with_files
from score_sde.experiment.old_configs import renewed
from score_sde.experiment.optimization import build_averages
from score_sde.experiment.trained import Trained as Trained
from score_sde.models.adapters import Adapter, add_change
from score_sde.runtime import json_file
from score_sde.runtime.atomic import write_text
from score_sde.training.teacher import Teacher
from score_sde.types import Frozen


def load(
    config: ConfigDict, data: Data | None = None, teacher: Teacher | None = None
) -> Experiment:
    """What a config describes. With `adapter`, it trains over the frozen parameters of a workdir.

    data: the data set, if it is loaded already.
    teacher: that of the objective (`teachers.load`), without which its losses cannot be computed.

    Raises:
      ConfigError: a wrong name or field, or the adapter belongs to another network.
      DataError: the data set is not there. CheckpointError: there is no network to adapt.
    """
    experiment = build_experiment(config, data, teacher=teacher, load=load_frozen)
    if config.adapter is None:
        return experiment
    adapter = build("models.adapters", config.adapter)
    base = base_of(config, adapter, experiment.data)
    objective = config.objective
    return encoders.adapted(base, adapter, experiment, objective, load_frozen, teacher)


def base_of(config: ConfigDict, adapter: Adapter, data: Data) -> Trained:
    """The network that the adapter of a config changes.

    Raises:
      ConfigError: it is another network than that of the config. CheckpointError: there is none.
    """
    workdir = Path(adapter.workdir)
    theirs = stored_config(workdir, config.mesh)
    _check_can_be_base(f"adapter={config.adapter}: {workdir}", theirs)
    alone = config.copy_and_resolve_references()
    alone.adapter = theirs.adapter
    if adapter.control is not None:  # the condition is what the base reads, and a hint
        alone.conditioner = parse(config.conditioner)[1].get("text", config.conditioner)
    if adapter.fields:  # the larger network has a conditioner of its own, and its data have tokens
        alone.conditioner = theirs.conditioner
        data = dataclasses.replace(data, made_by={})
    if differing := differences(as_json(theirs), alone)[1]:
        raise ConfigError(
            f"adapter={config.adapter}: {workdir} holds another model ({', '.join(differing)}): "
            "begin with the config that it was made with"
        )
    return restore_as(theirs, workdir, data=data)


def _check_can_be_base(where: str, config: ConfigDict) -> None:
    """Raises a ConfigError of a workdir, called `where`, with trained text encoders."""
    if config.adapter and build("models.adapters", config.adapter).text_encoders:
        raise ConfigError(
            f"{where} holds text encoders in training, and no adapter goes over these: write a "
            "file with --mode export, and make a workdir of it with --mode import"
        )


def load_frozen(folder: str) -> Frozen:
    """The network of a folder, for a codec or a conditioner (`frozen.load`)."""
    return frozen.load(folder, lambda workdir: restore_as(stored_config(workdir), workdir))


def restore(config: ConfigDict, workdir: Path) -> Trained:
    """The averaged parameters of the newest checkpoint (`sampling.ema`-th average) or of the newest
    stored averages (`sampling.ema_length`).

    Raises:
      CheckpointError: the workdir has none, or it does not fit. ConfigError, DataError.
    """
    averaged.check_is_trained(workdir)
    check_config(config, workdir)
    return restore_as(config, workdir)


def restore_as(
    config: ConfigDict, workdir: Path, step: int | None = None, data: Data | None = None
) -> Trained:
    """Restores the parameters of this step without checking the config against the workdir's, with
    the changes of `sampling.adapters` and the words of `sampling.words`.

    data: the data set, if it is loaded already.
    """
    trained = restore_into(load(config, data), config, workdir, step)
    if config.sampling.adapters:
        trained = _with_adapters(config, trained)
    if words := config.sampling.words:
        trained = trained._replace(experiment=with_files(trained.experiment, words))
    return trained


def restore_into(
    experiment: Experiment, config: ConfigDict, workdir: Path, step: int | None = None
) -> Trained:
    """The parameters of this step, of an experiment that is there already."""
    digests.check(experiment, workdir)
    return Trained(experiment, *averaged.restore(config, experiment, workdir, step))


def _with_adapters(config: ConfigDict, trained: Trained) -> Trained:
    """The network with the changes that the adapters of `sampling.adapters` make, each times its
    weight; with those that they make to text encoders; and with the ControlNets among them, and the
    conditioner of the last of these."""
    plain = trained.experiment
    if config.adapter is not None:
        _check_can_be_base("this workdir", config)
        without = config.copy_and_resolve_references()
        without.adapter = None
        plain = load(without, plain.data)
    workdirs, weights = config.sampling.adapters, config.sampling.adapter_weights
    if weights and len(weights) != len(workdirs):
        raise ConfigError(
            f"sampling.adapter_weights has {len(weights)} numbers for {len(workdirs)} adapters"
        )
    params = base = trained.whole
    controls: list[Control] = []
    changes: list[encoders.Change] = []
    for workdir, weight in zip(workdirs, weights or (1.0,) * len(workdirs), strict=True):
        adapter, changed = _changed(trained, plain, Path(workdir), config)
        if adapter.control is not None:
            spec = stored_config(Path(workdir), config.mesh).conditioner
            controls.append(Control(adapter.control, changed.params, float(weight), spec))
            continue
        whole = changed.whole
        if adapter.text_encoders:
            changes += encoders.changes_within(whole, plain, float(weight))
            whole = whole["net"]
        params = jax.jit(add_change)(params, base, whole, float(weight))
        if ENCODERS in digests.differing(plain, Path(workdir)):
            spec = stored_config(Path(workdir), config.mesh).conditioner
            changes += encoders.changes_of(spec, float(weight), load_frozen)
    loading, missing = encoders.changing(load_frozen, changes)
    if changes:
        plain = encoders.with_conditioner(config, config.conditioner, plain, loading)
    if missing():
        raise ConfigError(
            "sampling.adapters has changes of other text encoders than config.conditioner names: "
            "name those that the adapters were made over"
        )
    if controls:
        plain, params = controlled(config, plain, params, controls, loading)
    return Trained(plain, params, trained.step)


def _changed(
    base: Trained, plain: Experiment, workdir: Path, config: ConfigDict
) -> tuple[Adapter, Trained]:
    """One adapter over the network, and what was trained."""
    where, theirs = f"sampling.adapters: {workdir}", stored_config(workdir, config.mesh)
    if theirs.adapter is None:
        raise ConfigError(
            f"{where} is the workdir of no adapter: it was made without config.adapter"
        )
    if digests.base_of(workdir) != base.digest:
        raise ConfigError(
            f"{where} was made over another network than that of this workdir (the SHA-256 "
            f"differs), its {theirs.adapter}: an adapter is tied to its base"
        )
    adapter = build("models.adapters", theirs.adapter)
    if adapter.fields:
        raise ConfigError(
            f"{where}: {theirs.adapter} makes a larger network of its base: use it in its own "
            "workdir"
        )
    model = plain.model._replace(net=adapter.changed(plain.model.net))
    with at(where):
        found = build_objective(theirs.objective, model, plain.conditioner, load=load_frozen)
        if found.gives != plain.objective.gives:
            raise ValueError(
                f"its objective.name={theirs.objective.name!r} makes another kind of network of "
                "its base: use it in its own workdir"
            )
    like = plain._replace(objective=found, averages=build_averages(theirs), model=model)
    if adapter.control is not None or digests.differing(plain, workdir) == [ENCODERS]:
        conditioner = completed(
            build_conditioner(theirs.conditioner, plain.data, plain.codec), load_frozen
        )
        like = like._replace(conditioner=conditioner)
    over = encoders.adapted(base, adapter, like, theirs.objective, load_frozen)
    return adapter, restore_into(over, theirs, workdir)


def store(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Writes a mode's result as DIR/MODE.json and returns it."""
    write_text(path, json.dumps(result, indent=2) + "\n")
    return result


def identity(config: ConfigDict) -> dict[str, Any]:
    """The fields, as JSON, that decide which parameters and data a result belongs to."""
    parts = ("seed", "data", *MODEL_FIELDS)
    names = ("ema", "ema_length")
    if config.sampling.adapters:
        names += ("adapters", "adapter_weights", "control_intervals", "control_deeper")
    if config.sampling.words:
        names += ("words",)
    average = {name: as_json(config)["sampling"][name] for name in names}
    return {part: as_json(config)[part] for part in parts} | average


def store_config(config: ConfigDict, workdir: Path) -> None:
    """Writes DIR/config.json."""
    store(workdir / "config.json", as_json(config))


def check_config(config: ConfigDict, workdir: Path) -> None:
    """Prints the fields that differ from the stored config. If `config.adapter` names only the
    base, it is set to the stored adapter, whose options an import found in a file.

    Raises:
      ConfigError: the workdir holds another model.
    """
    if config.adapter is not None and (workdir / "config.json").exists():
        stored = _read_config(workdir).get("adapter")
        if stored and stored != config.adapter and _base_alone(stored) == parse(config.adapter):
            print(f"the adapter is that of {workdir}: {stored}")
            config.adapter = stored
            config.conditioner = _read_config(workdir)["conditioner"]
    for change in changed_fields(config, workdir):
        print(f"config differs from the stored one, the given value is used: {change}")


def _base_alone(adapter: str) -> tuple[str, dict[str, Any]]:
    name, options = parse(adapter)
    return name, {"workdir": options.get("workdir")}


def changed_fields(config: ConfigDict, workdir: Path) -> list[str]:
    """The fields that differ from the config stored in the workdir, as "NAME OLD -> NEW".

    Raises:
      ConfigError: the workdir holds another model.
    """
    if not (workdir / "config.json").exists():
        return []
    with _reading(workdir):
        changed, model = differences(_read_config(workdir), config)
    if model:
        raise ConfigError(
            f"{workdir} holds another model ({one_line(', '.join(model), 400)}): choose another "
            "--workdir, or the config that it was made with"
        )
    return changed


def stored_config(workdir: Path, mesh: ConfigDict | None = None) -> ConfigDict:
    """The config that a workdir was made with. Fields that it lacks get their defaults.

    mesh: the mesh to run on now, in the place of the stored one; None for the default.

    Raises:
      CheckpointError: the workdir has no config or no checkpoint. ConfigError: it is damaged.
    """
    averaged.check_is_trained(workdir)
    if not (workdir / "config.json").exists():
        raise CheckpointError(f"{workdir} has no config.json, which says what its checkpoints mean")
    config = base.get_config().to_dict()
    default_mesh = config["mesh"]
    with _reading(workdir):
        for part, value in _read_config(workdir).items():
            # a part with a name has the fields of what it names, and no others
            whole = not isinstance(value, dict) or "name" in value
            config[part] = value if whole else {**config.get(part, {}), **value}
        config["mesh"] = default_mesh if mesh is None else mesh.to_dict()
        return ConfigDict(_tuples(config))


def _tuples(value: Any) -> Any:
    """Turns the lists of JSON into tuples."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _read_config(workdir: Path) -> dict[str, Any]:
    with _reading(workdir):
        return renewed(json_file.read(workdir / "config.json"))


def _reading(workdir: Path) -> contextlib.AbstractContextManager[None]:
    """Turns whatever a damaged config leads to into a ConfigError."""
    return foreign(f"{workdir}/config.json is damaged: mend or remove it", ConfigError)
