"""Examples that say only their shape."""

from __future__ import annotations

import numpy as np

from score_sde.data.source import Arrays, Data, labelled_reals
from score_sde.errors import DataError


def zeros(*, shape: tuple[int, ...], num: int = 1024, part: str = "signal") -> Data:
    """float32 [*shape], all 0, `num` in each split: for an objective that learns from no data, such
    as `adjoint_sampling`, and has to know what x is like.

    Raises DataError where num or a number of `shape` is below 1.
    """
    if not shape or min(*shape, num) < 1:
        raise DataError(f"shape and num must be positive numbers, got {shape} and {num}")
    source = Arrays(**{part: np.zeros((num, *shape), np.float32)}, label=np.zeros(num, np.int32))
    return Data("zeros", source, source, labelled_reals(part, tuple(shape)))
