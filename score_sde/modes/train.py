"""Mode train: training, begun or gone on with from the newest checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from score_sde.config import at, build
from score_sde.data import train_iterator
from score_sde.errors import ConfigError, DataError, InterruptedRunError, NonFiniteError
from score_sde.experiment import digests, program, teachers, workdirs
from score_sde.experiment.build import (
    Experiment,
    abstract_state,
    initial_state,
    key_for,
)
from score_sde.experiment.optimization import unfit_steps
from score_sde.experiment.watching import Watch, finish
from score_sde.models.model import num_params
from score_sde.runtime import profiler
from score_sde.runtime.checkpoint import Checkpoints
from score_sde.runtime.progress import progress
from score_sde.runtime.signals import ending_in_order, only_run
from score_sde.training.state import TrainState
from score_sde.training.stored_averages import Storing


def train(config: ConfigDict, workdir: Path, profile: bool = False) -> dict:
    """Trains to `train.steps`, or goes on from the newest checkpoint of the workdir, its own or an
    imported one.

    Leaves in the workdir: config.json, checkpoints/, averages/ (with `train.ema_lengths`),
    metrics.jsonl, tensorboard/, loss.png, loss_by_level.png, samples_STEP.png (of an autoencoder
    reconstructions_STEP.png), samples_over_time.png and train.json; frozen.json, the SHA-256 of
    frozen networks such as an autoencoder, if there are any.

    profile: whether a few calls of the compiled step are traced, into DIR/profile.

    Raises:
      NonFiniteError: the loss or gradient is not finite; the last good checkpoint stays.
      InterruptedRunError: SIGTERM or SIGINT came; a checkpoint of the step it came in is written.
      DataError: an example is damaged, which shows when it is read; a checkpoint of the step before
        is written, unless several processes train.
      CheckpointError, ConfigError, DataError: the workdir, config or data do not fit, or another
        run trains in the workdir. OSError: the workdir cannot be written.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    workdirs.check_config(config, workdir)
    experiment = teachers.load(config)
    _check(config)
    batches = _batches(config, experiment)
    abstract = abstract_state(experiment)
    with (
        only_run(workdir),
        contextlib.closing(Checkpoints(workdir, config.train.keep)) as checkpoints,
        profiler.traced(workdir / "profile") if profile else _untouched() as traced,
    ):
        state, start = _restored(config, workdir, checkpoints, abstract, batches)
        storing = _averages(config, workdir, start)
        digests.check(experiment, workdir)
        workdirs.store_config(config, workdir)
        digests.store(experiment, workdir)
        _announce(config, workdir, experiment, abstract, start)
        if start < config.train.steps:
            state = initial_state(config, experiment) if state is None else state
            run = Run(config, workdir, experiment, batches, checkpoints, storing, traced)
            try:
                _make_steps(run, state, start)
            except NonFiniteError as error:
                raise _with_advice(error, checkpoints) from None
        return finish(workdir, experiment, num_params(abstract.params))


class Run(NamedTuple):
    """What a run works with: its config and folder, what the config describes, the stream of
    batches, what stores checkpoints and averages, and what the compiled step goes through."""

    config: ConfigDict
    workdir: Path
    experiment: Experiment
    batches: Any
    checkpoints: Checkpoints
    storing: Storing
    traced: Callable[[Callable], Callable]


def _make_steps(run: Run, state: TrainState, start: int) -> None:
    """The steps after `start`, and what is told, shown and stored of them.

    The host does its part while the devices make the next steps. The order of what is stored
    matters to a run that is killed: averages come before the checkpoint of their step, and nothing
    is stored of steps that are not finite.
    """
    config, workdir, experiment, batches, checkpoints, storing, traced = run
    options, root = config.train, key_for(config, "train")
    events = {
        "log": options.log_every,
        "checkpoint": options.checkpoint_every,
        "samples": options.sample_every,
        "averages": storing.every,
    }
    calls = program.Calls(config, experiment, events, traced)
    with (
        Watch(config, workdir, experiment, start) as watch,
        ending_in_order() as signals,
        progress(options.steps, "step", initial=start) as watch.bar,
    ):
        for step, count in calls.steps(start):
            position = batches.get_state()
            try:
                batch = program.stack(batches, count, experiment.sharded(axis=1))
            except DataError as error:
                raise _saved(error, run, watch, step - count, state, position) from None
            state, metrics = calls.run(count, root, state, batch)
            watch.catch_up()
            watch.made(step, count, metrics)

            interrupted = signals.heard()
            finished = step == options.steps
            last = finished or interrupted is not None
            due = {name for name, every in events.items() if every and step % every == 0}
            if last:
                due |= {"log", "checkpoint"}
            if finished:
                due = (due | {"averages"}) - {"samples"}

            if due & {"log", "checkpoint"}:
                watch.row(step, state)
            if "samples" in due:
                watch.samples(step, state)
            if due & {"checkpoint", "averages"}:
                watch.catch_up()  # raises if a step was not finite
            if "averages" in due:
                storing.store(step, state.ema)
            if "checkpoint" in due:
                checkpoints.save(step, state, batches.get_state(), workdirs.as_json(config))
            if last:  # a second signal is still heard here
                checkpoints.wait()
            if interrupted is not None:
                raise InterruptedRunError(
                    f"{interrupted.name}: the checkpoint of step {step} of {options.steps} is "
                    f"written to {workdir}, and the same command goes on from it",
                    interrupted,
                )


def _saved(
    error: DataError, run: Run, watch: Watch, step: int, state: TrainState, position: Any
) -> DataError:
    """The error of examples that cannot be read, after the state before them is saved. Processes
    save together, and only this one knows of the error: where there are several, nothing is saved.
    """
    if step == 0 or jax.process_count() > 1:
        return error
    if watch.unwritten:
        watch.row(step, state)
    watch.catch_up()  # raises if a step was not finite
    run.checkpoints.save(step, state, position, workdirs.as_json(run.config))
    run.checkpoints.wait()
    return DataError(
        f"{error}; the checkpoint of step {step} is written: mend the data, and the same command "
        "goes on from it"
    )


def _check(config: ConfigDict) -> None:
    """Whether the numbers of a run fit each other and the devices."""
    if config.sampling.adapters:
        raise ConfigError(
            "sampling.adapters change a network that is trained already: leave them out of --mode "
            "train, or train over one of them, config.adapter"
        )
    options = config.train
    for field in ("steps", "keep", "accumulate"):
        if options[field] < 1:
            raise ConfigError(f"train.{field} must be at least 1, not {options[field]}")
    if options.batch_size % (jax.device_count() * options.accumulate):
        parts = f" times train.accumulate={options.accumulate}" if options.accumulate > 1 else ""
        raise ConfigError(
            f"train.batch_size={options.batch_size} must be a multiple of the "
            f"{jax.device_count()} devices{parts}"
        )
    unfit_steps(config)


def _batches(config: ConfigDict, experiment: Experiment) -> Any:
    """The endless stream of this process's part of the batches."""
    augment = build("data.augment", config.data.get("augment", "none"), experiment.data.features)
    with at("train"):
        return train_iterator(
            experiment.data.train,
            batch_size=config.train.batch_size // jax.process_count(),
            seed=config.seed,
            augment=augment,
            shard=(jax.process_index(), jax.process_count()),
        )


def _restored(
    config: ConfigDict, workdir: Path, checkpoints: Checkpoints, abstract: TrainState, batches: Any
) -> tuple[TrainState | None, int]:
    """The state of the newest checkpoint, None without one, and its step; the stream of batches
    goes on from there."""
    restored = checkpoints.restore(abstract)
    if not restored:
        return None, 0
    if restored.data is not None:  # an imported checkpoint has none: the data begin anew
        batches.set_state(restored.data)
    elif restored.step >= config.train.steps:
        raise ConfigError(
            f"{workdir} holds an imported checkpoint of step {restored.step}, and train.steps="
            f"{config.train.steps} is not above it: set --config.train.steps to train on"
        )
    checkpoints.set_aside(restored.damaged)
    return restored.state, restored.step


def _averages(config: ConfigDict, workdir: Path, start: int) -> Storing:
    """What stores the power-function averages of a run that goes on from step `start`.

    Raises:
      ConfigError: train.ema_every or train.ema_dtype is none. CheckpointError: stored averages of
        other lengths.
    """
    options = config.train
    lengths = tuple(options.ema_lengths)
    if lengths and options.ema_every < 1:
        raise ConfigError(f"train.ema_every must be positive, not {options.ema_every}")
    if options.ema_dtype not in ("float32", "float16"):
        raise ConfigError(f"train.ema_dtype is {options.ema_dtype!r}: one of float32, float16")
    return Storing(
        workdir, start, lengths, options.ema_every, options.ema_dtype, len(options.ema_rates)
    )


def _announce(
    config: ConfigDict, workdir: Path, experiment: Experiment, abstract: TrainState, start: int
) -> None:
    steps = config.train.steps
    if start >= steps:
        print(f"{workdir} is finished: its checkpoint is at step {start} of {steps}")
        return
    print(
        f"{f'resuming at step {start}' if start else 'training'} to step {steps}: "
        f"{num_params(abstract.params):,} parameters, {len(experiment.data.train):,} examples, "
        f"{jax.device_count()} device(s) of kind {jax.devices()[0].device_kind}"
    )


def _with_advice(error: NonFiniteError, checkpoints: Checkpoints) -> NonFiniteError:
    saved = checkpoints.steps()
    kept = f"the checkpoint of step {saved[-1]} is kept" if saved else "none was saved yet"
    return NonFiniteError(
        f"{error}; {kept}: try a smaller optim.learning_rate or optim.clip, a longer optim.warmup"
    )


def _untouched() -> contextlib.AbstractContextManager:
    return contextlib.nullcontext(lambda call: call)
