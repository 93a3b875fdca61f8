"""What a codec makes of many examples: compiled, and a few at a time, for it may hold networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from score_sde.codecs.codec import Codec

SIZE = 32  # examples at a time


def _of_all(function: Callable[[Codec, Any], Any]) -> Callable[[Codec, Any], np.ndarray]:
    compiled = jax.jit(function)

    def of_all(codec: Codec, examples: Any) -> np.ndarray:
        examples = np.asarray(examples)
        size, parts = min(SIZE, len(examples)), []
        for first in range(0, len(examples), SIZE):
            # the last ones are filled up, so that one program serves all
            numbers = np.minimum(np.arange(first, first + size), len(examples) - 1)
            parts.append(np.asarray(compiled(codec, examples[numbers])))
        return np.concatenate(parts)[: len(examples)]

    return of_all


shown = _of_all(lambda codec, x: codec.show(codec.decode(x)))
"""`(codec, x [n, ...]) -> [n, ...]`, what is shown of x of the network's space."""

shown_raw = _of_all(lambda codec, raw: codec.show_raw(raw))
"""`(codec, raw [n, ...]) -> [n, ...]`, what is shown of raw parts."""

raw_of = _of_all(lambda codec, shown: codec.raw_of(shown))
"""`(codec, shown [n, ...]) -> [n, ...]`, the raw parts nearest to what is shown."""

located = _of_all(lambda codec, shown: codec.locate(shown))
"""`(codec, shown [n, ...]) -> [n, ...]`, the x of what is shown."""
