"""A data set with a measurement of each example, such as a blurred image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_sde.data.source import Arrays, Data, Source, gather
from score_sde.errors import DataError
from score_sde.types import Feature

__all__ = ["observed"]  # what a config can name

_BATCH = 1024


def observed(
    of: Sequence[Data],
    *,
    operator: Callable[[tuple[int, ...]], Any],
    noise: float = 0.0,
    part: str = "image",
    seed: int = 0,
) -> Data:
    """The examples of a data set, and in the part "source" `A(x) + noise z`, which are pairs of an
    image and what is left of it. Held in memory.

    of: one data set. In a config a tuple of one loader, such as ("digits()",).
    operator: in a config a name of `inverse.operators`, such as "gaussian_blur(std=1.0)", whose
        results have the shape of x.
    noise: the standard deviation, where images are scaled to [-1, 1], as `edit.noise`. An example's
        noise depends on the seed and its number.

    "source" has real numbers, on the scale of the part.

    Raises:
      DataError: there is not one data set, or its part or the measurement does not fit.
    """
    if len(of) != 1 or part not in of[0].features:
        raise DataError(f"observed needs one data set with the part {part!r}: of=(LOADER,)")
    data, feature = of[0], of[0].features[part]
    made = operator(feature.shape)
    if tuple(made.y_shape) != feature.shape:
        raise DataError(
            f"a measurement of shape {tuple(made.y_shape)} is no start for {part!r} of shape "
            f"{feature.shape}: take an operator that keeps it, such as gaussian_blur"
        )
    half = 1.0 if feature.values is None else (feature.values - 1) / 2
    middle = 0.0 if feature.values is None else half

    def seen(source: Source, split: int) -> Arrays:
        rng = np.random.default_rng((seed, split))
        parts = []
        for first in range(0, len(source), _BATCH):
            batch = gather(source, np.arange(first, min(first + _BATCH, len(source))))
            x = (np.asarray(batch[part], np.float32) - middle) / half
            y = np.asarray(made.apply(jnp.asarray(x)))
            y = y + noise * rng.standard_normal(y.shape)
            parts.append({**batch, "source": (middle + half * y).astype(np.float32)})
        return Arrays(**{name: np.concatenate([p[name] for p in parts]) for name in parts[0]})

    train, test = seen(data.train, 0), seen(data.test, 1)
    features = {**data.features, "source": Feature(feature.shape)}
    return Data(f"{data.name}, observed", train, test, features)
