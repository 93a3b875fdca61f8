"""Partial results of long work, so that interrupted work can be resumed."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.runtime import json_file, npz_file
from score_sde.runtime.atomic import replacing, write_text

EVERY = 30.0  # seconds between writes


class Partial:
    """The state of one piece of work, and later its result, in files of `DIR/partial`.

    about: JSON of everything that the result depends on. It is part of the files' names, so that
    other work never finds them. Files are written whole or not at all.
    """

    def __init__(self, workdir: Path, name: str, about: dict[str, Any]):
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        folder = workdir / "partial"
        self._state = folder / f"{name}-{digest}.npz"
        self._result = folder / f"{name}-{digest}.json"
        self._written = time.monotonic()

    def load(self) -> dict[str, np.ndarray] | None:
        """The arrays of the last `save`, or None."""
        try:
            return npz_file.read(self._state)
        except FileNotFoundError:
            return None
        except ValueError as error:
            return _anew(error)

    @property
    def due(self) -> bool:
        """Whether `save` would write now."""
        return time.monotonic() - self._written >= EVERY

    def save(self, **arrays: np.ndarray) -> None:
        """Writes the arrays, but not within EVERY seconds of the last time."""
        if not self.due:
            return
        self._state.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._state) as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
        self._written = time.monotonic()

    @property
    def result(self) -> dict[str, Any] | None:
        """What `finish` was given, or None."""
        try:
            return json_file.read(self._result)
        except FileNotFoundError:
            return None
        except ValueError as error:
            return _anew(error)

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Stores the result in place of the arrays, and returns it."""
        self._state.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._result, json.dumps(result))
        self._state.unlink(missing_ok=True)
        return result

    def remove(self) -> None:
        """Removes the files. To be called when the result is stored elsewhere."""
        self._state.unlink(missing_ok=True)
        self._result.unlink(missing_ok=True)
        folder = self._state.parent
        for left in folder.glob(f".{self._state.stem}.*.tmp"):  # by a process that was killed
            left.unlink()
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()


def _anew(error: ValueError) -> None:
    print(f"{error}: starting that part anew", flush=True)
