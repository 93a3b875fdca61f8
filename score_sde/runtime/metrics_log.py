"""The rows of metrics that training leaves: made of every step's, and written."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import jax
import numpy as np

from score_sde.errors import NonFiniteError
from score_sde.runtime.atomic import write_text


class MetricsLog:
    """DIR/metrics.jsonl and TensorBoard event files in DIR/tensorboard."""

    def __init__(self, workdir: Path, start: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        path = workdir / "metrics.jsonl"
        # Rows after the checkpoint belong to steps that are about to be made again.
        kept = [row for row in read(workdir) if row["step"] <= start]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a", buffering=1, encoding="utf-8")
        # not its SummaryWriter: on a full disk the thread of that dies, and `add` waits for ever
        (workdir / "tensorboard").mkdir(exist_ok=True)
        earlier = any((workdir / "tensorboard").iterdir())
        self._board = EventsWriter(str(workdir / "tensorboard" / "events"))
        self._event, self._summary = Event, Summary
        if earlier:  # TensorBoard then forgets later steps of an earlier file
            session = SessionLog(status=SessionLog.START)
            self._board.write_event(Event(step=start, wall_time=time.time(), session_log=session))
        self._step, self._time = start, time.perf_counter()

    def write(self, step: int, row: dict, batch_size: int) -> float:
        """Adds one row; returns the images per second since the last."""
        now = time.perf_counter()
        rate = (step - self._step) * batch_size / (now - self._time)
        self._step, self._time = step, now
        row = {"step": step, **row, "images_per_second": rate, **memory()}
        self._file.write(json.dumps(row) + "\n")
        self._add(step, {key: {"simple_value": row[key]} for key in row if key != "step"})
        return rate

    def picture(self, step: int, name: str, path: Path) -> None:
        """Adds a PNG file to TensorBoard."""
        image = self._summary.Image(encoded_image_string=path.read_bytes())
        self._add(step, {name: {"image": image}})

    def _add(self, step: int, values: dict[str, dict]) -> None:
        values = [self._summary.Value(tag=tag, **value) for tag, value in values.items()]
        summary = self._summary(value=values)
        self._board.write_event(self._event(step=step, wall_time=time.time(), summary=summary))
        self._board.flush()

    def close(self) -> None:
        """Flushes both."""
        self._file.close()
        self._board.close()


def read(workdir: Path) -> list[dict]:
    """The rows of DIR/metrics.jsonl, without lines that are damaged: a run that is killed can leave
    half of its last."""
    path = workdir / "metrics.jsonl"
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:  # of JSON, or of bytes that are no text
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def memory() -> dict[str, int]:
    """The most memory so far, bytes: of the fullest device here, or, where the backend does not
    tell it, of this process."""
    found = [stats for device in jax.local_devices() if (stats := device.memory_stats())]
    if found:
        return {"device_peak_bytes": max(stats["peak_bytes_in_use"] for stats in found)}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"host_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def columns(pending: list[dict]) -> dict[str, np.ndarray]:
    """The metrics of every step since the last row."""
    found = jax.device_get(pending)
    return {key: np.concatenate([metrics[key] for metrics in found]) for key in found[0]}


def check_skipped(column: np.ndarray, before: int, most: int) -> int:
    """How many steps in a row were skipped up to the last; raises if they were more than `most` at
    any time. before: those up to the first."""
    count = before
    for skipped in column:
        count = count + 1 if skipped else 0
        if count > most:
            raise NonFiniteError(
                "the loss or gradient was not finite, or the gradient a spike (train.spike), in "
                f"{count} steps in a row, more than train.max_skipped"
            )
    return count


def means(columns: dict[str, np.ndarray], last: int) -> dict[str, float]:
    """Means of metrics (`objectives.Objective`) over the steps that were not skipped, and how many
    were; raises at the first value that is not finite in a step that was not. A metric that has no
    weight in any of them is left out."""
    count = len(next(iter(columns.values())))
    made = columns.get("skipped", np.zeros(count)) == 0
    row = {}
    for key, values in columns.items():
        bad = made & ~np.isfinite(values.reshape(count, -1)).all(axis=1)
        if bad.any():
            first = int(np.argmax(bad))
            step = last - count + 1 + first
            raise NonFiniteError(f"the {key} became {values[first]} at step {step}")
        if key == "skipped":
            row[key] = float(values.sum())
            continue
        part, weight = values.T if values.ndim > 1 else (values, np.ones(count))
        if total := weight[made].sum(dtype=np.float64):
            row[key] = float(part[made].sum(dtype=np.float64) / total)
    return row
