"""Signals that are sums of two waves."""

from __future__ import annotations

import numpy as np

from score_sde.data.source import Arrays, Data, every_kth
from score_sde.errors import DataError
from score_sde.types import Feature

LENGTH = 64
FREQUENCIES = ((2, 5), (3, 7))  # of each class, cycles a signal: of the slow wave and the fast one
AMPLITUDES = (2.0, 1.0)


def signals(*, num: int = 2000, test_fraction: float = 0.1, seed: int = 0) -> Data:
    """float32 [64]: `2 sin(2 pi a i / 64 + p) + sin(2 pi b i / 64 + q)` at i = 0..63.

    p and q are uniform in [0, 2 pi); (a, b) are (2, 5) in class 0 and (3, 7) in class 1, which
    alternate. Every signal has mean 0 and variance 2.5.

    num: of signals in both splits.
    test_fraction: every `round(1 / test_fraction)`-th pair of one of each class is for the test.
    seed: of p and q.

    Raises DataError where num is odd or below 4, or test_fraction is not in (0, 0.5].
    """
    if num < 4 or num % 2:
        raise DataError(f"num must be even and at least 4, got {num}")
    pairs = num // 2
    phases = 2 * np.pi * np.random.default_rng(seed).random((pairs, 2, 2, 1))  # pair, class, wave
    cycles = np.asarray(FREQUENCIES)[:, :, None] * np.arange(LENGTH) / LENGTH
    waves = np.asarray(AMPLITUDES)[:, None] * np.sin(2 * np.pi * cycles + phases)
    signal = np.sum(waves, axis=2).astype(np.float32)
    label = np.broadcast_to(np.arange(2, dtype=np.int32), (pairs, 2))
    train, test = (
        Arrays(signal=signal[i].reshape(-1, LENGTH), label=label[i].reshape(-1))
        for i in every_kth(pairs, test_fraction)
    )
    return Data("signals", train, test, {"signal": Feature((LENGTH,)), "label": Feature((), 2)})
