"""Traces of the devices and the host while a compiled step runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

FIRST, LAST = 3, 5  # calls; the first compiles


@contextmanager
def traced(folder: Path) -> Iterator[Callable[[Callable], Callable]]:
    """A wrapper of one function `(...) -> (state, metrics)`. `jax.profiler` traces the function's
    calls FIRST to LAST, and the host between them, into the folder."""
    count, running = 0, False

    def stop():
        nonlocal running
        jax.profiler.stop_trace()
        running = False
        files = "plugins/profile/*/*.trace.json.gz"
        print(
            f"a trace of calls {FIRST} to {min(count, LAST)} is in {folder}: tensorboard --logdir"
        )
        print(f"  {folder} (pip install tensorboard-plugin-profile), or drop {folder}/{files}")
        print("  on https://ui.perfetto.dev", flush=True)

    def wrap(call):
        def wrapped(*arguments):
            nonlocal count, running
            count += 1
            if count == FIRST:
                jax.profiler.start_trace(folder)
                running = True
            with jax.profiler.StepTraceAnnotation("train", step_num=count):
                state, metrics = call(*arguments)
            if count == LAST:
                jax.block_until_ready(metrics)  # else the trace would end before the devices do
                stop()
            return state, metrics

        return wrapped

    try:
        yield wrap
    finally:
        if running:
            stop()
        elif count < FIRST:
            print(f"nothing was traced: {count} calls of the step, and the trace begins at {FIRST}")
