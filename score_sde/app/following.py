"""A job in a thread of its own, and what it tells meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from score_sde.app.watching import Watch

PERIOD = 0.2  # seconds, at least, between two that are told


def following(job: Callable[[Watch], Any]) -> Iterator[Any]:
    """The newest call of a denoiser (`Seen`) now and then while `job(watch)` runs, and at last its
    result. A reader that is slow misses calls in between. If it leaves, the job is told to stop.

    Raises:
      what the job raises.
    """
    watch, result, failed = Watch(), [], []

    def run() -> None:
        try:
            result.append(job(watch))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            if (seen := watch.newer(PERIOD)) is not None:
                yield seen
                thread.join(PERIOD)
    finally:
        watch.stopped = True
    if failed:
        raise failed[0]
    yield result[0]
