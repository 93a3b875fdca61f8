"""Mode evaluate: loss, FID and other scores of a model and its samplers, in one report."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array
from ml_collections import ConfigDict

from score_sde.codecs.codec import Codec
from score_sde.config import at, build
from score_sde.data import Arrays, Source, gather
from score_sde.errors import ConfigError
from score_sde.evaluation import diagnostics, report_page, solver_error
from score_sde.evaluation.metrics import summary
from score_sde.evaluation.metrics.scores import scores
from score_sde.evaluation.metrics.summary import Extractor, Summary
from score_sde.experiment import samplers, workdirs
from score_sde.experiment.build import Experiment, key_for
from score_sde.experiment.workdirs import restore
from score_sde.modes import reference
from score_sde.modes.likelihood import likelihood
from score_sde.modes.sample import draw
from score_sde.processes import exact
from score_sde.runtime import hosts, mesh
from score_sde.runtime.atomic import write_text
from score_sde.runtime.mesh import round_to_devices
from score_sde.runtime.progress import progress
from score_sde.runtime.resumable import Partial
from score_sde.types import PyTree, as_pytree

LEVELS = 16  # noise levels at which the loss is told
DRAWS = 8  # of noise for each test image
FIELD_LOG_SNR = (-8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0)
FIELD_IMAGES = 128
COPIES = 500  # samples whose neighbours are looked for
MAX_IDEAL = 10_000_000  # numbers that the ideal denoiser of a data set may hold


class Subject(NamedTuple):
    """What is evaluated."""

    config: ConfigDict
    workdir: Path
    experiment: Experiment
    params: PyTree
    step: int

    def partial(self, name: str, **about: Any) -> Partial:
        """The place of a piece of work that depends on `about` and on the model."""
        about = {"step": self.step, **workdirs.identity(self.config), **about}
        return Partial(self.workdir, name, about)


def evaluate(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """The parts of `evaluate.parts`, in DIR/evaluate.json, .md and .png. A run that was
    interrupted goes on where it was.

    loss: of the test images, and by noise level the error of the noise prediction or, of a
        classifier, which has this part only, the share of images taken for another class.
    likelihood: as that mode.
    metrics: of `evaluate.num_samples` samples of every sampler with every number of evaluations,
        against `evaluate.split`; the first row is the other split, to compare with.
    field: by noise level, the score's distance from the ideal one of the training images (where
        that is small enough to compute), on those and on test images; the asymmetry of its Jacobian
        and the Fokker-Planck residual, on test images.
    copies: how near samples are to training images.

    Raises:
      CheckpointError, ConfigError, DataError. ConvergenceError: as likelihood and sample.
    """
    parts = {
        "loss": _loss,
        "likelihood": lambda subject: likelihood(subject.config, subject.workdir),
        "metrics": _metrics,
        "field": _field,
        "copies": _copies,
    }
    wrong = [name for name in config.evaluate.parts if name not in parts]
    if wrong or not config.evaluate.parts:
        raise ConfigError(
            f"evaluate.parts={tuple(config.evaluate.parts)}: one or more of {', '.join(parts)}"
        )
    subject = Subject(config, workdir, *restore(config, workdir))
    begin, found, places = time.perf_counter(), {}, []
    for name in config.evaluate.parts:
        place = subject.partial(name, config=workdirs.as_json(config))
        places.append(place)
        found[name] = place.result or place.finish(parts[name](subject))
    result = {"step": subject.step, **found, "seconds": time.perf_counter() - begin}
    workdirs.store(workdir / "evaluate.json", result)
    page = report_page.markdown(f"{workdir.name}, step {subject.step}", result)
    write_text(workdir / "evaluate.md", page)
    report_page.plot(workdir / "evaluate.png", result)
    for place in places:
        place.remove()
    print("\n" + page, end="")
    return report_page.headline(result)


def _sampling(config: ConfigDict) -> dict[str, Any]:
    return {"sampling": workdirs.as_json(config)["sampling"]}


# Loss


def _loss(subject: Subject) -> dict[str, Any]:
    """Every test image with DRAWS draws of noise and time, and once at each of LEVELS levels."""
    config, experiment = subject.config, subject.experiment
    objective, sde, source = experiment.objective, experiment.model.sde, experiment.data.test
    ends = sde.log_snr(jnp.array([sde.t_max, sde.t_min]))
    ends = jnp.clip(ends, -20.0, 20.0)  # beyond, nothing or everything is known
    log_snr = jnp.linspace(ends[0], ends[1], LEVELS)
    times = jnp.clip(sde.t_of_log_snr(log_snr), sde.t_min, sde.t_max)

    @functools.partial(jax.jit, out_shardings=mesh.whole(experiment.mesh))
    def errors(losses, error_at, params, key, raw):
        key_draws, key_levels = jax.random.split(key)

        def one(key):
            key_prepare, key_losses = jax.random.split(key)
            batch = experiment.prepare(key_prepare, raw)
            return losses(params, key_losses, batch, False).value

        def level(inputs):
            key, t = inputs
            key_prepare, key_noise = jax.random.split(key)
            batch = experiment.prepare(key_prepare, raw)
            return error_at(params, key_noise, batch, t)

        whole = jax.lax.map(one, jax.random.split(key_draws, DRAWS))
        return jnp.mean(whole, axis=0), jax.lax.map(
            level, (jax.random.split(key_levels, LEVELS), times)
        )

    functions = map(as_pytree, (objective.losses, objective.error_at))
    errors = functools.partial(errors, *functions)
    size = round_to_devices(config.train.batch_size, len(source))
    root, whole, by_level = key_for(config, "loss"), [], []
    with progress(len(source), "image", "loss") as bar:
        for i, (_, mask, batch) in enumerate(experiment.batches(source, size)):
            of_batch = errors(subject.params, jax.random.fold_in(root, i), batch)
            loss, levels = (np.asarray(a) for a in of_batch)
            whole.append(loss[mask])
            by_level.append(levels[:, mask])
            bar.update(int(mask.sum()))
    loss = solver_error.mean(np.concatenate(whole).tolist())
    levels = [solver_error.mean(row.tolist()) for row in np.concatenate(by_level, axis=1)]
    return {
        "loss": loss.value,
        "standard_error": loss.standard_error,
        experiment.objective.error_name: {
            "log_snr": log_snr.tolist(),
            "value": [level.value for level in levels],
            "standard_error": [level.standard_error for level in levels],
        },
    }


# Metrics of samples


def _metrics(subject: Subject) -> dict[str, Any]:
    config, experiment, workdir = subject.config, subject.experiment, subject.workdir
    options = config.evaluate
    samplers = _samplers(config)
    features = reference.extractor(config, experiment)
    truth = reference.of_data(config, experiment, features, options.split, workdir)
    other = {"train": "test", "test": "train"}[options.split]
    own = reference.of_data(config, experiment, features, other, workdir)
    rows, places = [{"sampler": f"{other} images", **_row(own, truth)}], []
    averaged = subject
    for label, variant in samplers:
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
    return {"reference": f"{options.split} images", "features": options.features, "rows": rows}


def _averaged(subject: Subject, variant: ConfigDict) -> Subject:
    """With the parameters of the variant's `sampling.ema_length` at the step of the subject."""
    if variant.sampling.ema_length == subject.config.sampling.ema_length:
        return subject
    params, _ = workdirs.restore_params(variant, subject.experiment, subject.workdir, subject.step)
    return subject._replace(config=variant, params=params)


def _of_samples(options: ConfigDict) -> dict[str, Any]:
    return {key: options[key] for key in ("num_samples", "features", "reservoir", "split")}


def _samplers(config: ConfigDict) -> list[tuple[str, ConfigDict]]:
    """Every average, with it every sampler, with it every number of evaluations: what it is called,
    and its config."""
    options = config.evaluate
    if options.num_samples < 10:
        raise ConfigError(f"evaluate.num_samples must be at least 10, not {options.num_samples}")
    given = options.samplers or (f"{config.sampling.solver} on {config.sampling.grid}",)
    sde, drawn = samplers.sampling_sde(config), []
    for text in given:
        solver, _, grid = (part.strip() for part in text.partition(" on "))
        grid = grid or config.sampling.grid
        built = build("solvers", solver, sde)
        within = functools.partial(build, "sampling.grids", grid, sde)
        if built.adaptive:
            wanted = [1]
        elif options.nfe:
            wanted = [solver_error.steps_within(built, within, budget) for budget in options.nfe]
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
    def batch(params, key, first, mask):
        out = sampler(params, key, first)
        unit = out.shown.reshape(size, -1).astype(jnp.float32) / 255
        blank = jnp.sum((jnp.std(unit, axis=1) < 0.01) & mask)
        nfe = jnp.broadcast_to(jnp.asarray(out.nfe, jnp.float32), size)
        return out.shown, out.finite, blank, jnp.sum(jnp.where(mask, nfe, 0.0))

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
                images, finite, *more = batch(subject.params, root, i * size, mask)
            samplers.check_finite(config, hosts.gathered(finite)[mask])
            found = summary.update(found, features(images), index, mask)
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


# The field, and copies


def _field(subject: Subject) -> dict[str, Any]:
    config, experiment = subject.config, subject.experiment
    experiment.check_denoises()
    measured = compiled_measure(config, experiment)
    result = as_pytree(experiment.objective.result)
    train, test = (
        _first(experiment, source, FIELD_IMAGES)
        for source in (experiment.data.train, experiment.data.test)
    )
    known = _few_images(experiment)

    def by_level(measure: Callable, batch: tuple, *truth: Any) -> dict[str, list]:
        found = measured(measure, result, subject.params, *batch, *truth)
        levels = {
            "log_snr": list(FIELD_LOG_SNR),
            "value": found.value.tolist(),
            "standard_error": found.standard_error.tolist(),
        }
        bar.update()
        return levels

    found = {}
    with progress(4 if known else 2, "measure", "field") as bar:
        for name, batch in (("training", train), ("test", test)) if known else ():
            found[f"score_error_of_{name}_images"] = by_level(
                diagnostics.score_error, batch, *known
            )
        for name in ("jacobian_asymmetry", "fokker_planck_residual"):
            found[name] = by_level(functools.partial(getattr(diagnostics, name), probes=4), test)
    return found


def compiled_measure(
    config: ConfigDict, experiment: Experiment
) -> Callable[..., diagnostics.Levels]:
    """`(measure, result, params, raw batch, mask, *images) -> Levels`: one of the `diagnostics` at
    FIELD_LOG_SNR. There is a program for each measure; each device has its part of the batch.

    result: that of the objective, a pytree. images: for `score_error`, whose truth is their ideal
        denoiser.
    """
    sde = experiment.model.sde
    key_images, key_field = jax.random.split(key_for(config, "field"))

    @functools.partial(jax.jit, static_argnums=0, out_shardings=mesh.whole(experiment.mesh))
    def measured(measure, result, params, raw, mask, *images):
        batch = experiment.prepare(key_images, raw)
        denoiser = result(params, batch["cond"])
        truth = (_ideal(experiment.codec, known).denoiser(sde) for known in images)
        times = sde.t_of_log_snr(jnp.array(FIELD_LOG_SNR, jnp.float32))
        return measure(key_field, sde, denoiser, *truth, batch["x"], times, mask=mask)

    return measured


def _few_images(experiment: Experiment) -> list[np.ndarray]:
    """The training images, if their ideal denoiser is not too large; else nothing."""
    source, codec = experiment.data.train, experiment.codec
    numbers = len(source) * math.prod(codec.shape)
    if numbers * (codec.feature.values if codec.noise_width else 1) > MAX_IDEAL:
        return []
    return [_examples(source)[codec.part]]


def _ideal(codec: Codec, raw: Array) -> Any:
    """The distribution of raw parts as the network sees them."""
    if not codec.noise_width:
        return exact.Dataset(codec.middle(raw), std=0.0)
    return exact.dequantized(raw, codec.feature.values, *codec.bounds)


def _copies(subject: Subject) -> dict[str, Any]:
    config, experiment = subject.config, subject.experiment
    drawn, *_ = draw(config, experiment, subject.params, COPIES)
    codec = experiment.codec
    train, test = (
        codec.show_raw(_examples(source)[codec.part])
        for source in (experiment.data.train, experiment.data.test)
    )
    drawn, train, test = (np.asarray(a, np.float32) / 255 for a in (drawn, train, test))
    nearest = compiled_nearest(experiment)

    def neighbours(images):
        size = round_to_devices(len(images), len(images))
        ((_, mask, batch),) = experiment.batches(Arrays(images=images), size)
        found = hosts.gathered(nearest(batch["images"], train))
        return jax.tree.map(lambda a: a[mask], found)

    ours, held_out = neighbours(drawn), neighbours(test)
    found = diagnostics.memorisation(ours, held_out)
    return {
        "num_samples": len(drawn),
        "median_distance": float(np.median(ours.distance)),
        "median_distance_test": float(np.median(held_out.distance)),
        **{name: estimate._asdict() for name, estimate in found._asdict().items()},
    }


def compiled_nearest(experiment: Experiment) -> Callable[..., diagnostics.Nearest]:
    """`(images, points) -> Nearest`: each device looks for the neighbours of its part of the
    images among all points, of which it has a copy."""
    spread = experiment.sharded().spec
    return jax.jit(
        jax.shard_map(
            diagnostics.nearest,
            mesh=experiment.mesh,
            in_specs=(spread, PartitionSpec()),
            out_specs=spread,
            check_vma=False,  # its loops begin with constants, which no device's images vary
        )
    )


def _examples(source: Source) -> dict[str, np.ndarray]:
    return gather(source, np.arange(len(source)))


def _first(experiment: Experiment, source: Source, most: int) -> tuple[dict, np.ndarray]:
    """A batch of the first examples, over the devices, and which of them are filling (False)."""
    total = min(len(source), most)
    few = Arrays(**gather(source, np.arange(total)))
    ((_, mask, batch),) = experiment.batches(few, round_to_devices(total, total))
    return batch, mask
