"""What networks refuse: unknown options, rates that are none, images of a wrong size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn


def check_fields(net: nn.Module, options: Mapping[str, tuple[Any, ...]]) -> None:
    """Checks fields with few values, and the rate of dropout.

    Raises:
        ValueError: a field of the network is none of its `options`; `dropout` is not in [0, 1).
    """
    for field, allowed in options.items():
        value = getattr(net, field)
        if value not in allowed:
            raise ValueError(f"{field}={value!r} is none of {allowed}")
    rate = getattr(net, "dropout", 0.0)
    if not 0 <= rate < 1:
        raise ValueError(f"dropout={rate} is not at least 0 and below 1")


def check_size(height: int, width: int, times: int, field: str) -> None:
    """Checks that an image can be halved so many times.

    field: of the network, which says how often.

    Raises:
        ValueError: it cannot.
    """
    multiple = 2**times
    if height % multiple or width % multiple:
        raise ValueError(
            f"images of {height}x{width} cannot be halved {times} times: pad or resize them to "
            f"multiples of {multiple}, or shorten {field}"
        )
