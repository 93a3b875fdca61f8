"""What a training run shows of itself: rows of metrics, and samples."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict
from tqdm import tqdm

from score_sde.data import gather
from score_sde.evaluation import figures
from score_sde.experiment import samplers, workdirs
from score_sde.experiment.build import Experiment, key_for
from score_sde.runtime import hosts, metrics_log
from score_sde.runtime.mesh import round_to_devices
from score_sde.runtime.metrics_log import MetricsLog
from score_sde.training.optimizer import last_rate
from score_sde.training.state import TrainState
from score_sde.types import Key, PyTree, as_pytree

PREVIEWS = 64  # samples in samples_STEP.png
AHEAD = 2  # calls that the devices may be behind the host


class Watch:
    """Tells and shows how training goes.

    Metrics and samples are handed over as arrays that the devices may still compute; `catch_up`
    waits for them, and writes. So it is called when the next step is on its way.
    """

    bar: tqdm

    def __init__(self, config: ConfigDict, workdir: Path, experiment: Experiment, start: int):
        self.config, self.workdir, self.experiment = config, workdir, experiment
        self.log = MetricsLog(workdir, start)
        self.unwritten: list[dict[str, Array]] = []  # metrics since the last row
        self.skipped = 0  # steps in a row up to the last row
        self.owed: list[Callable[[], None]] = []
        self.key = key_for(config, "preview")
        if config.train.sample_every:
            make = MAKERS.get(experiment.objective.gives, _sampled)
            self.kind, self.preview = make(config, experiment, round_to_devices(PREVIEWS, PREVIEWS))

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: Any) -> None:
        self.log.close()

    def made(self, step: int, count: int, metrics: dict[str, Array]) -> None:
        """`count` steps were made, up to this one."""
        self.unwritten.append(metrics)
        if len(self.unwritten) > AHEAD:  # a bar that tells the truth, at no loss of overlap
            jax.block_until_ready(self.unwritten[-1 - AHEAD])
        self.bar.update(count)

    def row(self, step: int, state: TrainState) -> None:
        """A row of the metrics since the last one is owed."""
        rate = last_rate(self.experiment.learning_rate, state.opt_state)
        self.owed.append(functools.partial(self._write, step, self.unwritten, rate))
        self.unwritten = []

    def samples(self, step: int, state: TrainState) -> None:
        """A picture of samples is owed: of the same noise each time, so that it shows what training
        changes. An autoencoder shows test images, each row above what becomes of it."""
        preview = self.preview(state.ema[self.config.sampling.ema], self.key)
        self.owed.append(functools.partial(self._show, step, preview))

    def catch_up(self) -> None:
        """Writes and draws what is owed.

        Raises:
          NonFiniteError: more steps in a row than allowed were not finite.
        """
        while self.owed:
            self.owed.pop(0)()

    def _write(self, step: int, metrics: list[dict[str, Array]], rate: Array) -> None:
        options, columns = self.config.train, metrics_log.columns(metrics)
        if "skipped" in columns:
            self.skipped = metrics_log.check_skipped(
                columns["skipped"], self.skipped, options.max_skipped
            )
        row = metrics_log.means(columns, step) | {"learning_rate": float(rate)}
        speed = self.log.write(step, row, options.batch_size)
        loss = row.get("loss", math.nan)
        self.bar.set_postfix(loss=f"{loss:.4f}", img_s=f"{speed:.0f}", refresh=False)

    def _show(self, step: int, preview: Preview) -> None:
        picture = self.workdir / f"{self.kind}_{step}.png"
        shown, finite = (hosts.gathered(a)[:PREVIEWS] for a in preview)
        self.experiment.medium.sheet(picture, shown)
        if failed := int(np.sum(~finite)):
            print(f"\n{picture}: {failed} of {len(shown)} are not finite", flush=True)
        self.log.picture(step, self.kind, picture)


class Preview(NamedTuple):
    """shown: [n, ...], as `Codec.show` gives it. finite: bool [n], whether it was, before."""

    shown: Array
    finite: Array


def _sampled(
    config: ConfigDict, experiment: Experiment, size: int
) -> tuple[str, Callable[[PyTree, Key], Preview]]:
    """Samples."""
    sampler = samplers.build_sampler(config, experiment, size)

    def preview(params, key):
        drawn = sampler(params, key)
        return Preview(drawn.shown, drawn.finite)

    return "samples", preview


def _reconstructed(
    config: ConfigDict, experiment: Experiment, size: int
) -> tuple[str, Callable[[PyTree, Key], Preview]]:
    """Test images: a row of them, then a row of what the autoencoder makes of these, and so on."""
    source, row = experiment.data.test, round(PREVIEWS**0.5)
    few = gather(source, np.arange(PREVIEWS // 2) % len(source))
    t = experiment.model.sde.t_min

    @jax.jit
    def compiled(codec, result, conditioner, params, raw):
        x = codec.middle(raw[codec.part])
        found = result(params, conditioner.encode(raw))(x, jnp.full(len(x), t, x.dtype))
        finite = jnp.isfinite(found).reshape(len(x), -1).all(axis=1)
        seen = codec.show_raw(raw[codec.part]), codec.show(codec.decode(found))
        rows = [a.reshape(-1, row, *a.shape[1:]) for a in seen]
        whole = jnp.stack(rows, axis=1)
        return Preview(whole.reshape(-1, *whole.shape[3:]), finite)

    result = as_pytree(experiment.objective.result)
    frozen = (experiment.codec, result, experiment.conditioner)
    return "reconstructions", lambda params, key: compiled(*frozen, params, few)


MAKERS = {"reconstruction": _reconstructed}
"""What pictures show of a network whose `Objective.gives` is that, in the place of samples:
`(config, experiment, how many) -> (what they are called, (params, key) -> Preview)`."""


def finish(workdir: Path, experiment: Experiment, parameters: int) -> dict:
    """Draws the loss, and samples over time, and stores the last row of metrics as the result."""
    rows = metrics_log.read(workdir)
    figures.loss_curve(workdir / "loss.png", [row for row in rows if "loss" in row])
    figures.loss_by_level(workdir / "loss_by_level.png", rows)
    found = {path.stem.removeprefix("samples_"): path for path in workdir.glob("samples_*.png")}
    grids = {int(step): path for step, path in found.items() if step.isdecimal()}
    if grids:
        path = workdir / "samples_over_time.png"
        experiment.medium.over_time(path, grids, PREVIEWS, experiment.codec.inner.shape)
    about = {"gives": experiment.objective.gives, "parameters": parameters}
    return workdirs.store(workdir / "train.json", {**about, **(rows or [{}])[-1]})
