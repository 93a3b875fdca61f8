"""From a config to guided denoisers and samplers."""

from __future__ import annotations

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
from score_sde.codecs.codec import Codec
from score_sde.conditioning.conditioner import Conditioner, Raw, null
from score_sde.conditioning.starts import START
from score_sde.config import at, build
from score_sde.editing.watermark import Watermark, mark, tree_ring
from score_sde.errors import ConfigError, ConvergenceError
from score_sde.evaluation import solver_error
from score_sde.experiment.build import Experiment
from score_sde.experiment.requests import (
    build_grid,
    build_negative,
    build_request,
    guidance_of,
    sampling_sde,
)
from score_sde.experiment.sampling_checks import check_guidance
from score_sde.experiment.sampling_checks import check_solver as check_solver
from score_sde.experiment.workdirs import as_json, restore_as, stored_config
from score_sde.models.guidance import Guide
from score_sde.processes import MASK
from score_sde.sampling import parallel
from score_sde.types import Cond, Denoiser, Grid, Keys, Moments, Solver, as_pytree


class Ends(NamedTuple):
    """A batch of paths of sampling.

    start, x: [b, ...], where they begin, at t_max, and end.
    raw: the raw parts that were asked for, such as {"label": int [b]}; -1 asks for no class.
    nfe, depth: as in `sampling.Sample`.
    """

    start: Array
    x: Array
    raw: Raw
    nfe: Array
    depth: Array


class Drawn(NamedTuple):
    """A batch of samples.

    shown: [b, ...], as `Codec.show` gives it.
    x: [b, ...], the same in the network's space.
    finite: bool [b], whether x was finite before it was shown.
    raw: the raw parts that were asked for, such as {"label": int [b]}; -1 asks for no class.
    nfe, depth: as in `sampling.Sample`.
    """

    shown: Array
    x: Array
    finite: Array
    raw: Raw
    nfe: Array
    depth: Array


def build_sampler(
    config: ConfigDict, experiment: Experiment, batch_size: int
) -> Callable[..., Drawn]:
    """A compiled `(params, key, first=0, noise=None) -> Drawn`, which draws the samples of the
    numbers first, first + 1, ..., batch_size of them. The noise and the condition of a sample
    depend on its number. noise [batch_size, ...]: x at t_max, in the place of a draw. first may be
    int [batch_size]: what each number is more than its place.

    It also takes `requests`, those of another config (`build_requests`), and `change`, a
    `Denoiser -> Denoiser` that is a pytree; both without another compilation where the arrays in
    them have the same shapes."""

    def drawn(codec: Codec, ends: Ends) -> Drawn:
        # a token that was drawn of no law is below all others
        x = ends.x
        right = x >= MASK if jnp.issubdtype(x.dtype, jnp.integer) else jnp.isfinite(x)
        finite = right.reshape(batch_size, -1).all(axis=1)
        shown = codec.show(codec.decode(ends.x))
        return Drawn(shown, ends.x, finite, ends.raw, ends.nfe, ends.depth)

    told = jax.tree_util.Partial(drawn, experiment.codec)
    return build_paths(config, experiment, batch_size, told)


def build_paths(
    config: ConfigDict, experiment: Experiment, batch_size: int, told: Callable[[Ends], Any]
) -> Callable[..., Any]:
    """As `build_sampler`, which gives what `told` makes of the ends of the paths. `told` is a
    pytree of frozen parameters, if it needs any."""
    options, shape = config.sampling, experiment.codec.shape
    sde = sampling_sde(config)
    denoiser_of = build_denoiser(config, experiment)
    requests = build_requests(config, experiment)
    times = build_grid(config)(sde)
    solver = build("solvers", options.solver, sde)
    check_solver(config, experiment, solver, times)
    noise_of = build("sampling.paths", options.noise, sde)
    run = sampling.sample
    if options.window is not None:
        run = functools.partial(parallel.sample, window=options.window, tolerance=options.tolerance)
    marked, p = build_mark(config, experiment, solver, times), solver.particles

    @jax.jit
    def draw(
        denoiser_of, conditioner, told, params, key, first=0, noise=None, *, requests, change=None
    ):
        wanted, unwanted = requests
        numbers = first + jnp.arange(batch_size, dtype=jnp.int32)
        of_number = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(of_number)
        start, walk = (_of_particles(keys[:, i], p) for i in (0, 2))
        raw = wanted(keys[:, 1], numbers)
        cond = conditioner.encode(raw)
        if noise is None:  # conditions may say where a sample begins
            noise = cond.get(START)
        if noise is None:
            noise = sde.prior_sample(start, (batch_size * p, *shape))
        elif p > 1:
            noise = jnp.repeat(noise, p, axis=0)
        with jax.sharding.use_abstract_mesh(experiment.mesh.abstract_mesh):
            x = jax.lax.with_sharding_constraint(marked(noise), experiment.sharded())
            other = unwanted and null(conditioner, cond, unwanted(keys[:, 1], numbers))
            if p > 1:
                cond, other = jax.tree.map(lambda a: jnp.repeat(a, p, axis=0), (cond, other))
            denoiser = denoiser_of(params, cond, other)
            denoiser = denoiser if change is None else change(denoiser)
            result = run(noise_of(walk), solver, denoiser, x, times, denoise=options.denoise)
            # each particle of a sample is one: the first is taken
            return told(Ends(x[::p], result.x[::p], raw, result.nfe, result.depth))

    # frozen parameters are arguments of the program, and not constants of it
    frozen = (denoiser_of, experiment.conditioner, as_pytree(told))
    return functools.partial(draw, *frozen, requests=requests)


def build_requests(
    config: ConfigDict, experiment: Experiment
) -> tuple[Callable[..., Raw], Callable[..., Raw] | None]:
    """What samples are asked for, and what guidance leads them away from: `build_request` and
    `build_negative`, as pytrees, for they may hold the captions of examples."""
    unwanted = build_negative(config, experiment)
    return as_pytree(build_request(config, experiment)), unwanted and as_pytree(unwanted)


def _of_particles(keys: Keys, p: int) -> Keys:
    """A key for each of the p particles of a sample, from that of the sample."""
    if p == 1:
        return keys
    return jax.vmap(lambda key: jax.random.split(key, p))(keys).reshape(-1)


def check_finite(config: ConfigDict, finite: Bool[np.ndarray, " n"]) -> None:
    """Raises a ConvergenceError unless all samples of a batch are finite."""
    if failed := int(np.sum(~finite)):
        sampling = config.sampling
        raise ConvergenceError(
            f"{failed} of {len(finite)} samples are not finite (sampling.solver={sampling.solver}, "
            f"sampling.steps={sampling.steps}): take more steps or another solver; if that changes "
            "nothing, the weights or the sde are not finite"
        )


def build_denoiser(config: ConfigDict, experiment: Experiment) -> Callable[..., Denoiser]:
    """`(params, cond, other=None) -> Denoiser`: the model's, under `sampling.guidance` and then
    within `sampling.threshold`. other: the condition that guidance leads away from; None for those
    of `sampling.negative`, in turn, or else the one that says nothing.

    It is a pytree of all frozen parameters, such as those of the guide. Where it is an argument of
    a compiled program, as in `build_sampler`, they are not constants of that.

    Raises:
      ConfigError: guidance that the network is not made for, or a guide of other data or of another
        process. CheckpointError: there is no guide. DataError.
    """
    experiment.check_samples()
    guidance = guidance_of(config)
    check_guidance(config, experiment, guidance)
    bounds = experiment.codec.bounds or (-math.inf, math.inf)
    change = build("models.thresholding", config.sampling.threshold or "none", *bounds)
    unwanted = build_negative(config, experiment)
    weighted = build("solvers", config.sampling.solver, sampling_sde(config)).asks == "tilt"
    of_guide = jax.tree_util.Partial(lambda cond: None)
    if guidance.guide is not None:
        of_guide = _load_guide(config, experiment, guidance.guide)

    def denoiser(result, of_guide, conditioner, away, params, cond, other=None):
        of_cond = functools.partial(result, params)
        both = cond, away(conditioner, cond) if other is None else other
        if weighted and guidance.tilted is not None:
            return guidance.tilted(of_cond, of_guide)(*both)
        return of_kind(change(guidance.guided(of_cond, of_guide)(*both)), of_cond(cond))

    of_kind = _variance_of(config, experiment)

    result = as_pytree(experiment.objective.result)
    away = null if unwanted is None else jax.tree_util.Partial(_negative, as_pytree(unwanted))
    return jax.tree_util.Partial(
        denoiser, result, of_guide, experiment.conditioner, as_pytree(away)
    )


def _negative(unwanted: Callable[..., Raw], conditioner: Conditioner, cond: Cond) -> Cond:
    """The unwanted conditions, in turn, for as many examples as `cond` has."""
    numbers = jnp.arange(len(next(iter(cond.values()))), dtype=jnp.int32)
    return null(conditioner, cond, unwanted(None, numbers))  # nothing is drawn


def _variance_of(config: ConfigDict, experiment: Experiment) -> Callable[..., Denoiser | Moments]:
    """`(guided denoiser, what the network states) -> what a solver asks`: `sampling.variance`, or
    else the variance, or the mean of the other end, that the network has learnt, if it has.
    (Guidance changes means alone.)"""
    if config.sampling.variance is not None:
        experiment.check_reals()
        implied = build("models.covariance", config.sampling.variance, experiment.model.sde)
        return lambda mean, learnt: implied(mean)
    two = experiment.objective.gives in ("moments", "ends")
    return _with_second if two else lambda mean, learnt: mean


def _with_second(mean: Denoiser, learnt: Denoiser | Moments) -> Denoiser | Moments:
    """The denoiser `mean`, with what the unguided network states beside it."""

    def both(x_t, t, *s):
        x_0 = mean(x_t, t)
        if not s:
            return x_0
        return jnp.concatenate([x_0, learnt(x_t, t, *s)[..., x_0.shape[-1] :]], axis=-1)

    return both


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
    check_alike(experiment, other, f"sampling.guidance: {workdir}")
    result = as_pytree(other.objective.result)
    return jax.tree_util.Partial(lambda result, *args: result(*args), result, trained.params)


def check_alike(ours: Experiment, theirs: Experiment, where: str) -> None:
    """Raises a ConfigError unless two networks have the same process, x and conditions, so that one
    can guide or teach the other.

    where: the field and the workdir of theirs.
    """
    for what, own, found in (
        ("sde", ours.model.sde, theirs.model.sde),
        ("x of shape", ours.codec.shape, theirs.codec.shape),
        ("x within", ours.codec.bounds, theirs.codec.bounds),
        ("x of the networks", dict(ours.codec.digests), dict(theirs.codec.digests)),
        ("conditions", ours.conditioner, theirs.conditioner),
    ):
        if own != found:
            raise ConfigError(f"{where} has {what} {found}, and this config has {own}")


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
