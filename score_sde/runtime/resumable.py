"""Partial results of long work, so that what was interrupted goes on where it was."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.runtime.atomic import replacing, write_text

EVERY = 30.0  # seconds between writes


class Partial:
    """A place in `DIR/partial` for the state of one piece of work, and for its result.

    about: JSON, all that the result depends on. Work about something else has another place, so
    that what is found is always of this work. Files are written whole or not at all.
    """

    def __init__(self, workdir: Path, name: str, about: dict[str, Any]):
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        folder = workdir / "partial"
        self._state = folder / f"{name}-{digest}.npz"
        self._result = folder / f"{name}-{digest}.json"
        self._written = time.monotonic()

    def load(self) -> dict[str, np.ndarray] | None:
        """The arrays that were saved last, or None."""
        try:
            with np.load(self._state, allow_pickle=False) as file:
                return dict(file)
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever a damaged file makes NumPy run into
            return _anew(self._state, error)

    def save(self, **arrays: np.ndarray) -> None:
        """Writes the arrays, if the last time is EVERY seconds ago."""
        if time.monotonic() - self._written < EVERY:
            return
        self._state.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._state) as file:
            np.savez(file, **arrays)
        self._written = time.monotonic()

    @property
    def result(self) -> dict[str, Any] | None:
        """What `finish` was given, or None."""
        try:
            found = json.loads(self._result.read_bytes())
            if not isinstance(found, dict):
                raise ValueError(f"it holds {found!r:.40}")
        except FileNotFoundError:
            return None
        except ValueError as error:  # of JSON, or of bytes that are no text
            return _anew(self._result, error)
        return found

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Keeps the result in the place of the arrays, and returns it."""
        self._state.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._result, json.dumps(result))
        self._state.unlink(missing_ok=True)
        return result

    def remove(self) -> None:
        """Forgets everything, once the whole is stored elsewhere."""
        self._state.unlink(missing_ok=True)
        self._result.unlink(missing_ok=True)
        folder = self._state.parent
        for left in folder.glob(f".{self._state.stem}.*.tmp"):  # by a process that was killed
            left.unlink()
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()


def _anew(path: Path, error: Exception) -> None:
    print(f"{path} is damaged ({error}): starting that part anew", flush=True)
