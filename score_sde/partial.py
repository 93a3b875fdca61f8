"""Partial results of long work, so that what was interrupted goes on where it was."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

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
            print(f"{self._state} is damaged ({error}): starting that part anew", flush=True)
            return None

    def save(self, **arrays: np.ndarray) -> None:
        """Writes the arrays, if the last time is EVERY seconds ago."""
        if time.monotonic() - self._written < EVERY:
            return
        whole = self._temporary()
        with whole.open("wb") as file:
            np.savez(file, **arrays)
        whole.replace(self._state)
        self._written = time.monotonic()

    @property
    def result(self) -> dict[str, Any] | None:
        """What `finish` was given, or None."""
        return json.loads(self._result.read_text()) if self._result.exists() else None

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Keeps the result in the place of the arrays, and returns it."""
        whole = self._temporary()
        whole.write_text(json.dumps(result))
        whole.replace(self._result)
        self._state.unlink(missing_ok=True)
        return result

    def remove(self) -> None:
        """Forgets everything, once the whole is stored elsewhere."""
        self._state.unlink(missing_ok=True)
        self._result.unlink(missing_ok=True)
        folder = self._state.parent
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()

    def _temporary(self) -> Path:
        """A file beside the others, whose folder another piece of work may have removed."""
        self._state.parent.mkdir(parents=True, exist_ok=True)
        return self._state.with_suffix(".tmp")
