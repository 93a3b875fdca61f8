"""The progress bar of everything that takes long."""

from __future__ import annotations

import sys

from tqdm import tqdm

from score_sde.runtime import hosts


def progress(total: int, unit: str, description: str | None = None, initial: int = 0) -> tqdm:
    """A bar with the rate and the time left, which only process 0 shows. In a log file it is a line
    every 30 s."""
    return tqdm(
        total=total,
        initial=initial,
        unit=unit,
        desc=description,
        dynamic_ncols=True,
        disable=not hosts.is_main(),
        mininterval=0.2 if sys.stderr.isatty() else 30,
    )
