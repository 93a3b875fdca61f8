"""From a config to the process and the grid of sampling, and to what is asked of samples."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from score_sde.conditioning.conditioner import Conditioner, Raw, unknown
from score_sde.conditioning.hints import MOST_EXAMPLES
from score_sde.config import at, build
from score_sde.data import Data, Source, read_images
from score_sde.errors import ConfigError, DataError
from score_sde.evaluation.solver_variants import Variants
from score_sde.evaluation.worlds import Asked, World
from score_sde.experiment import coding
from score_sde.experiment.build import Experiment
from score_sde.experiment.conditions import CONDITION_FIELDS, fields_of_net
from score_sde.experiment.database import retrieves
from score_sde.models.guidance import Guidance
from score_sde.processes import SDE
from score_sde.types import Grid, as_tree


def sampling_sde(config: ConfigDict) -> SDE:
    """The process, which sampling ends at `sampling.t_min` if that is set."""
    sde, t_min = build("processes", config.sde), config.sampling.t_min
    with at("sampling.t_min"):
        return sde if t_min is None else dataclasses.replace(sde, t_min=t_min)


def build_grid(config: ConfigDict) -> Callable[[SDE], Grid]:
    """`process -> times`, the grid of sampling."""
    if config.sampling.steps < 1:
        raise ConfigError(f"sampling.steps must be at least 1, not {config.sampling.steps}")
    return lambda sde: build("sampling.grids", config.sampling.grid, sde, config.sampling.steps)


def guidance_of(config: ConfigDict) -> Guidance:
    """`sampling.guidance`."""
    sde = sampling_sde(config)
    return build(
        "models.guidance", config.sampling.guidance or "unguided", sde, build_grid(config)(sde)
    )


def build_solvers(config: ConfigDict, sde: SDE) -> list[Variants]:
    """The solvers that `config.solvers` compares, after a check of its names and values.

    Raises:
      ConfigError: a wrong name or value, a solver that asks for more than a denoiser, or no solver
        can take a step within a budget.
    """
    options = config.solvers
    for name, least in (("nfe", 2), ("tolerances", 0), ("batches", 1), ("num_samples", 2)):
        value = options[name]
        if np.size(value) == 0 or np.min(value) < least:
            raise ConfigError(f"solvers.{name} must be at least {least}, not {value}")
    solvers = [Variants.read(text, sde) for text in options.solvers]
    if wanting := [solver.name for solver in solvers if solver.first(sde).asks != "denoiser"]:
        raise ConfigError(
            f"solvers.solvers are compared with one denoiser, and {wanting[0]} asks for more: "
            "leave out flow_map, and take ancestral with the variance 'small' or 'large'"
        )
    for grid in options.grids:
        build("sampling.grids", grid, sde, max(options.nfe) - 1)
    if not (solvers and options.grids):
        raise ConfigError("solvers.solvers and solvers.grids must not be empty")
    grid = functools.partial(build, "sampling.grids", options.grids[0], sde)
    if not any(solver.fits(sde, grid, max(options.nfe)) for solver in solvers):
        raise ConfigError(f"solvers.nfe={options.nfe} is too little for all of solvers.solvers")
    return solvers


def build_request(config: ConfigDict, experiment: Experiment) -> Callable[[Array, Array], Raw]:
    """`(keys [b], numbers int [b]) -> raw parts` of the samples of these numbers: what
    `sampling.labels`, `sampling.prompts` or `sampling.world` asks for; nothing where no network
    looks at it.

    Raises:
      ConfigError: it asks for what there is not, or nothing takes conditions.
    """
    conditioner = experiment.conditioner
    for field in {"labels", "prompts"} - {conditioner.field}:
        if config.sampling[field]:
            raise ConfigError(
                f"sampling.{field}={config.sampling[field]}, but the conditioner "
                f"{config.conditioner} reads sampling.{conditioner.field}"
            )
    asked = asked_for(config, conditioner)
    if not (reads_conditions(config, conditioner) or guidance_of(config).is_of_labels):
        if asked:
            raise ConfigError(
                f"sampling.{conditioner.field}={asked}, but the network has no classes "
                "(net.num_classes is 0), reads no text, and no classifier guides it"
            )
        return nothing_known(conditioner)
    with at(f"sampling.{conditioner.field}"):
        return conditioner.request(asked, _examples(config, experiment))


def nothing_known(conditioner: Conditioner) -> Callable[[Array, Array], Raw]:
    """As `build_request`: the raw parts that mean "unknown"."""
    return jax.tree_util.Partial(_nothing_known, as_tree(conditioner))


def _nothing_known(conditioner: Conditioner, keys: Array, numbers: Array) -> Raw:
    return unknown(conditioner, len(numbers))


def _examples(config: ConfigDict, experiment: Experiment) -> Any:
    """The images of `sampling.images`; or those that go with the prompts of `sampling.world`; or
    the test examples."""
    if config.sampling.images is None:
        return _of_world(config) or examples_of(experiment.data)
    conditioner = experiment.conditioner
    beside = _others(conditioner) or "image" in conditioner.sizes
    if not (beside or retrieves(conditioner)):
        raise ConfigError(
            f"sampling.images={config.sampling.images}, and the conditioner {config.conditioner} "
            "reads none: a ControlNet does (sampling.adapters, or config.adapter), a network that "
            "edits by instruction, and one that retrieves"
        )
    pixels = experiment.codec.inner  # not the latents that a data set may hold
    frame = pixels.shape[-3:]  # of video too, whose conditioner takes an image for a first frame
    images, _ = read_images(config.sampling.images, frame, resize=True)
    return [{pixels.part: image} for image in coding.raw_of(as_tree(pixels), images)]


def _of_world(config: ConfigDict) -> list[Any]:
    """The examples that go with the prompts of `sampling.world`, if it has any."""
    if config.sampling.world is None:
        return []
    examples = _asked_of_world(config).examples
    check_examples("sampling.num_samples", examples, 1)
    return examples


def _asked_of_world(config: ConfigDict) -> Asked:
    """As many prompts of the first kind of `sampling.world` as there are samples."""
    world: World = build("evaluation.worlds", config.sampling.world)
    return world.prompts(world.kinds[0], config.sampling.num_samples)


def check_examples(field: str, examples: Sequence[Any], kinds: int) -> None:
    """Raises a ConfigError if there are more than a conditioner takes, since each of them goes with
    a prompt. field: how many there are of each of so many kinds."""
    if len(examples) > MOST_EXAMPLES:
        raise ConfigError(
            f"{field}={len(examples) // kinds}: at most {MOST_EXAMPLES // kinds} prompts of this "
            "world have an image each"
        )


def asked_for(config: ConfigDict, conditioner: Conditioner) -> tuple[Any, ...]:
    """What the samples are asked for in turn: `sampling.labels`, `sampling.prompts`, or as many
    prompts of the world `sampling.world` as there are samples; () if nothing is.

    Raises:
      ConfigError: there is no such world, or there are prompts beside it, or nothing reads prompts.
    """
    options = config.sampling
    if options.world is None:
        return tuple(options[conditioner.field])
    if options.prompts or conditioner.field != "prompts":
        raise ConfigError(
            f"sampling.world={options.world!r} makes the prompts of a model that reads text, in "
            "the place of sampling.prompts: set one of the two, or sampling.labels"
        )
    return tuple(_asked_of_world(config).texts)


def told(
    config: ConfigDict, conditioner: Conditioner, raw: Raw, numbers: Sequence[int]
) -> dict[str, np.ndarray]:
    """What the samples of these numbers were asked for, by raw parts, as `Conditioner.told`; but
    prompts as the user wrote them, and not as a tokenizer spells them."""
    found = conditioner.told(raw)
    wanted = asked_for(config, conditioner)
    if "prompts" in found and wanted:
        found["prompts"] = np.array([wanted[i % len(wanted)] for i in numbers])
    return found


def reads_conditions(config: ConfigDict, conditioner: Conditioner) -> bool:
    """Whether the network, or a ControlNet over it, reads any."""
    net = fields_of_net(config)
    own = any(net.get(field, 0) for field in CONDITION_FIELDS.values())
    return own or bool(_others(conditioner))


def _others(conditioner: Conditioner) -> set[str]:
    """The conditions that no field of a network is for: hints."""
    return set(conditioner.sizes) - {*CONDITION_FIELDS, "augment"}


def examples_of(data: Data) -> Source | tuple[()]:
    """The test examples; none where the data set is not there."""
    try:
        return data.test if len(data.test) else ()
    except DataError:
        return ()


def build_negative(
    config: ConfigDict, experiment: Experiment
) -> Callable[[Array, Array], Raw] | None:
    """As `build_request`, of `sampling.negative`: the conditions to lead away from, in the place of
    the one that says nothing. None where there are none.

    Raises:
      ConfigError: it asks for what there is not, or nothing leads away from it.
    """
    asked = tuple(config.sampling.negative)
    if not asked:
        return None
    if not guidance_of(config).drops:
        raise ConfigError(
            f"sampling.negative={asked} needs guidance that leads away from it: set "
            "sampling.guidance='classifier_free(weight=5.0)'"
        )
    with at("sampling.negative"):
        return experiment.conditioner.request(asked)
