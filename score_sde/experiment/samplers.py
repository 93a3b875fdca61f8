"""From a config to samplers: processes, guided denoisers, labels, marks, and what draws images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from score_sde import sampling
from score_sde.conditioning import conditions
from score_sde.config import at, build
from score_sde.data import Pixels
from score_sde.editing.watermark import Watermark, mark, tree_ring
from score_sde.errors import ConfigError
from score_sde.evaluation import solver_error
from score_sde.experiment.build import Experiment, check_denoises, is_classifier, load
from score_sde.experiment.workdirs import as_json, restore_params, stored_config
from score_sde.models.guidance import Guidance, Guide
from score_sde.processes import SDE
from score_sde.sampling import parallel
from score_sde.types import Cond, Denoiser, Grid, Key, PyTree, Solver


def sampling_sde(config: ConfigDict) -> SDE:
    """The process as far as sampling goes: to `sampling.t_min`, if that is set."""
    sde, t_min = build("processes", config.sde), config.sampling.t_min
    with at("sampling.t_min"):
        return sde if t_min is None else dataclasses.replace(sde, t_min=t_min)


def build_grid(config: ConfigDict) -> Callable[[SDE], Grid]:
    """The times of sampling, for a process."""
    if config.sampling.steps < 1:
        raise ConfigError(f"sampling.steps must be at least 1, not {config.sampling.steps}")
    return lambda sde: build("sampling.grids", config.sampling.grid, sde, config.sampling.steps)


def to_uint8(config: ConfigDict, pixels: Pixels) -> Callable[[Array], Array]:
    """What a sampler gives to images 0..255."""
    if config.sampling.truncate:
        return pixels.truncate
    return lambda x: pixels.to_uint8(pixels.decode(x, dequantized=config.data.dequantize))


class Drawn(NamedTuple):
    """x uint8 [b, h, w, c], 0..255; finite bool [b], whether the sample was so before its numbers
    became integers; label int [b], -1 where no class was asked for; nfe and depth as of
    `sampling.Sample`."""

    x: Array
    finite: Array
    label: Array
    nfe: Array
    depth: Array


def build_sampler(
    config: ConfigDict, experiment: Experiment, batch_size: int
) -> Callable[..., Drawn]:
    """A compiled `(params, key, first=0) -> Drawn`, which draws the samples of the numbers first,
    first + 1, ..., batch_size of them. The noise and the label of a sample depend on its number."""
    options = config.sampling
    sde = sampling_sde(config)
    denoiser_of = build_denoiser(config, experiment)
    labels_of = build_labels(config, experiment)
    times = build_grid(config)(sde)
    solver = build("solvers", options.solver, sde)
    shape = (batch_size, *experiment.data.image_shape)
    run = sampling.sample
    if options.window is not None:
        run = functools.partial(parallel.sample, window=options.window, tolerance=options.tolerance)

    as_uint8 = to_uint8(config, experiment.pixels)
    marked = build_mark(config, experiment, solver, times)

    @jax.jit
    def draw(denoiser_of, params, key, first):
        numbers = first + jnp.arange(batch_size, dtype=jnp.int32)
        of_number = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(of_number)
        x = marked(sde.prior_sample(keys[:, 0], shape, np.float32))
        x = jax.lax.with_sharding_constraint(x, experiment.sharded())
        label = labels_of(keys[:, 1], numbers)
        denoiser = denoiser_of(params, {"label": label})
        result = run(keys[:, 2], solver, denoiser, x, times, denoise=options.denoise)
        finite = jnp.isfinite(result.x).all(axis=(1, 2, 3))
        return Drawn(as_uint8(result.x), finite, label, result.nfe, result.depth)

    return lambda params, key, first=0: draw(denoiser_of, params, key, jnp.int32(first))


def build_labels(config: ConfigDict, experiment: Experiment) -> Callable[[Key, Array], Array]:
    """`(keys [b], numbers int [b]) -> labels int [b]` of the samples of these numbers:
    `sampling.labels` in turn, or any class at random; -1 where no network looks at it.

    Raises:
      ConfigError: one of `sampling.labels` is no class, or nothing takes labels.
    """
    labels, classes = tuple(config.sampling.labels), experiment.data.num_classes
    if not (config.net.get("num_classes", 0) or _guidance(config).is_of_labels):
        if labels:
            raise ConfigError(
                f"sampling.labels={labels}, but the network has no classes (net.num_classes is 0) "
                "and no classifier guides it"
            )
        return lambda keys, numbers: jnp.full_like(numbers, -1)
    with at("sampling.labels"):
        conditions.check_labels(labels, classes)
    if labels:
        return lambda keys, numbers: jnp.asarray(labels, jnp.int32)[numbers % len(labels)]
    return lambda keys, numbers: jax.vmap(lambda key: jax.random.randint(key, (), 0, classes))(keys)


def build_denoiser(
    config: ConfigDict, experiment: Experiment
) -> Callable[[PyTree, Cond], Denoiser]:
    """`(params, cond) -> Denoiser`: the model's, under `sampling.guidance` and then within
    `sampling.threshold`.

    It is a pytree that holds the parameters of the guide: given to a compiled program as an
    argument, as `build_sampler` does, they are not constants of it.

    Raises:
      ConfigError: guidance that the network is not made for, or a guide of other images or of
        another process. CheckpointError: there is no guide. DataError.
    """
    check_denoises(config)
    guidance = _guidance(config)
    pixels = experiment.pixels
    change = build(
        "models.thresholding",
        config.sampling.threshold or "none",
        -1.0 if pixels.centered else 0.0,
        1.0,
    )
    if guidance.drops and not config.net.get("num_classes", 0):
        raise ConfigError(
            f"sampling.guidance={config.sampling.guidance!r} needs a network with classes, and "
            "net.num_classes is 0: take classifier or autoguidance, or train one with classes"
        )
    if guidance.drops and not config.objective.drop_cond:
        raise ConfigError(
            f"sampling.guidance={config.sampling.guidance!r} needs a network that has learnt to do "
            "without its class, and objective.drop_cond is 0: train with 0.1"
        )
    of_guide, guide_params = lambda params, cond: None, ()
    if guidance.guide is not None:
        of_guide, guide_params = _load_guide(config, experiment, guidance.guide)

    def denoiser(guide_params, params, cond):
        of_cond = functools.partial(experiment.model.denoiser, params)
        guided = guidance.guided(of_cond, functools.partial(of_guide, guide_params))
        return change(guided(cond))

    return jax.tree_util.Partial(denoiser, guide_params)


def _guidance(config: ConfigDict) -> Guidance:
    sde = sampling_sde(config)
    return build(
        "models.guidance", config.sampling.guidance or "unguided", sde, build_grid(config)(sde)
    )


def _load_guide(
    config: ConfigDict, experiment: Experiment, guide: Guide
) -> tuple[Callable[[PyTree, Cond], Any], PyTree]:
    """`(params, cond) -> denoiser or log-probability` of another workdir, and its params."""
    workdir = Path(guide.workdir)
    theirs = stored_config(workdir, config)
    if guide.ema_length is not None:
        theirs.sampling.ema_length = guide.ema_length
    name, wanted = theirs.objective.name, guide.objective
    if name != wanted:
        raise ConfigError(
            f"sampling.guidance: {workdir} was trained with objective.name={name!r}, and this kind "
            f"of guide is of {wanted!r}"
        )
    same = as_json(theirs)["data"] == as_json(config)["data"]
    other = load(theirs, experiment.data if same else None)
    for what, ours, found in (
        ("sde", experiment.model.sde, other.model.sde),
        ("images of shape", experiment.data.image_shape, other.data.image_shape),
        ("classes", experiment.data.num_classes, other.data.num_classes),
        ("data.centered", experiment.pixels.centered, other.pixels.centered),
    ):
        if ours != found:
            raise ConfigError(
                f"sampling.guidance: {workdir} has {what} {found}, and the network that it is to "
                f"guide {ours}"
            )
    params, _ = restore_params(theirs, other, workdir, guide.step)

    def log_prob(params, cond):
        return lambda x_t, t: conditions.log_prob(
            other.model.network(params, x_t, t), cond["label"]
        )

    return log_prob if is_classifier(theirs) else other.model.denoiser, params


def build_watermark(config: ConfigDict, experiment: Experiment) -> Watermark:
    """The key of `config.watermark`.

    Raises:
      ConfigError: the ring does not fit the images.
    """
    options = config.watermark
    with at("watermark"):
        return tree_ring(
            experiment.data.image_shape, options.key, options.inner, options.outer, options.level
        )


def build_mark(
    config: ConfigDict, experiment: Experiment, solver: Solver, times: Grid
) -> Callable[[Array], Array]:
    """What puts the watermark, if there is a key, into the noise that sampling starts with.

    Raises:
      ConfigError: the solver draws noise of its own, from which it cannot be read again.
    """
    if config.watermark.key is None:
        return lambda x: x
    if solver_error.is_stochastic(solver, times):
        raise ConfigError(
            f"watermark.key needs a sampler without noise of its own, such as probability_flow, "
            f"dpmpp or ddim, not sampling.solver={config.sampling.solver}"
        )
    return functools.partial(mark, build_watermark(config, experiment))
