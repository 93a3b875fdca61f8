"""What a reader is given, and how it is called."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Case(NamedTuple):
    """write: makes a folder that the reader reads. read: reads all of it. targets: the files that
    are damaged, each with what it is made of (`mutations.KINDS`). count: so many damaged files in
    the tests; fewer of a slow reader."""

    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    targets: Mapping[str, str]
    count: int = 500


def numbers(*shape, dtype=np.float32):
    """The same arrays each time."""
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def every(data):
    """Reads the examples of both splits; of many, the first and the last thousand."""
    for source in (data.train, data.test):
        for i in {*range(len(source))[:1000], *range(len(source))[-1000:]}:
            source[i]
