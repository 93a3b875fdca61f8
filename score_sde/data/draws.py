"""Random numbers that are the same on every machine and with every version of NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


class Draws:
    """Random numbers in turn, of a seed that is several whole numbers."""

    def __init__(self, words: Sequence[int], most: int):
        self.numbers = iter(uniform(words, most).tolist())

    def choice(self, of: Sequence):
        """One of these."""
        return of[int(next(self.numbers) * len(of))]

    def wobble(self) -> float:
        """A number in [-1, 1)."""
        return 2 * next(self.numbers) - 1


def uniform(words: Sequence[int], n: int) -> Float[np.ndarray, " n"]:
    """n numbers in [0, 1), float64, of a seed that is several whole numbers: SplitMix64 (Steele,
    Lea & Flood 2014, "Fast splittable pseudorandom number generators"), begun at a state that
    mixes the words. (NumPy does not promise that its generators give the same in each version.)"""
    state = np.zeros(1, np.uint64)
    for word in words:
        state = _mixed(state + np.uint64(word % 2**64) + _GOLDEN)
    bits = _mixed(state + _GOLDEN * np.arange(1, n + 1, dtype=np.uint64))
    return (bits >> np.uint64(11)) / 2.0**53


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
