"""The rows of metrics that training leaves: made of every step's, and written."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np


class NonFiniteError(RuntimeError):
    """The loss or the gradient became infinite or NaN."""


class MetricsLog:
    """DIR/metrics.jsonl and TensorBoard event files in DIR/tensorboard."""

    def __init__(self, workdir: Path, start: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        path = workdir / "metrics.jsonl"
        # Rows after the checkpoint belong to steps that are about to be made again.
        old = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in old if _step(line) is not None and _step(line) <= start]
        whole = path.with_suffix(".tmp")
        whole.write_text("".join(line + "\n" for line in kept))
        whole.replace(path)
        self._file = path.open("a", buffering=1)
        # not its SummaryWriter: on a full disk the thread of that dies, and `add` waits for ever
        (workdir / "tensorboard").mkdir(exist_ok=True)
        self._board = EventsWriter(str(workdir / "tensorboard" / "events"))
        self._event, self._scalar = Event, scalar
        if start:  # TensorBoard then forgets later steps of an earlier file
            session = SessionLog(status=SessionLog.START)
            self._board.write_event(Event(step=start, wall_time=time.time(), session_log=session))
        self._step, self._time = start, time.perf_counter()

    def write(self, step: int, row: dict, batch_size: int) -> float:
        """Adds one row; returns the images per second since the last."""
        now = time.perf_counter()
        rate = (step - self._step) * batch_size / (now - self._time)
        self._step, self._time = step, now
        row = {"step": step, **row, "images_per_second": rate}
        self._file.write(json.dumps(row) + "\n")
        for key, value in row.items():
            if key != "step":
                event = self._event(
                    step=step, wall_time=time.time(), summary=self._scalar(key, value)
                )
                self._board.write_event(event)
        self._board.flush()
        return rate

    def close(self) -> None:
        """Flushes both."""
        self._file.close()
        self._board.close()


def columns(pending: list[dict]) -> dict[str, np.ndarray]:
    """The metrics of every step since the last row."""
    return {
        key: np.concatenate([np.asarray(metrics[key]) for metrics in pending]) for key in pending[0]
    }


def check_skipped(column: np.ndarray, before: int, most: int) -> int:
    """How many steps in a row were skipped up to the last; raises if they were more than `most` at
    any time. before: those up to the first."""
    count = before
    for skipped in column:
        count = count + 1 if skipped else 0
        if count > most:
            raise NonFiniteError(
                f"the loss or gradient was not finite in {count} steps in a row, more than "
                "train.max_skipped"
            )
    return count


def means(columns: dict[str, np.ndarray], last: int) -> dict[str, float]:
    """Means of metrics over the steps that were not skipped, none if all were, and how many were;
    raises at the first value that is not finite in a step that was not."""
    count = len(next(iter(columns.values())))
    made = columns.get("skipped", np.zeros(count)) == 0
    row = {}
    for key, values in columns.items():
        bad = np.flatnonzero(made & ~np.isfinite(values))
        if len(bad):
            step = last - count + 1 + int(bad[0])
            raise NonFiniteError(f"the {key} became {values[bad[0]]} at step {step}")
        if key == "skipped":
            row[key] = float(values.sum())
        elif made.any():
            row[key] = float(np.mean(values[made]))
    return row


def _step(line: str) -> int | None:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # the last line of a run that was killed
        return None
