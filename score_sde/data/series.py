"""Time series of an autoregressive process, whose forecasts are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from score_sde.data.source import Arrays, Data, labelled_reals
from score_sde.errors import DataError

__all__ = ["series"]  # what a config can name


class AR2(NamedTuple):
    """x_t = a x_{t-1} + b x_{t-2} + s z_t, stationary, z standard normal; s makes the variance 1
    (Box & Jenkins 1970, "Time Series Analysis", sec. 3.2.4)."""

    a: float
    b: float

    @property
    def stationary(self) -> bool:
        """Whether the roots of 1 = a z + b z^2 are outside the unit circle."""
        return abs(self.b) < 1 and abs(self.a) < 1 - self.b

    @property
    def noise(self) -> float:
        """s."""
        a, b = self
        return math.sqrt((1 + b) * ((1 - b) ** 2 - a**2) / (1 - b))

    def correlations(self, length: int) -> Float[np.ndarray, " length"]:
        """Of x_t and x_{t+k}: r_k = a r_{k-1} + b r_{k-2}, with r_0 = 1 and r_1 = a / (1 - b)."""
        return self._recursion([1.0, self.a / (1 - self.b)], length)

    def covariance(self, length: int) -> Float[np.ndarray, "length length"]:
        """Of so many numbers in a row."""
        i = np.arange(length)
        return self.correlations(length)[np.abs(i[:, None] - i)]

    def forecast(
        self, past: Float[np.ndarray, "*b t"], steps: int
    ) -> tuple[Float[np.ndarray, "*b steps"], Float[np.ndarray, "steps steps"]]:
        """The law of the next `steps` numbers, given at least two before: a normal one, its mean
        and covariance. With w_j the answer to a shock after j steps, the covariance is

            s^2 sum_m w_{i-m} w_{j-m},   w_j = a w_{j-1} + b w_{j-2}, w_0 = 1, w_1 = a
        """
        means = [past[..., -2], past[..., -1]]
        for _ in range(steps):
            means.append(self.a * means[-1] + self.b * means[-2])
        w = self._recursion([1.0, self.a], steps)
        i = np.arange(steps)
        lag = i[:, None] - i
        answers = np.where(lag >= 0, w[np.maximum(lag, 0)], 0)
        return np.stack(means[2:], axis=-1), self.noise**2 * answers @ answers.T

    def sample(
        self, random: np.random.Generator, n: int, length: int
    ) -> Float[np.ndarray, "n length"]:
        """n series, each from the stationary law."""
        z = random.normal(size=(length, n))
        r = self.correlations(2)[1]
        found = [z[0], r * z[0] + math.sqrt(1 - r**2) * z[1]]
        for t in range(2, length):
            found.append(self.a * found[-1] + self.b * found[-2] + self.noise * z[t])
        return np.stack(found[:length], axis=1)

    def _recursion(self, first: list[float], length: int) -> Float[np.ndarray, " length"]:
        found = first
        while len(found) < length:
            found.append(self.a * found[-1] + self.b * found[-2])
        return np.array(found[:length])


def series(
    *,
    coefficients: Sequence[tuple[float, float]] = ((1.6, -0.8), (0.3, 0.5)),
    length: int = 64,
    train: int = 20_000,
    test: int = 1_000,
    seed: int = 0,
) -> Data:
    """float32 [length, channels]: independent channels, each an `AR2` of variance 1. The first of
    the defaults swings, about once in 13 steps; the second wanders. Labels are 0.

    coefficients: (a, b) of each channel. seed: of all numbers.

    Raises DataError where a process is not stationary, or a number is out of range.
    """
    if length < 2 or min(train, test) < 1 or not coefficients:
        raise DataError(
            f"length must be at least 2, train and test at least 1, with a channel or more; got "
            f"{length}, {train}, {test} and {len(coefficients)}"
        )
    processes = [AR2(*each) for each in coefficients]
    for each in processes:
        if not each.stationary:
            raise DataError(
                f"coefficients {tuple(each)} are of no stationary process: |b| < 1 and |a| < 1 - b"
            )
    splits: list[Arrays] = []
    for split, n in enumerate((train, test)):
        random = np.random.default_rng((seed, split))
        values = np.stack([each.sample(random, n, length) for each in processes], axis=-1)
        splits.append(Arrays(series=values.astype(np.float32), label=np.zeros(n, np.int32)))
    train_split, test_split = splits
    features = labelled_reals("series", (length, len(processes)))
    return Data("series", train_split, test_split, features)
