"""Metrics of the samples of every sampler."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from score_sde.config import at, build
from score_sde.errors import ConfigError
from score_sde.evaluation import solver_error
from score_sde.evaluation.metrics import summary
from score_sde.evaluation.metrics.scores import scores
from score_sde.evaluation.metrics.summary import Extractor, Summary
from score_sde.experiment import requests, samplers, workdirs
from score_sde.experiment.build import key_for
from score_sde.experiment.report import reference
from score_sde.experiment.report.subject import Subject
from score_sde.runtime import hosts
from score_sde.runtime.mesh import round_to_devices
from score_sde.runtime.progress import progress
from score_sde.runtime.resumable import Partial

BLANK = 0.02  # of the x of the codec of images: one whose numbers spread less is blank


def metrics(subject: Subject) -> dict[str, Any]:
    """A row of metrics for each sampler, against `evaluate.split` of the data set."""
    config, experiment, workdir = subject.config, subject.experiment, subject.workdir
    options = config.evaluate
    variants = variants_of(config)
    features = reference.extractor(config, experiment)
    truth = reference.of_data(config, experiment, features, options.split, workdir)
    other = {"train": "test", "test": "train"}[options.split]
    own = reference.of_data(config, experiment, features, other, workdir)
    name = reference.name_of(experiment, other)
    rows, places = [{"sampler": name, **_row(own, truth)}], []
    averaged = subject
    for label, variant in variants:
        place = subject.partial("samples", evaluate=_of_samples(options), **_sampling(variant))
        places.append(place)
        row = place.result
        if row is None:
            averaged = _averaged(averaged, variant)
            found, more = _summarise(averaged, variant, features, place, label)
            row = place.finish({"sampler": label, **more, **_row(found, truth)})
        rows.append(row)
    for place in places:
        place.remove()
    name = reference.name_of(experiment, options.split)
    return {"reference": name, "features": options.features, "rows": rows}


def _averaged(subject: Subject, variant: ConfigDict) -> Subject:
    """With the parameters of the variant's `sampling.ema_length` at the step of the subject."""
    if variant.sampling.ema_length == subject.config.sampling.ema_length:
        return subject
    data = subject.experiment.data
    trained = workdirs.restore_as(variant, subject.workdir, subject.step, data)
    return subject._replace(config=variant, params=trained.params)


def _of_samples(options: ConfigDict) -> dict[str, Any]:
    return {key: options[key] for key in ("num_samples", "features", "reservoir", "split")}


def variants_of(config: ConfigDict) -> list[tuple[str, ConfigDict]]:
    """Every average, with it every sampler, with it every number of evaluations: what it is called,
    and its config."""
    options = config.evaluate
    if options.num_samples < 10:
        raise ConfigError(f"evaluate.num_samples must be at least 10, not {options.num_samples}")
    given = options.samplers or (f"{config.sampling.solver} on {config.sampling.grid}",)
    sde, drawn = requests.sampling_sde(config), []
    for text in given:
        solver, _, grid = (part.strip() for part in text.partition(" on "))
        grid = grid or config.sampling.grid
        built = build("solvers", solver, sde)
        within = functools.partial(build, "sampling.grids", grid, sde)
        wanted: list[int | None]
        if built.adaptive:
            wanted = [1]
        elif options.nfe:
            spare = 0 if config.sampling.denoise else 1  # `steps_within` counts that evaluation
            wanted = [solver_error.steps_within(built, within, n + spare) for n in options.nfe]
        else:
            wanted = [config.sampling.steps]
        if None in wanted:
            budget = options.nfe[wanted.index(None)]
            raise ConfigError(f"evaluate.nfe={budget} is too little for {solver}")
        for steps in wanted:
            within(steps)
            drawn.append({"solver": solver, "grid": grid, "steps": steps})
    variants = []
    for length in options.ema_lengths or (config.sampling.ema_length,):
        of = f", length {length:g}" if options.ema_lengths else ""
        for sampling in drawn:
            variant = config.copy_and_resolve_references()
            variant.sampling.update(sampling, ema_length=length)
            variants.append((f"{sampling['solver']} on {sampling['grid']}{of}", variant))
    return variants


def _summarise(
    subject: Subject, config: ConfigDict, features: Extractor, place: Partial, label: str
) -> tuple[Summary, dict[str, Any]]:
    """The summary of samples, and what they took. No image outlives its batch.

    Raises:
      ConvergenceError: a sample is not finite.
    """
    experiment, total = subject.experiment, config.evaluate.num_samples
    size = round_to_devices(config.sampling.batch_size, total)
    sampler = samplers.build_sampler(config, experiment, size)
    root = key_for(config, "sample")

    @jax.jit
    def counts(codec, shown, nfe, mask):
        """How many are blank, and all their evaluations."""
        x = codec.inner.locate(shown).reshape(size, -1)
        blank = jnp.sum((jnp.std(x, axis=1) < BLANK) & mask)
        nfe = jnp.broadcast_to(jnp.asarray(nfe, jnp.float32), size)
        return blank, jnp.sum(jnp.where(mask, nfe, 0.0))

    found, structure = jax.tree.flatten(reference.empty(config, experiment, features))
    done, blank, nfe = 0, 0, 0.0
    if stored := place.load():
        found = [stored[f"summary_{i}"] for i in range(len(found))]
        done, blank, nfe = int(stored["done"]), int(stored["blank"]), float(stored["nfe"])
    found = structure.unflatten(found)
    with progress(total, "image", label, initial=min(done * size, total)) as bar:
        for i in range(done, math.ceil(total / size)):
            index = np.arange(i * size, (i + 1) * size)
            mask = index < total
            with at("sampling"):  # what a solver says of its grid, when it is traced
                out = sampler(subject.params, root, i * size)
            samplers.check_finite(config, hosts.gathered(out.finite)[mask])
            found = summary.update(found, features(out.shown), index, mask)
            more = counts(experiment.codec, out.shown, out.nfe, mask)
            blank, nfe = blank + int(more[0]), nfe + float(more[1])
            bar.update(int(mask.sum()))
            place.save(
                done=np.array(i + 1),
                blank=np.array(blank),
                nfe=np.array(nfe),
                **{f"summary_{j}": np.asarray(a) for j, a in enumerate(jax.tree.leaves(found))},
            )
    return found, {"steps": config.sampling.steps, "nfe": nfe / total, "num_blank": blank}


def _row(found: Summary, truth: Summary) -> dict[str, Any]:
    found, truth = jax.device_get((found, truth))
    return {
        "num_images": int(found.moments.count),
        "mean_feature": float(np.mean(found.moments.mean)),
        **scores(found, truth),
    }


def _sampling(config: ConfigDict) -> dict[str, Any]:
    return {"sampling": workdirs.as_json(config)["sampling"]}
