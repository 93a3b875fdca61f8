"""The process of one framework: it answers `frameworks.py` with a line of JSON each time.

A line that names one of the runs has it done once. Only the standard library is imported here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from types import SimpleNamespace
from typing import Any, NamedTuple


class Side(NamedTuple):
    """What a framework does of the settings.

    runs: by name, the sampler, the training step, and what comes before the first training step
        ("preparation"); each returns when its result is there, and tells how many steps of
        training, or batches of samples, it made.
    facts: parameters, operations of a forward pass, what else the table tells.
    device_peak: the bytes that an accelerator held at most; None on the processor.
    """

    runs: Mapping[str, Callable[[], int]]
    facts: Callable[[], dict[str, Any]]
    device_peak: Callable[[], int | None]


def versions(*packages: str) -> dict[str, str]:
    """Those of installed packages."""
    return {name: metadata.version(name) for name in packages}


def processor() -> float:
    """Seconds that the cores have worked for this process and for compilers that it started."""
    compilers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + compilers.ru_utime + compilers.ru_stime


def serve(make: Callable[[SimpleNamespace], Side], needs: str) -> None:
    """Makes the side from the settings of the command line, and answers until the input ends.

    needs: the package without which there is no such side.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply

    def reply(**message: Any) -> None:
        print(json.dumps(message), file=replies, flush=True)

    if not importlib.util.find_spec(needs):
        reply(missing=f"{needs} is not installed")
        return
    side = make(SimpleNamespace(**json.loads(sys.argv[1])))
    reply(ready=True)
    for line in sys.stdin:
        name = line.strip()
        if name == "facts":
            reply(**side.facts())
            continue
        start = time.perf_counter(), processor()
        made = side.runs[name]()
        reply(
            made=made,
            seconds=time.perf_counter() - start[0],
            processor=processor() - start[1],
            processor_since_start=processor(),
            peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            device_peak=side.device_peak(),
        )
