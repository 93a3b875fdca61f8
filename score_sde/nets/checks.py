"""Checks that networks share: of their options, of the rate of dropout, of the size of images; and
what their fields are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float


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


def check_size(x: Float[Array, "b h w c"], times: int, field: str) -> None:
    """Checks that images can be halved so many times.

    field: of the network, which says how often.

    Raises:
        ValueError: they cannot.
    """
    _, height, width, _ = x.shape
    multiple = 2**times
    if height % multiple or width % multiple:
        raise ValueError(
            f"images of {height}x{width} cannot be halved {times} times: pad or resize them to "
            f"multiples of {multiple}, or shorten {field}"
        )


def fields_of(net: nn.Module) -> dict[str, Any]:
    """The fields of a network and their values, with which its class makes the same one."""
    names = (field.name for field in dataclasses.fields(net))
    return {name: getattr(net, name) for name in names if name not in ("parent", "name")}
