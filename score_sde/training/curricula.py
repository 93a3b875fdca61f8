"""How the number of noise levels grows while a consistency model is trained.

Constructors `(**options) -> Curriculum`. N is the number of noise levels, so a grid has N - 1
steps. k is the number of steps of training so far.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from score_sde.training.ema import Average

__all__ = ["doubling", "fixed", "progressive"]  # what a config can name


class Curriculum(NamedTuple):
    """Stages of training.

    levels: N in each stage.
    starts: the step k at which each stage begins; the first is 0.
    rates: mu in each stage, the decay of the averaged parameters that give the target; 0 for the
        parameters themselves.
    """

    levels: tuple[int, ...]
    starts: tuple[int, ...]
    rates: tuple[float, ...]

    def stage(self, step: Int[Array, ""]) -> Int[Array, ""]:
        """The number of the stage, from 0."""
        later = jnp.asarray(self.starts[1:], step.dtype)
        return jnp.searchsorted(later, step, side="right").astype(step.dtype)

    @property
    def last(self) -> int:
        """The number of the last stage."""
        return len(self.levels) - 1

    @property
    def targets(self) -> tuple[Average, ...]:
        """The average of the target; none if the target is the parameters themselves."""
        if not any(self.rates):
            return ()

        def share(step: Array) -> Float[Array, ""]:
            return 1 - jnp.asarray(self.rates, jnp.float32)[self.stage(step)]

        return (share,)


def fixed(levels: int = 18, rate: float = 0.0) -> Curriculum:
    """The same N and mu throughout.

    Raises:
      ValueError: N is below 2, or the rate is not in [0, 1).
    """
    _check(levels, rate)
    return Curriculum((levels,), (0,), (rate,))


def progressive(
    length: int = 800_000, first: int = 2, last: int = 150, rate: float = 0.9
) -> Curriculum:
    """That of Song et al. 2023 (arXiv:2303.01469, app. C), with K = length, s_0 = first, s_1 = last
    and mu_0 = rate:

        N(k) = ceil(sqrt(k/K ((s_1 + 1)^2 - s_0^2) + s_0^2) - 1) + 1
        mu(k) = exp(s_0 ln(mu_0) / N(k))

    From N = s_0 with mu_0 to N = s_1 + 1. (The authors' code has N(k) - 1 in mu.)

    Raises:
      ValueError: length is not positive, 2 <= first <= last does not hold, or the rate is not in
        (0, 1).
    """
    _check(first, rate)
    if length < 1 or last < first or rate == 0:
        raise ValueError(
            f"progressive needs length >= 1, last >= first and a rate above 0, not length={length}"
            f", first={first}, last={last}, rate={rate}"
        )
    levels = range(first, last + 2)
    # N(k) > n from the first k on for which k ((s_1 + 1)^2 - s_0^2) > K (n^2 - s_0^2)
    whole = (last + 1) ** 2 - first**2
    starts = [0] + [length * (n**2 - first**2) // whole + 1 for n in levels[:-1]]
    rates = [math.exp(first * math.log(rate) / n) for n in levels]
    return Curriculum(tuple(levels), tuple(starts), tuple(rates))


def doubling(length: int = 400_000, first: int = 10, last: int = 1280) -> Curriculum:
    """That of improved consistency training (Song & Dhariwal 2023, arXiv:2310.14189, eq. 7), with
    K = length, s_0 = first and s_1 = last:

        N(k) = min(s_0 2^floor(k/K'), s_1) + 1,    K' = floor(K / (log2(floor(s_1/s_0)) + 1))

    The target is the parameters themselves, mu = 0.

    Raises:
      ValueError: 1 <= first <= last does not hold, or length has fewer steps than stages.
    """
    if not 1 <= first <= last:
        raise ValueError(f"first={first} and last={last}: 1 <= first <= last must hold")
    each = math.floor(length / (math.log2(last // first) + 1))
    if each < 1:
        raise ValueError(f"length={length} has fewer steps than the curriculum has stages")
    stages = math.ceil(math.log2(last / first)) + 1
    steps = [min(first * 2**stage, last) for stage in range(stages)]
    return Curriculum(
        tuple(n + 1 for n in steps),
        tuple(stage * each for stage in range(stages)),
        (0.0,) * stages,
    )


def _check(levels: int, rate: float) -> None:
    if levels < 2:
        raise ValueError(f"a curriculum begins with at least 2 noise levels, not {levels}")
    if not 0 <= rate < 1:
        raise ValueError(f"rate={rate} is not in [0, 1)")


def increasing_times(curriculum: Curriculum, grid) -> Float[np.ndarray, "stages n"]:
    """The times of each stage from t_min to t_max, then infinity.

    grid: `n -> n + 1 decreasing times`, a grid of `sampling.grids` on the process.
    """
    rows = [np.asarray(grid(n - 1))[::-1] for n in curriculum.levels]
    size = max(curriculum.levels)
    return np.stack([np.pad(row, (0, size - len(row)), constant_values=np.inf) for row in rows])
