"""What every noising process has, Gaussian or discrete."""

from __future__ import annotations

from typing import Any, Protocol

from jaxtyping import Array

from score_sde.types import Keys


class Process(Protocol):
    """Noise is added to data from t_min, next to the data, to t_max, next to the prior.

    prior_sample: x_T [*shape] of a dtype.
    perturb: draws x_t given x_0 [b, ...] at times t [] or [b].
    Both take one key, or one for each example.
    """

    t_min: float
    t_max: float
    discrete: bool  # whether it is of tokens

    def prior_sample(self, key: Keys, shape: tuple[int, ...], dtype: Any) -> Array: ...

    def perturb(self, key: Keys, x_0: Array, t: Array) -> Array: ...
