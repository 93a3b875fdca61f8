"""From a config to guided denoisers and samplers."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool
from ml_collections import ConfigDict

from score_sde import sampling
from score_sde.conditioning.conditioner import null, unknown
from score_sde.config import at, build
from score_sde.editing.watermark import Watermark, mark, tree_ring
from score_sde.errors import ConfigError, ConvergenceError
from score_sde.evaluation import solver_error
from score_sde.experiment.build import CONDITION_FIELDS, Experiment
from score_sde.experiment.workdirs import as_json, restore_as, stored_config
from score_sde.models.guidance import Guidance, Guide
from score_sde.processes import SDE
from score_sde.sampling import parallel
from score_sde.types import Cond, Denoiser, Grid, Moments, PyTree, Solver, as_pytree


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


class Drawn(NamedTuple):
    """A batch of samples.

    shown: [b, ...], as `Codec.show` gives it.
    finite: bool [b], whether x was finite before it was shown.
    raw: the raw parts that were asked for, such as {"label": int [b]}; -1 asks for no class.
    nfe, depth: as in `sampling.Sample`.
    """

    shown: Array
    finite: Array
    raw: dict[str, Array]
    nfe: Array
    depth: Array


def build_sampler(
    config: ConfigDict, experiment: Experiment, batch_size: int
) -> Callable[..., Drawn]:
    """A compiled `(params, key, first=0, noise=None) -> Drawn`, which draws the samples of the
    numbers first, first + 1, ..., batch_size of them. The noise and the condition of a sample
    depend on its number. noise [batch_size, ...]: x at t_max, in the place of a draw."""
    options, codec = config.sampling, experiment.codec
    sde = sampling_sde(config)
    denoiser_of = build_denoiser(config, experiment)
    wanted = build_request(config, experiment)
    times = build_grid(config)(sde)
    solver = build("solvers", options.solver, sde)
    check_variance(config, experiment, solver)
    run = sampling.sample
    if options.window is not None:
        run = functools.partial(parallel.sample, window=options.window, tolerance=options.tolerance)
    marked = build_mark(config, experiment, solver, times)

    @jax.jit
    def draw(denoiser_of, params, key, first, noise):
        numbers = first + jnp.arange(batch_size, dtype=jnp.int32)
        of_number = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(of_number)
        if noise is None:
            noise = sde.prior_sample(keys[:, 0], (batch_size, *codec.shape), np.float32)
        x = jax.lax.with_sharding_constraint(marked(noise), experiment.sharded())
        raw = wanted(keys[:, 1], numbers)
        denoiser = denoiser_of(params, experiment.conditioner.encode(raw))
        result = run(keys[:, 2], solver, denoiser, x, times, denoise=options.denoise)
        finite = jnp.isfinite(result.x).reshape(batch_size, -1).all(axis=1)
        shown = codec.show(codec.decode(result.x))
        return Drawn(shown, finite, raw, result.nfe, result.depth)

    def sampler(params, key, first=0, noise=None):
        with jax.sharding.use_abstract_mesh(experiment.mesh.abstract_mesh):
            return draw(denoiser_of, params, key, jnp.int32(first), noise)

    return sampler


def check_finite(config: ConfigDict, finite: Bool[np.ndarray, " n"]) -> None:
    """Raises a ConvergenceError unless all samples of a batch are finite."""
    if failed := int(np.sum(~finite)):
        sampling = config.sampling
        raise ConvergenceError(
            f"{failed} of {len(finite)} samples are not finite (sampling.solver={sampling.solver}, "
            f"sampling.steps={sampling.steps}): take more steps or another solver; if that changes "
            "nothing, the weights or the sde are not finite"
        )


def build_request(config: ConfigDict, experiment: Experiment) -> Callable[[Array, Array], Raw]:
    """`(keys [b], numbers int [b]) -> raw parts` of the samples of these numbers: what
    `sampling.labels` asks for; nothing where no network looks at it.

    Raises:
      ConfigError: `sampling.labels` asks for what there is not, or nothing takes conditions.
    """
    asked, conditioner = tuple(config.sampling.labels), experiment.conditioner
    read = any(config.net.get(field, 0) for field in CONDITION_FIELDS.values())
    if not (read or _guidance(config).is_of_labels):
        if asked:
            raise ConfigError(
                f"sampling.labels={asked}, but the network has no classes (net.num_classes is 0) "
                "and no classifier guides it"
            )
        return lambda keys, numbers: unknown(conditioner, len(numbers))
    with at("sampling.labels"):
        return conditioner.request(asked)


def build_denoiser(
    config: ConfigDict, experiment: Experiment
) -> Callable[[PyTree, Cond], Denoiser]:
    """`(params, cond) -> Denoiser`: the model's, under `sampling.guidance` and then within
    `sampling.threshold`.

    It is a pytree of all frozen parameters, such as those of the guide. Where it is an argument of
    a compiled program, as in `build_sampler`, they are not constants of that.

    Raises:
      ConfigError: guidance that the network is not made for, or a guide of other data or of another
        process. CheckpointError: there is no guide. DataError.
    """
    experiment.check_denoises()
    guidance = _guidance(config)
    bounds = experiment.codec.bounds or (-math.inf, math.inf)
    change = build("models.thresholding", config.sampling.threshold or "none", *bounds)
    if guidance.drops and not any(config.net.get(name, 0) for name in CONDITION_FIELDS.values()):
        raise ConfigError(
            f"sampling.guidance={config.sampling.guidance!r} needs a network with classes, and "
            "net.num_classes is 0: take classifier or autoguidance, or train one with classes"
        )
    if guidance.drops and not config.objective.get("drop_cond", 0):
        raise ConfigError(
            f"sampling.guidance={config.sampling.guidance!r} needs a network that has learnt to do "
            "without its class, and objective.drop_cond is 0: train with 0.1"
        )
    of_guide = jax.tree_util.Partial(lambda cond: None)
    if guidance.guide is not None:
        of_guide = _load_guide(config, experiment, guidance.guide)

    def denoiser(result, of_guide, params, cond):
        guided = guidance.guided(functools.partial(result, params), of_guide)
        mean = change(guided(cond, null(experiment.conditioner, cond)))
        return _with_variance(mean, result(params, cond))

    result = as_pytree(experiment.objective.result)
    return jax.tree_util.Partial(denoiser, result, of_guide)


def check_variance(config: ConfigDict, experiment: Experiment, solver: Solver) -> None:
    """Raises a ConfigError of a solver that asks for a variance which nobody has learnt."""
    if solver.variance and not experiment.objective.learns_variance:
        raise ConfigError(
            f"sampling.solver={config.sampling.solver} needs a network that has learnt the "
            f"variance, by objective.name='hybrid' and not {config.objective.name!r}: take the "
            "variance 'small' or 'large'"
        )


def _with_variance(mean: Denoiser, learnt: Denoiser | Moments) -> Denoiser | Moments:
    """The denoiser `mean`, with the variance that the unguided network states, if it states one."""

    def moments(x_t, t, *s):
        x_0 = mean(x_t, t)
        if not s:
            return x_0
        return jnp.concatenate([x_0, learnt(x_t, t, *s)[..., x_0.shape[-1] :]], axis=-1)

    return moments


def _guidance(config: ConfigDict) -> Guidance:
    sde = sampling_sde(config)
    return build(
        "models.guidance", config.sampling.guidance or "unguided", sde, build_grid(config)(sde)
    )


def _load_guide(config: ConfigDict, experiment: Experiment, guide: Guide) -> Callable[[Cond], Any]:
    """`cond -> denoiser or log-probability` of another workdir; a pytree of its parameters."""
    workdir = Path(guide.workdir)
    theirs = stored_config(workdir, config.mesh)
    if guide.ema_length is not None:
        theirs.sampling.ema_length = guide.ema_length
    same = as_json(theirs)["data"] == as_json(config)["data"]
    trained = restore_as(theirs, workdir, guide.step, experiment.data if same else None)
    other = trained.experiment
    if other.objective.denoises != guide.denoises:
        raise ConfigError(
            f"sampling.guidance: {workdir} was trained with objective.name="
            f"{theirs.objective.name!r}, and this kind of guide is a "
            + ("denoiser" if guide.denoises else "classifier")
        )
    for what, ours, found in (
        ("sde", experiment.model.sde, other.model.sde),
        ("x of shape", experiment.codec.shape, other.codec.shape),
        ("x within", experiment.codec.bounds, other.codec.bounds),
        ("conditions", experiment.conditioner, other.conditioner),
    ):
        if ours != found:
            raise ConfigError(
                f"sampling.guidance: {workdir} has {what} {found}, and the network that it is to "
                f"guide {ours}"
            )
    result = as_pytree(other.objective.result)
    return jax.tree_util.Partial(lambda result, *args: result(*args), result, trained.params)


def build_watermark(config: ConfigDict, experiment: Experiment) -> Watermark:
    """The watermark that `config.watermark` describes.

    Raises:
      ConfigError: the ring does not fit into x.
    """
    options = config.watermark
    with at("watermark"):
        return tree_ring(
            experiment.codec.shape, options.key, options.inner, options.outer, options.p_value
        )


def build_mark(
    config: ConfigDict, experiment: Experiment, solver: Solver, times: Grid
) -> Callable[[Array], Array]:
    """A function that puts the watermark into the noise at t_max; without a key it changes nothing.

    Raises:
      ConfigError: the solver draws noise of its own, so the watermark could not be read again.
    """
    if config.watermark.key is None:
        return lambda x: x
    if solver_error.is_stochastic(solver, times):
        raise ConfigError(
            f"watermark.key needs a sampler without noise of its own, such as probability_flow, "
            f"dpmpp or ddim, not sampling.solver={config.sampling.solver}"
        )
    return functools.partial(mark, build_watermark(config, experiment))
