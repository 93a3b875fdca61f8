"""What a workdir holds: the config that it was made with, results, and parameters."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from score_sde.config import at, build, parse
from score_sde.data import Data
from score_sde.errors import CheckpointError, ConfigError
from score_sde.experiment import base
from score_sde.experiment.build import Experiment, abstract_state, build_experiment
from score_sde.experiment.old_configs import renewed
from score_sde.runtime.atomic import write_text
from score_sde.runtime.checkpoint import Checkpoints
from score_sde.training.objective import adapted
from score_sde.training.stored_averages import StoredAverages
from score_sde.types import PyTree

# Another value of these fields means another model, with the exceptions below.
MODEL_FIELDS = (*("sde", "parametrization", "c_noise", "net", "codec", "conditioner", "adapter"),)
FREE_FIELDS = ("net.dropout", "net.dtype", "net.remat", "codec.dequantize", "codec.truncate")


class Trained(NamedTuple):
    """A trained network: its experiment, its averaged parameters and their training step. Guides
    and the bases of adapters are such networks too."""

    experiment: Experiment
    params: PyTree
    step: int

    @property
    def digest(self) -> str:
        """SHA-256 of the parameters: their names, shapes, dtypes and numbers."""
        found = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
            array = np.asarray(leaf)
            about = f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}"
            found.update(about.encode() + np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


def load(config: ConfigDict, data: Data | None = None) -> Experiment:
    """What a config describes. With `adapter`, it trains over the frozen parameters of a workdir.

    data: the data set, if it is loaded already.

    Raises:
      ConfigError: a wrong name or field, or the adapter belongs to another network.
      DataError: the data set is not there. CheckpointError: there is no network to adapt.
    """
    experiment = build_experiment(config, data)
    if config.adapter is None:
        return experiment
    adapter = build("models.adapters", config.adapter)
    workdir = Path(adapter.workdir)
    theirs = stored_config(workdir, config.mesh)
    alone = config.copy_and_resolve_references()
    alone.adapter = theirs.adapter
    if differing := _differences(as_json(theirs), alone)[1]:
        raise ConfigError(
            f"adapter={config.adapter}: {workdir} holds another model ({', '.join(differing)}): "
            "begin with the config that it was made with"
        )
    base = restore_as(theirs, workdir, data=experiment.data)

    def init(base, key, batch):
        return adapter.init(key, base)

    return experiment._replace(
        objective=adapted(experiment.objective, adapter, base.params),
        init=jax.tree_util.Partial(init, base.params),
        base_digest=base.digest,
    )


def restore(config: ConfigDict, workdir: Path) -> Trained:
    """The averaged parameters of the newest checkpoint (`sampling.ema`-th average) or of the newest
    stored averages (`sampling.ema_length`).

    Raises:
      CheckpointError: the workdir has none, or it does not fit. ConfigError, DataError.
    """
    _check_is_trained(workdir)
    check_config(config, workdir)
    return restore_as(config, workdir)


def restore_as(
    config: ConfigDict, workdir: Path, step: int | None = None, data: Data | None = None
) -> Trained:
    """Restores the parameters of this step without checking the config against the workdir's.

    data: the data set, if it is loaded already.
    """
    experiment = load(config, data)
    check_base(experiment, workdir)
    if config.sampling.ema_length is not None:
        params = abstract_state(experiment).params
        return Trained(experiment, *_restore_length(config, experiment, workdir, params, step))
    return Trained(experiment, *_restore_average(config, experiment, workdir, step))


def _check_is_trained(workdir: Path) -> None:
    if not (workdir / "checkpoints").is_dir():
        raise CheckpointError(
            f"{workdir} has no checkpoint: run --mode train with this --workdir first"
        )


def _restore_average(
    config: ConfigDict, experiment: Experiment, workdir: Path, step: int | None
) -> tuple[PyTree, int]:
    checkpoints = Checkpoints(workdir, config.train.keep)
    restored = checkpoints.restore({"ema": abstract_state(experiment).ema}, step)
    steps = checkpoints.steps()
    checkpoints.close()
    if restored is None and steps:
        raise CheckpointError(f"{workdir} has no checkpoint of step {step}: one of {steps}")
    if restored is None:
        raise CheckpointError(f"{workdir} has no checkpoint yet: run --mode train first")
    return restored.state["ema"][config.sampling.ema], restored.step


def _restore_length(
    config: ConfigDict, experiment: Experiment, workdir: Path, params: PyTree, step: int | None
) -> tuple[PyTree, int]:
    length = config.sampling.ema_length
    with at("sampling.ema_length"):
        made = StoredAverages(workdir).reconstruct(params, length, step)
    print(
        f"the average of length {length:g} at step {made.step}, from {made.count} stored "
        f"average(s): relative error of its profile {made.error:.2g}"
    )
    return jax.device_put(made.params, experiment.layout(made.params)), made.step


def store(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Writes a mode's result as DIR/MODE.json and returns it."""
    write_text(path, json.dumps(result, indent=2) + "\n")
    return result


def as_json(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(config.to_dict(), default=list))


def identity(config: ConfigDict) -> dict[str, Any]:
    """The fields, as JSON, that decide which parameters and data a result belongs to."""
    parts = ("seed", "data", *MODEL_FIELDS)
    average = {name: config.sampling[name] for name in ("ema", "ema_length")}
    return {part: as_json(config)[part] for part in parts} | average


def store_config(config: ConfigDict, workdir: Path) -> None:
    """Writes DIR/config.json."""
    store(workdir / "config.json", as_json(config))


def store_base(experiment: Experiment, workdir: Path) -> None:
    """Writes DIR/base.json: the digest of the frozen parameters under an adapter."""
    if experiment.base_digest is not None:
        store(workdir / "base.json", {"sha256": experiment.base_digest})


def check_base(experiment: Experiment, workdir: Path) -> None:
    """Raises a ConfigError if the adapter was trained over other frozen parameters."""
    path = workdir / "base.json"
    if not path.exists():
        return
    if json.loads(path.read_bytes())["sha256"] != experiment.base_digest:
        raise ConfigError(
            f"{workdir} was trained on other frozen parameters than its adapter finds now (the "
            "SHA-256 differs): restore the workdir that config.adapter names"
        )


def check_config(config: ConfigDict, workdir: Path) -> None:
    """Prints the fields that differ from the stored config.

    Raises:
      ConfigError: the workdir holds another model.
    """
    for change in changed_fields(config, workdir):
        print(f"config differs from the stored one, the given value is used: {change}")


def changed_fields(config: ConfigDict, workdir: Path) -> list[str]:
    """The fields that differ from the config stored in the workdir, as "NAME OLD -> NEW".

    Raises:
      ConfigError: the workdir holds another model.
    """
    if not (workdir / "config.json").exists():
        return []
    changed, model = _differences(_read_config(workdir), config)
    if model:
        raise ConfigError(
            f"{workdir} holds another model ({', '.join(model)}): choose another --workdir, or the "
            "config that it was made with"
        )
    return changed


def _differences(stored: dict[str, Any], config: ConfigDict) -> tuple[list[str], list[str]]:
    """All fields that differ, as "NAME OLD -> NEW", and those that mean another model."""
    old, new = (flatten_dict(tree, sep=".") for tree in (stored, as_json(config)))
    changed = {
        key: f"{key} {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }
    model = [
        change
        for key, change in changed.items()
        if (key in MODEL_FIELDS or key.split(".")[0] in MODEL_FIELDS)
        and key not in FREE_FIELDS
        and _meaning(old.get(key)) != _meaning(new.get(key))
        and not (key not in old and _is_default(config, key))
    ]
    return list(changed.values()), model


def stored_config(workdir: Path, mesh: ConfigDict | None = None) -> ConfigDict:
    """The config that a workdir was made with. Fields that it lacks get their defaults.

    mesh: the mesh to run on now, in the place of the stored one; None for the default.

    Raises:
      CheckpointError: the workdir has no config or no checkpoint. ConfigError: it is damaged.
    """
    _check_is_trained(workdir)
    if not (workdir / "config.json").exists():
        raise CheckpointError(f"{workdir} has no config.json, which says what its checkpoints mean")
    config = base.get_config().to_dict()
    default_mesh = config["mesh"]
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
    path = workdir / "config.json"
    try:
        stored = json.loads(path.read_bytes())
        if not isinstance(stored, dict):
            raise ValueError(f"it holds {stored!r:.40} and no fields")
    except ValueError as error:  # of JSON, or of bytes that are no text
        raise ConfigError(f"{path} is damaged ({error}): mend or remove it") from None
    return renewed(stored)


def _meaning(value: Any) -> Any:
    """The same for two spellings of one spec, such as "VP" and "VP()"."""
    return parse(value) if isinstance(value, str) else value


def _is_default(config: ConfigDict, key: str) -> bool:
    """Whether a field that the stored config lacks has the network's own default."""
    part, _, field = key.partition(".")
    if part != "net" or not field:
        return False
    net = config.net.to_dict()
    without = {name: value for name, value in net.items() if name != field}
    return build("nets", without) == build("nets", net)
