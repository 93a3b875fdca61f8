"""What a training run shows of itself: rows of metrics, and samples."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict
from tqdm import tqdm

from score_sde.evaluation import figures
from score_sde.experiment import samplers, workdirs
from score_sde.experiment.build import Experiment, key_for
from score_sde.runtime import hosts, metrics_log
from score_sde.runtime.mesh import round_to_devices
from score_sde.runtime.metrics_log import MetricsLog
from score_sde.training.optimizer import last_rate
from score_sde.training.state import TrainState

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
            size = round_to_devices(PREVIEWS, PREVIEWS)
            self.sampler = samplers.build_sampler(config, experiment, size)

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
        changes."""
        drawn = self.sampler(state.ema[self.config.sampling.ema], self.key)
        self.owed.append(functools.partial(self._show, step, drawn))

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

    def _show(self, step: int, drawn: samplers.Drawn) -> None:
        picture = self.workdir / f"samples_{step}.png"
        shown, finite = (hosts.gathered(a)[:PREVIEWS] for a in (drawn.shown, drawn.finite))
        self.experiment.medium.sheet(picture, shown)
        if failed := int(np.sum(~finite)):
            print(f"\n{picture}: {failed} of {PREVIEWS} samples are not finite", flush=True)
        self.log.picture(step, "samples", picture)


def finish(workdir: Path, experiment: Experiment, parameters: int) -> dict:
    """Draws the loss, and samples over time, and stores the last row of metrics as the result."""
    rows = metrics_log.read(workdir)
    figures.loss_curve(workdir / "loss.png", [row for row in rows if "loss" in row])
    figures.loss_by_level(workdir / "loss_by_level.png", rows)
    found = {path.stem.removeprefix("samples_"): path for path in workdir.glob("samples_*.png")}
    grids = {int(step): path for step, path in found.items() if step.isdecimal()}
    if grids:
        path = workdir / "samples_over_time.png"
        experiment.medium.over_time(path, grids, PREVIEWS, experiment.codec.shape)
    return workdirs.store(workdir / "train.json", {"parameters": parameters, **(rows or [{}])[-1]})
