"""The trained network that an objective learns from, from a config."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from score_sde.config import parse
from score_sde.data import Data
from score_sde.data import pairs as files
from score_sde.data.source import Arrays
from score_sde.errors import ConfigError, DataError
from score_sde.experiment import samplers, workdirs
from score_sde.experiment.build import Experiment
from score_sde.experiment.workdirs import Trained
from score_sde.training.teacher import Teacher
from score_sde.types import Cond, Denoiser, Feature, PyTree

_FREE = ("augment", "memory")  # fields of `data` that do not change what the data are


def load(config: ConfigDict, data: Data | None = None) -> Experiment:
    """What a config describes, ready for its losses: with the teacher of `objective.teacher`, if
    the objective has one, and with its pairs as training data, if `objective.pairs` names a file in
    its workdir.

    Raises:
      ConfigError, DataError; CheckpointError: there is no teacher.
    """
    experiment = workdirs.load(config, data)
    if not config.objective.get("teacher"):
        return experiment
    trained, teacher = _teacher(config, experiment)
    taught = workdirs.load(config, experiment.data, teacher)
    if taught.objective.init is not None and config.adapter is None:
        _check_start(config)
    if taught.objective.teacher_drops:
        _check_drops(config)
    if not config.objective.get("pairs"):
        return taught
    return taught._replace(data=_pairs(config, taught, trained))


def _check_start(config: ConfigDict) -> None:
    """Raises a ConfigError unless the network of a student that starts as its teacher means what
    the teacher's does."""
    workdir = config.objective.teacher
    theirs = workdirs.stored_config(Path(workdir), config.mesh)
    for field in ("parametrization", "c_noise"):
        if parse(theirs[field]) != parse(config[field]):
            raise ConfigError(
                f"objective.teacher: {workdir} has {field}={theirs[field]!r}, and the student, "
                f"which starts as its teacher, {config[field]!r}: set {field} to that"
            )


def _check_drops(config: ConfigDict) -> None:
    """Raises a ConfigError unless the teacher has learnt to do without its condition."""
    workdir = config.objective.teacher
    if not workdirs.stored_config(Path(workdir), config.mesh).objective.get("drop_cond", 0):
        raise ConfigError(
            f"objective.teacher: {workdir} has objective.drop_cond=0, and objective.name="
            f"{config.objective.name!r} asks its teacher without a condition too: train one with "
            "0.1"
        )


def _pairs(config: ConfigDict, experiment: Experiment, trained: Trained) -> Data:
    """The data set with the pairs of the teacher in the place of its training examples: the noise
    and the exact x, and no raw part of that."""
    path = Path(config.objective.teacher) / config.objective.pairs
    if not path.exists():
        raise DataError(f"{path} does not exist: run --mode pairs with the config of the teacher")
    pairs, codec, data = files.read(path), experiment.codec, experiment.data
    if pairs.about.get("sha256") != trained.digest or pairs.x.shape[1:] != codec.shape:
        raise DataError(f"{path} was made by another network than the teacher: run --mode pairs")
    source = Arrays(**pairs.raw, x=pairs.x, noise=pairs.noise)
    own = {"x": Feature(codec.shape), "noise": Feature(codec.shape)}
    return dataclasses.replace(data, train=source, features={**data.features, **own})


def _teacher(config: ConfigDict, experiment: Experiment) -> tuple[Trained, Teacher]:
    """`objective.teacher`, a workdir, without guidance and guided by `objective.guidance`."""
    options, workdir = config.objective, Path(config.objective.teacher)
    where = f"objective.teacher: {workdir}"
    theirs = workdirs.stored_config(workdir, config.mesh)
    ours, of_teacher = (workdirs.as_json(each)["data"] for each in (config, theirs))
    if differing := [key for key in ours if key not in _FREE and ours[key] != of_teacher.get(key)]:
        told = ", ".join(f"data.{key}={of_teacher.get(key)!r}" for key in differing)
        raise ConfigError(f"{where} was trained on other data, {told}")
    theirs.sampling.update(guidance=options.get("guidance"), negative=())
    trained = workdirs.restore_as(theirs, workdir, data=experiment.data)
    if not trained.experiment.objective.denoises:
        raise ConfigError(
            f"{where} was trained with objective.name={theirs.objective.name!r}, and a teacher "
            "must be a denoiser"
        )
    samplers.check_alike(experiment, trained.experiment, where)
    of_cond = samplers.build_denoiser(theirs, trained.experiment)
    bound = jax.tree_util.Partial(_of_cond, of_cond, trained.params)
    return trained, Teacher(bound, trained.params)


def _of_cond(of_cond: Any, params: PyTree, cond: Cond) -> Denoiser:
    return of_cond(params, cond)
