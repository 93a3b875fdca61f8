"""Mode restore: the missing pixels of a data set, drawn by a model of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from score_sde import sampling
from score_sde.config import at, build
from score_sde.data import fingerprint, gather
from score_sde.data.encoded import SPLITS, as_json, description
from score_sde.errors import ConfigError, ConvergenceError
from score_sde.experiment import requests, samplers, stored_data, workdirs
from score_sde.experiment.build import Experiment, key_for
from score_sde.inverse import Observation
from score_sde.inverse.expectation import em
from score_sde.inverse.operators import masks
from score_sde.models.thresholding import static
from score_sde.processes.exact import Gaussian
from score_sde.runtime.resumable import Partial
from score_sde.types import Denoiser, PyTree

ONE_PROCESS = True

DenoiserOf = Callable[..., Denoiser]
"""`(params, cond) -> Denoiser`, a pytree."""


def restore(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Draws x_0 given its known pixels for every example of `data.name="corrupted"`, by
    `restore.method`: DIR/restored, a data set for `data.name="encoded"`, and DIR/restore.json.

    The model is that of the workdir or, with `restore.gaussian`, a Gaussian that is fitted to the
    known pixels of the training examples. To train on what it draws, and to draw again, is
    expectation maximisation (Rozet et al. 2024, arXiv:2405.13712). Known pixels stay as
    they are. What is there already is kept, and a run that was killed goes on.

    Raises:
      CheckpointError, ConfigError, DataError. ConvergenceError: a sample is not finite.
    """
    begin = time.perf_counter()
    workdir.mkdir(parents=True, exist_ok=True)
    experiment, params, step, denoiser_of, model = _model(config, workdir)
    about, folder = _about(config, experiment, model), workdir / "restored"
    place = Partial(workdir, "restored", about)
    made = description(folder) != about
    if made:
        stored_data.make(
            experiment,
            folder,
            about,
            {name: np.asarray(experiment.data.train[0][name]).dtype for name in about["features"]},
            place,
            _drawing(config, experiment, params, denoiser_of),
            batch_size=config.sampling.batch_size,
            doing="restoring",
            where="restore",
        )
    place.remove()
    result = {
        "step": step,
        "model": model,
        "folder": str(folder),
        **about["number"],
        "made": made,
        "seconds": time.perf_counter() - begin,
    }
    return workdirs.store(workdir / "restore.json", result)


def _model(
    config: ConfigDict, workdir: Path
) -> tuple[Experiment, PyTree, int, Callable[[], DenoiserOf], str]:
    """The experiment, the parameters and their step, what makes their denoiser, and a name that no
    other model has."""
    rounds = config.restore.gaussian
    if rounds < 0:
        raise ConfigError(f"restore.gaussian must be 0 or more rounds, not {rounds}")
    if rounds:
        experiment = workdirs.load(config)
        _check(experiment)
        name = f"a Gaussian after {rounds} rounds"
        return experiment, (), 0, lambda: _gaussian(config, experiment), name
    trained = workdirs.restore(config, workdir)
    experiment = trained.experiment
    _check(experiment)
    experiment.check_denoises()
    denoiser_of = lambda: samplers.build_denoiser(config, experiment)  # noqa: E731
    return experiment, trained.params, trained.step, denoiser_of, trained.digest


def _check(experiment: Experiment) -> None:
    """Whether there is something to restore, in x as it is."""
    data, codec = experiment.data, experiment.codec
    if "known" not in data.features:
        raise ConfigError(
            f"--mode restore needs to know what is missing, and {data.name} has no part 'known': "
            "take data.name='corrupted'"
        )
    experiment.check_reals()
    if codec.digests or codec.shape != codec.feature.shape:
        raise ConfigError("--mode restore is for x of pixels, not for latents or patches of them")


def _about(config: ConfigDict, experiment: Experiment, model: str) -> dict[str, Any]:
    """The description of what is made, and of all that it depends on."""
    data = experiment.data
    splits = {split: getattr(data, split) for split in SPLITS}
    options = workdirs.as_json(config)
    return {
        "data": data.name,
        "number": {split: len(source) for split, source in splits.items()},
        "sha256": {s: fingerprint(source, experiment.codec.part) for s, source in splits.items()},
        "made_by": {},
        "made_of": {},
        "features": as_json({k: v for k, v in data.features.items() if k != "known"}),
        "model": model,
        **{part: options[part] for part in ("sampling", "restore", "seed")},
    }


def _gaussian(config: ConfigDict, experiment: Experiment) -> DenoiserOf:
    """That of a Gaussian of the training examples."""
    codec, train = experiment.codec, experiment.data.train
    raw = gather(train, np.arange(len(train)))
    keys = jax.random.split(key_for(config, "restored Gaussian"), len(train))
    x = np.asarray(jax.vmap(codec.encode)(keys, raw[codec.part]), np.float64)
    known = np.broadcast_to(raw["known"].astype(bool), x.shape)
    with at("restore.gaussian"):
        y, known = (a.reshape(len(x), -1) for a in (x, known))
        law = em(y, known, config.restore.gaussian)
    parts = [jnp.asarray(part, jnp.float32) for part in law]
    sde = requests.sampling_sde(config)
    return jax.tree_util.Partial(lambda parts, *_: Gaussian(*parts).denoiser(sde), parts)


def _drawing(
    config: ConfigDict,
    experiment: Experiment,
    params: PyTree,
    make_denoiser: Callable[[], DenoiserOf],
) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """`(split, raw parts of a batch) -> the same, restored`. What is drawn depends on the number of
    an example, and not on its batch."""
    sde, root = requests.sampling_sde(config), key_for(config, "restored")
    times = requests.build_grid(config)(sde)
    solver = build("solvers", config.sampling.solver, sde)
    samplers.check_solver(config, experiment, solver, times)

    @jax.jit
    def draw(denoiser_of, codec, conditioner, params, key, raw):
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, raw["number"])
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
        seen = jax.vmap(codec.encode)(keys[:, 0], raw[codec.part])
        known = jnp.broadcast_to(raw["known"].astype(bool), seen.shape)
        operator = masks(known)
        y = operator.apply(seen)
        method = build("inverse", config.restore.method, sde, Observation(operator, y, 0.0))
        with jax.sharding.use_abstract_mesh(experiment.mesh.abstract_mesh):
            start = sde.prior_sample(keys[:, 1], seen.shape)
            x = jax.lax.with_sharding_constraint(start, experiment.sharded())
            given = method.denoiser(denoiser_of(params, conditioner.encode(raw)))
            # as mode edit does: where Cov of a network is far off, an estimate given y is too
            denoiser = static(*(codec.bounds or (-math.inf, math.inf)))(given)
            options = {"denoise": config.sampling.denoise}
            x = sampling.sample(keys[:, 2], method.solver(solver), denoiser, x, times, **options).x
        x = jnp.where(known, seen, x)
        return codec.quantize(codec.decode(x)), jnp.all(jnp.isfinite(x))

    frozen = make_denoiser(), experiment.codec, experiment.conditioner, params

    def of_batch(split, raw):
        key = jax.random.fold_in(root, SPLITS.index(split))
        with at("restore.method"):
            image, finite = draw(*frozen, key, raw)
        if not finite:
            raise ConvergenceError(
                f"a restored example is not finite (restore.method={config.restore.method}): take "
                "more sampling.steps, or fewer iterations"
            )
        return {**raw, experiment.codec.part: image}

    return of_batch
