"""Compiled samplers and edits, which are kept: a second request compiles what is new in it."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from score_sde.config import parse
from score_sde.editing.tasks import Edit
from score_sde.experiment import edits, samplers
from score_sde.experiment.build import Experiment
from score_sde.experiment.workdirs import as_json

KEPT = 16
# These are arguments of the program of samples, or decide what is done with its results.
_ARGUMENTS = {
    *("labels", "prompts", "world", "images", "negative"),
    *("num_samples", "batch_size", "files", "filters", "as_data"),
}


class Programs:
    """The newest programs of one model. The seed, what is asked for, and what guidance leads away
    from are arguments of a program; the rest is compiled into it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: OrderedDict[str, Callable] = OrderedDict()

    def sampler(
        self, config: ConfigDict, experiment: Experiment, size: int
    ) -> Callable[..., samplers.Drawn]:
        """As `samplers.build_sampler`."""
        options = as_json(config)["sampling"]
        kept = {name: value for name, value in options.items() if name not in _ARGUMENTS}
        about = ["sample", size, kept, bool(config.sampling.negative)]
        # these are checked, and made, for each request
        requests = samplers.build_requests(config, experiment)
        make = functools.partial(samplers.build_sampler, config, experiment, size)
        return functools.partial(self._program(about, make), requests=requests)

    def edit(self, config: ConfigDict, experiment: Experiment, plan: Edit) -> Callable[..., Any]:
        """As `edits.build_program`."""
        options = as_json(config)
        given = _ARGUMENTS - {"negative", "batch_size"}  # which are compiled into an edit
        kept = {name: value for name, value in options["sampling"].items() if name not in given}
        without = {name: value for name, value in options["edit"].items() if name != "images"}
        about = ["edit", kept, without, _digest(config.edit.task)]
        return self._program(
            about, functools.partial(edits.build_program, config, experiment, plan)
        )

    def _program(self, about: list[Any], make: Callable[[], Callable]) -> Callable:
        key = json.dumps(about, sort_keys=True)
        with self._lock:
            program = self._made.get(key) or make()
            self._made[key] = program
            self._made.move_to_end(key)
            while len(self._made) > KEPT:
                self._made.popitem(last=False)
        return program


def _digest(task: str) -> str:
    """Of the mask that a task names, for the file may change; "" if it names none."""
    keep = str(parse(task)[1].get("keep", ""))
    file = Path(keep).expanduser()
    return hashlib.sha256(file.read_bytes()).hexdigest() if "." in keep and file.is_file() else ""
