"""The process of one framework: it answers `frameworks.py` with a line of JSON each time.

A line that names one of the runs has it done once. Only the standard library is imported here.
"""

from __future__ import annotations

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

    runs: by name, the sampler and the training step; each returns when its result is there.
    facts: parameters, operations of a forward pass, what else the table tells.
    device_peak: the bytes that an accelerator held at most; None on the processor.
    """

    runs: Mapping[str, Callable[[], object]]
    facts: Callable[[], dict[str, Any]]
    device_peak: Callable[[], int | None]


def versions(*packages: str) -> dict[str, str]:
    """Those of installed packages."""
    return {name: metadata.version(name) for name in packages}


def serve(make: Callable[[SimpleNamespace], Side]) -> None:
    """Makes the side from the settings of the command line, and answers until the input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply

    def reply(**message: Any) -> None:
        print(json.dumps(message), file=replies, flush=True)

    try:
        side = make(SimpleNamespace(**json.loads(sys.argv[1])))
    except ModuleNotFoundError as missing:
        return reply(missing=str(missing))
    reply(ready=True)
    for line in sys.stdin:
        name = line.strip()
        if name == "facts":
            reply(**side.facts())
            continue
        start = time.perf_counter(), time.process_time()
        side.runs[name]()
        reply(
            seconds=time.perf_counter() - start[0],
            processor=time.process_time() - start[1],
            peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            device_peak=side.device_peak(),
        )
