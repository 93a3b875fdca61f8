"""Mode train: training, begun or gone on with from the newest checkpoint."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from score_sde.config import at, build
from score_sde.data import train_iterator
from score_sde.errors import ConfigError, InterruptedRunError, NonFiniteError
from score_sde.evaluation import figures
from score_sde.experiment import samplers, workdirs
from score_sde.experiment.build import (
    Experiment,
    abstract_state,
    initial_state,
    key_for,
    load,
    unfit_steps,
)
from score_sde.models.model import num_params
from score_sde.runtime import hosts, mesh, metrics_log, profiler
from score_sde.runtime.checkpoint import Checkpoints
from score_sde.runtime.mesh import round_to_devices
from score_sde.runtime.metrics_log import MetricsLog
from score_sde.runtime.progress import progress
from score_sde.runtime.signals import ending_in_order, only_run
from score_sde.training.objective import mean
from score_sde.training.optimizer import last_rate
from score_sde.training.state import TrainState, accumulated, several, skipping, train_step
from score_sde.training.stored_averages import Snapshots

PREVIEWS = 64  # images in samples_STEP.png


def train(config: ConfigDict, workdir: Path, profile: bool = False) -> dict:
    """Trains to `train.steps`, or goes on from the newest checkpoint of the workdir, be it its own
    or an imported one.

    Leaves in the workdir: config.json, checkpoints/, averages/ (with `train.ema_lengths`),
    metrics.jsonl, tensorboard/, loss.png, loss_by_level.png, samples_STEP.png,
    samples_over_time.png and train.json.

    profile: whether a few calls of the compiled step are traced, into DIR/profile.

    Raises:
      NonFiniteError: the loss or gradient is not finite; the last good checkpoint stays.
      InterruptedRunError: SIGTERM or SIGINT came; a checkpoint of the step it came in is written.
      CheckpointError, ConfigError, DataError: the workdir, config or data do not fit, or another
        run trains in the workdir. OSError: the workdir cannot be written.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    workdirs.check_config(config, workdir)
    experiment = load(config)
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
    augment = build("data.augment", config.data.get("augment", "none"))
    with at("train"):
        batches = train_iterator(
            experiment.data.train,
            batch_size=options.batch_size // jax.process_count(),
            seed=config.seed,
            augment=augment,
            shard=(jax.process_index(), jax.process_count()),
        )
    abstract = abstract_state(experiment)
    untouched = contextlib.nullcontext(lambda call: call)
    with (
        only_run(workdir),
        contextlib.closing(Checkpoints(workdir, options.keep)) as checkpoints,
        profiler.traced(workdir / "profile") if profile else untouched as traced,
    ):
        return _train(config, workdir, experiment, batches, abstract, checkpoints, traced)


def _train(
    config,
    workdir: Path,
    experiment: Experiment,
    batches,
    abstract: TrainState,
    checkpoints: Checkpoints,
    traced,
) -> dict:
    """`train` with the workdir locked: from a new state and iterator, or from the checkpoint.
    abstract: what the state is like."""
    options = config.train
    restored = checkpoints.restore(abstract)
    start = 0
    if restored:
        state, start = restored.state, restored.step
        if restored.data is not None:  # an imported checkpoint has none: the data begin anew
            batches.set_state(restored.data)
        elif start >= options.steps:
            raise ConfigError(
                f"{workdir} holds an imported checkpoint of step {start}, and train.steps="
                f"{options.steps} is not above it: set --config.train.steps to train on"
            )
        checkpoints.set_aside(restored.damaged)
    snapshot, snapshot_every = snapshots(config, workdir, start)
    workdirs.store_config(config, workdir)
    parameters = num_params(abstract.params)
    if start >= options.steps:
        print(f"{workdir} is finished: its checkpoint is at step {start} of {options.steps}")
        return finish(workdir, experiment, parameters)
    if not restored:
        state = initial_state(config, experiment)
    print(
        f"{'resuming at step ' + str(start) if start else 'training'} to step {options.steps}: "
        f"{parameters:,} parameters, {len(experiment.data.train):,} examples, "
        f"{jax.device_count()} device(s) of kind {jax.devices()[0].device_kind}"
    )

    # A call runs several steps where the backend gains by it, and never past an event.
    events = (options.log_every, options.checkpoint_every, options.sample_every, snapshot_every)
    per_call = options.steps_per_call or (1 if jax.default_backend() == "cpu" else 10)
    per_call = math.gcd(per_call, *(n for n in events if n))
    step_fns = {n: compiled_step(config, experiment, n) for n in {1, per_call}}
    step_fns[per_call] = traced(step_fns[per_call])
    if options.sample_every:
        sampler = samplers.build_sampler(config, experiment, round_to_devices(PREVIEWS, PREVIEWS))
    root, preview = (key_for(config, purpose) for purpose in ("train", "preview"))
    log = MetricsLog(workdir, start)
    pending = []  # metrics still on the device
    skipped = 0  # steps in a row up to the last row
    owed = []  # what the host does while the devices make the next steps

    def tell(step, pending, learning_rate):
        nonlocal skipped
        columns = metrics_log.columns(pending)
        if "skipped" in columns:
            skipped = metrics_log.check_skipped(columns["skipped"], skipped, options.max_skipped)
        row = metrics_log.means(columns, step) | {"learning_rate": float(learning_rate)}
        speed = log.write(step, row, options.batch_size)
        loss = row.get("loss", math.nan)
        bar.set_postfix(loss=f"{loss:.4f}", img_s=f"{speed:.0f}", refresh=False)

    def show(step, drawn):
        picture = workdir / f"samples_{step}.png"
        images, finite = (hosts.gathered(a)[:PREVIEWS] for a in (drawn.shown, drawn.finite))
        figures.image_grid(picture, images)
        if failed := int(np.sum(~finite)):
            print(f"\n{picture}: {failed} of {PREVIEWS} samples are not finite", flush=True)
        log.picture(step, "samples", picture)

    def settle():
        while owed:
            owed.pop(0)()

    try:
        with ending_in_order() as signals, progress(options.steps, "step", initial=start) as bar:
            step = start
            while step < options.steps:
                whole = step % per_call == 0 and step + per_call <= options.steps
                count = per_call if whole else 1
                batch = stack(batches, count, experiment.sharded(axis=1))
                state, metrics = step_fns[count](root, state, batch)
                settle()
                step += count
                pending.append(metrics)
                if len(pending) > 2:  # a bar that tells the truth, at no loss of overlap
                    jax.block_until_ready(pending[-3])
                bar.update(count)
                due = [bool(n) and step % n == 0 for n in events]
                finished, interrupted = step == options.steps, signals.heard()
                last = finished or interrupted is not None
                if due[0] or due[1] or last:
                    rate = last_rate(experiment.learning_rate, state.opt_state)
                    owed.append(functools.partial(tell, step, pending, rate))
                    pending = []
                if due[2] and not finished:
                    # of the same noise each time, so that it shows what training changes
                    drawn = sampler(state.ema[config.sampling.ema], preview)
                    owed.append(functools.partial(show, step, drawn))
                if due[1] or due[3] or last:  # nothing is stored of steps that are not finite
                    settle()
                if due[3] or finished:  # before the checkpoint, or a run that is killed lacks it
                    snapshot(step, state)
                if due[1] or last:
                    checkpoints.save(step, state, batches.get_state(), workdirs.as_json(config))
                if last:  # a second signal is still heard here
                    checkpoints.wait()
                if interrupted is not None:
                    raise InterruptedRunError(
                        f"{interrupted.name}: the checkpoint of step {step} of {options.steps} is "
                        f"written to {workdir}, and the same command goes on from it",
                        interrupted,
                    )
    except NonFiniteError as error:
        saved = checkpoints.steps()
        raise NonFiniteError(
            f"{error}; "
            + (f"the checkpoint of step {saved[-1]} is kept" if saved else "none was saved yet")
            + ": try a smaller optim.learning_rate or optim.clip, a longer optim.warmup"
        ) from None
    finally:
        log.close()
    return finish(workdir, experiment, parameters)


def snapshots(
    config: ConfigDict, workdir: Path, start: int
) -> tuple[Callable[[int, TrainState], None], int]:
    """`(step, state)` stores its power-function averages, if there are any; and how often that is
    to be, 0 for never. start: the step that training goes on from. It raises a NonFiniteError
    where they are not finite, and then stores nothing.

    Raises:
      ConfigError: train.ema_every or train.ema_dtype is none. CheckpointError: stored averages of
        other lengths.
    """
    options = config.train
    lengths = tuple(options.ema_lengths)
    if not lengths:
        return lambda step, state: None, 0
    if options.ema_every < 1:
        raise ConfigError(f"train.ema_every must be positive, not {options.ema_every}")
    if options.ema_dtype not in ("float32", "float16"):
        raise ConfigError(f"train.ema_dtype is {options.ema_dtype!r}: one of float32, float16")
    stored, first = Snapshots(workdir), len(options.ema_rates)
    stored.begin(start, lengths)

    def snapshot(step, state):
        try:
            stored.save(step, lengths, state.ema[first:], options.ema_dtype)
        except ValueError as error:
            raise NonFiniteError(f"{error} at step {step}") from None

    return snapshot, options.ema_every


def finish(workdir: Path, experiment: Experiment, parameters: int) -> dict:
    """Draws the loss, and samples over time, and stores the last row of metrics as the result."""
    rows = metrics_log.read(workdir)
    figures.loss_curve(workdir / "loss.png", [row for row in rows if "loss" in row])
    figures.loss_by_level(workdir / "loss_by_level.png", rows)
    found = {path.stem.removeprefix("samples_"): path for path in workdir.glob("samples_*.png")}
    grids = {int(step): path for step, path in found.items() if step.isdecimal()}
    if grids:
        height, width, _ = experiment.codec.shape
        figures.over_time(workdir / "samples_over_time.png", grids, PREVIEWS, height, width)
    return workdirs.store(workdir / "train.json", {"parameters": parameters, **(rows or [{}])[-1]})


def compiled_step(config: ConfigDict, experiment: Experiment, per_call: int) -> Callable:
    """`(root key, state, batches [per_call, b, ...]) -> (state, metrics [per_call])`.

    One program over all devices: the state and a batch lie over them as `mesh` says, and XLA
    inserts the sums of gradients. The state is donated.
    """
    shardings = experiment.layout(abstract_state(experiment))
    reasons = unfit_steps(config)

    @functools.partial(
        jax.jit,
        donate_argnums=3,
        in_shardings=(None, None, None, shardings, experiment.sharded(axis=1)),
        out_shardings=(shardings, mesh.whole(experiment.mesh)),
    )
    def call(losses, prepare, root, state, batches):
        gradient = jax.grad(mean(losses, experiment.noise_levels), has_aux=True)
        step = train_step(
            accumulated(gradient, config.train.accumulate),
            experiment.optimizer,
            experiment.averages,
            prepare,
        )
        return several(skipping(step, *reasons), per_call)(root, state, batches)

    # pytrees, so that frozen parameters are arguments of the program and not constants of it
    frozen = map(jax.tree_util.Partial, (experiment.objective.losses, experiment.prepare))
    return functools.partial(call, *frozen)


def stack(batches, count: int, sharding: jax.sharding.Sharding) -> dict[str, jax.Array]:
    """The next `count` batches of this process as global arrays [count, b, ...]."""
    local = [next(batches) for _ in range(count)]
    return jax.tree.map(
        lambda *leaves: jax.make_array_from_process_local_data(sharding, np.stack(leaves)), *local
    )
