"""Worlds whose pictures can be read back: what is asked of a model, and whether it is there.

What a config can name (`evaluate.world`) are constructors `(**options) -> World`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from score_sde.data.shapes import agree, read_attributes
from score_sde.data.shapes import prompts as prompts_of_shapes

__all__ = ["shapes"]  # what a config can name


class World(NamedTuple):
    """prompts: `(held_out, n) -> (texts, what each names)`: of combinations that are in the
        training examples, or of those that are held out.
    read: `(a shown picture, what was asked) -> whether each attribute is as asked`, by name; "all"
        says whether all are, and nothing else is there.
    """

    prompts: Callable[[bool, int], tuple[list[str], list[Any]]]
    read: Callable[[np.ndarray, Any], Mapping[str, bool]]


def shapes(max_shapes: int = 1, seed: int = 0) -> World:
    """Coloured shapes (`data.shapes`), read by their colour, form, size and place."""

    def prompts(held_out, n):
        asked = prompts_of_shapes(held_out, n, max_shapes=max_shapes, seed=seed)
        return [text for text, _ in asked], [wanted for _, wanted in asked]

    def read(image, wanted):
        found = read_attributes(image)
        each = {
            name: len(found) == len(wanted)
            and sorted(str(getattr(s, name)) for s in found)
            == sorted(str(getattr(s, name)) for s in wanted)
            for name in ("colour", "form", "size", "place")
        }
        return each | {"all": agree(wanted, found)}

    return World(prompts, read)
