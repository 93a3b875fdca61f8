"""The metrics of training: those of many steps become a row, and rows are written."""

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
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        path = workdir / "metrics.jsonl"
        # the steps after the checkpoint will be repeated
        kept = [row for row in read(workdir) if row["step"] <= start]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a", buffering=1, encoding="utf-8")
        # not SummaryWriter: on a full disk its thread dies, and `add` waits for ever
        (workdir / "tensorboard").mkdir(exist_ok=True)
        earlier = any((workdir / "tensorboard").iterdir())
        self._board = EventsWriter(str(workdir / "tensorboard" / "events"))
        self._event, self._summary = Event, Summary
        if earlier:  # makes TensorBoard drop the later steps of earlier files
            session = SessionLog(status=SessionLog.START)
            self._board.write_event(Event(step=start, wall_time=time.time(), session_log=session))
        self._step, self._time = start, time.perf_counter()

    def write(self, step: int, row: dict, batch_size: int) -> float:
        """Adds a row; returns the images per second since the last one."""
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
        shown = [self._summary.Value(tag=tag, **value) for tag, value in values.items()]
        summary = self._summary(value=shown)
        self._board.write_event(self._event(step=step, wall_time=time.time(), summary=summary))
        self._board.flush()

    def close(self) -> None:
        """Flushes both."""
        self._file.close()
        self._board.close()


def read(workdir: Path) -> list[dict]:
    """The rows of DIR/metrics.jsonl, without damaged lines: a run that was killed may leave half a
    line."""
    path = workdir / "metrics.jsonl"
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # of JSON, or of bytes that are no text
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def memory() -> dict[str, int]:
    """The peak of the memory in bytes: of the fullest local device or, if the backend does not tell
    it, of this process."""
    found = [stats for device in jax.local_devices() if (stats := device.memory_stats())]
    if found:
        return {"device_peak_bytes": max(stats["peak_bytes_in_use"] for stats in found)}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"host_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def columns(pending: list[dict]) -> dict[str, np.ndarray]:
    """The metrics of all steps since the last row, each concatenated."""
    found = jax.device_get(pending)
    return {key: np.concatenate([metrics[key] for metrics in found]) for key in found[0]}


def check_skipped(column: np.ndarray, before: int, most: int) -> int:
    """How many steps in a row are skipped at the end of the column.

    before: how many were skipped in a row just before it.

    Raises:
      NonFiniteError: more than `most` steps in a row were skipped.
    """
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
    """Means of metrics over the steps that were not skipped, and the number of skipped steps.

    columns: a metric [steps], or [steps, 2] with a weight for each value. A metric without weight
    in any step is left out. last: the number of the last step.

    Raises:
      NonFiniteError: a value is not finite in a step that was not skipped.
    """
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
