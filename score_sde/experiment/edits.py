"""Edits of images as a config describes them: the edit, the images, the compiled program."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from score_sde.conditioning.conditioner import null, unknown
from score_sde.config import at, build, parse
from score_sde.data import Arrays, gather, read_images
from score_sde.editing import tasks
from score_sde.editing.tasks import Edit, Edited
from score_sde.errors import ConfigError, ConvergenceError
from score_sde.experiment import coding, requests, samplers
from score_sde.experiment.build import Experiment, key_for
from score_sde.media.medium import Medium
from score_sde.runtime import hosts
from score_sde.runtime.atomic import replacing
from score_sde.runtime.mesh import round_to_devices
from score_sde.runtime.progress import progress
from score_sde.types import PyTree, as_pytree


class Results(NamedTuple):
    """names: of the n images. labels: of the k results of each. source [n, ...], seen [n, ...],
    results [n, k, ...]: as they are shown. x [n, k, ...]: the results in the network's space.
    errors [n, k]: by name. nfe: network evaluations a result."""

    names: list[str]
    labels: tuple[str, ...]
    source: np.ndarray
    seen: dict[str, np.ndarray]
    results: np.ndarray
    x: np.ndarray
    errors: dict[str, np.ndarray]
    nfe: float


def check(config: ConfigDict) -> None:
    """Raises a ConfigError of numbers of `config.edit` that make no sense."""
    options = config.edit
    for name in ("num_images", "completions", "particles"):
        if options[name] < 1:
            raise ConfigError(f"edit.{name} must be at least 1, not {options[name]}")
    filters = parse(options.method)[0].split(".")[-1] == "twisted"
    if filters != (options.particles > 1):
        raise ConfigError(
            f"edit.particles={options.particles} with edit.method={options.method}: twisted takes "
            "2 or more (64, say), the others 1"
        )


def edited(
    config: ConfigDict,
    experiment: Experiment,
    params: PyTree,
    program_of: Callable[..., Callable] | None = None,
) -> Results:
    """Does `edit.task` on `edit.num_images` images.

    program_of: as `build_program`, which it is if there is none.

    Raises:
      ConfigError, DataError. ConvergenceError: a result is not finite.
    """
    check(config)
    experiment.check_reals()
    plan, codec = build_plan(config, experiment), experiment.codec
    raw, names = sources(config, experiment, plan)
    program = (program_of or build_program)(config, experiment, plan)
    x, nfe, seen, errors = _run(config, experiment, params, plan, raw, program)
    shown = coding.shown(codec, x.reshape(-1, *codec.shape))
    return Results(
        names,
        plan.labels,
        coding.shown_raw(codec, raw[codec.part]),
        {name: coding.shown(codec, a) for name, a in seen.items()},
        shown.reshape(*x.shape[:2], *shown.shape[1:]),
        x,
        errors,
        nfe,
    )


def write(workdir: Path, medium: Medium, done: Results) -> None:
    """DIR/edit.npz, DIR/edit.png and DIR/edit/, as mode edit has them."""
    with replacing(workdir / "edit.npz") as file:
        arrays: dict[str, Any] = done.seen
        np.savez_compressed(file, source=done.source, results=done.results, x=done.x, **arrays)
    _save_each(workdir / "edit", medium, done.names, done.labels, done.results)
    columns = [done.source, *done.seen.values(), *np.swapaxes(done.results, 0, 1)]
    rows = np.stack(columns, axis=1)[:16]
    medium.rows(workdir / "edit.png", rows, ["image", *done.seen, *done.labels])


def build_plan(config: ConfigDict, experiment: Experiment) -> Edit:
    """The edit by its name, after a look at all that it samples with."""
    options, sampling, codec = config.edit, config.sampling, experiment.codec
    sde = requests.sampling_sde(config)
    solver = build("solvers", sampling.solver, sde)
    if solver.asks != "denoiser":
        raise ConfigError(
            f"sampling.solver={sampling.solver} asks for {solver.asks}, and mode edit changes a "
            "denoiser alone: take ddim, or ancestral with the variance 'small' or 'large'"
        )
    tools = tasks.Tools(
        shape=codec.shape,
        sde=sde,
        solver=solver,
        grid=requests.build_grid(config),
        method=lambda observation: build("inverse", options.method, sde, observation),
        noise=options.noise,
        completions=options.completions,
        particles=options.particles,
        denoise=sampling.denoise,
        bounds=codec.bounds or (-math.inf, math.inf),
        image_shape=None if codec.inner is codec else codec.inner.shape,
    )
    return build("editing.tasks", options.task, tools)


def sources(
    config: ConfigDict, experiment: Experiment, plan: Edit
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Raw examples, with what the edit tells of each, and a name for each.

    Conditions are those that `sampling.labels` asks for, or else those of the data set; of other
    images nothing is known.
    """
    options, codec, conditioner = config.edit, experiment.codec, experiment.conditioner
    if options.images is None:
        test = experiment.data.test
        raw = gather(test, np.arange(min(options.num_images, len(test))))
        names = [f"test_{i:04d}" for i in range(len(raw[codec.part]))]
    else:
        images, names = read_images(options.images, codec.inner.shape, options.resize)
        images, names = images[: options.num_images], names[: options.num_images]
        raw = {codec.part: coding.raw_of(codec, images), **unknown(conditioner, len(names))}
    if len(names) < plan.sources:
        raise ConfigError(
            f"{options.task} takes {plan.sources} images at a time: there are {len(names)}"
        )
    read = {*conditioner.features, *conditioner.nothing}
    if config.sampling[conditioner.field]:
        numbers = jnp.arange(len(names), dtype=jnp.int32)
        asked = requests.build_request(config, experiment)(key_for(config, "edit"), numbers)
        others = {name: part for name, part in raw.items() if name not in read}
        raw = {**others, **asked, codec.part: raw[codec.part]}
    for name, part in plan.parts.items():
        raw[name] = np.broadcast_to(part, (len(names), *part.shape))
    return jax.tree.map(np.asarray, raw), names


def build_program(config: ConfigDict, experiment: Experiment, plan: Edit) -> Callable[..., Edited]:
    """A compiled `(params, key, batch, change=None) -> Edited`. change: a `Denoiser -> Denoiser`
    that is a pytree."""
    codec = experiment.codec
    denoiser_of = samplers.build_denoiser(config, experiment)
    unwanted = requests.build_negative(config, experiment)
    frozen = (denoiser_of, codec, experiment.conditioner, unwanted and as_pytree(unwanted))

    @jax.jit
    def run(denoiser_of, codec, conditioner, unwanted, params, key, batch, change=None):
        key_prepare, key_run = jax.random.split(key)
        keys = jax.random.split(key_prepare, plan.sources)
        sources = [codec.encode(keys[j], batch[f"source_{j}"]) for j in range(plan.sources)]

        def denoisers(repeats):
            cond = conditioner.encode(batch)
            other = unwanted and null(conditioner, cond, unwanted(None, batch["number"]))
            each = jax.tree.map(lambda a: jnp.repeat(a, repeats, 0), (cond, other))
            denoiser = denoiser_of(params, *each)
            return denoiser if change is None else change(denoiser)

        return plan.run(key_run, denoisers, *sources)

    return functools.partial(run, *frozen)


def _run(
    config: ConfigDict,
    experiment: Experiment,
    params: PyTree,
    plan: Edit,
    raw: dict[str, np.ndarray],
    program: Callable[..., Edited],
) -> tuple[np.ndarray, float, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """x [n, k, ...], evaluations a result, what was seen, and errors; in batches of about
    `sampling.batch_size` results."""
    codec, k, total = experiment.codec, len(plan.labels), len(raw[experiment.codec.part])
    size = round_to_devices(
        max(config.sampling.batch_size // (k * config.edit.particles), 1), total
    )
    # image i is worked on together with those after it
    several = {f"source_{j}": np.roll(raw[codec.part], -j, axis=0) for j in range(plan.sources)}
    found: list[Edited] = []
    root = key_for(config, "edit")
    with progress(total * k, "result", config.edit.task) as bar:
        for i, (_, mask, batch) in enumerate(experiment.batches(Arrays(**raw, **several), size)):
            with at("edit"):  # what a method or solver says, when it is traced
                out = hosts.gathered(program(params, jax.random.fold_in(root, i), batch))
            found.append(out)
            bar.update(int(mask.sum()) * k)
    x, seen, errors = (
        jax.tree.map(lambda *a: np.concatenate(a)[:total], *(getattr(out, part) for out in found))
        for part in ("x", "seen", "errors")
    )
    failed = int(np.sum(~np.isfinite(x).all(axis=tuple(range(1, x.ndim)))))
    if failed:
        raise ConvergenceError(
            f"results of {failed} of {total} images are not finite: take more sampling.steps or "
            "another edit.method"
        )
    return x, float(np.mean([np.mean(out.nfe) for out in found])), seen, errors


def _save_each(
    folder: Path, medium: Medium, names: list[str], labels: tuple[str, ...], results: np.ndarray
) -> None:
    """Every result as a file; those of the run before are replaced."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob(f"*{medium.suffix}"):
        old.unlink()
    digits = math.ceil(math.log10(max(len(names), 2)))
    for i, (name, of_image) in enumerate(zip(names, results, strict=True)):
        for label, result in zip(labels, of_image, strict=True):
            stem = re.sub(r"[^\w.-]+", "_", f"{i:0{digits}d}_{name[:60]}_{label}")
            medium.save(folder / f"{stem}{medium.suffix}", result)
