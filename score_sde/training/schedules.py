"""Learning rates after the warm-up, by name: constructors `(peak, steps, **options) -> schedule`.

steps: how many are left after the warm-up. A schedule takes the number of the step, from 0.
"""

from __future__ import annotations

import jax.numpy as jnp
import optax


def constant(peak: float, steps: int) -> optax.Schedule:
    """The peak, to the end."""
    return optax.constant_schedule(peak)


def cosine(peak: float, steps: int, final: float = 0.0) -> optax.Schedule:
    """Half a cosine from the peak to the share `final` of it."""
    return optax.cosine_decay_schedule(peak, steps, final)


def linear(peak: float, steps: int, final: float = 0.0) -> optax.Schedule:
    """A line from the peak to the share `final` of it."""
    return optax.linear_schedule(peak, final * peak, steps)


def inverse_sqrt(
    peak: float, steps: int, reference: int = 70_000, before: int = 0
) -> optax.Schedule:
    """peak / sqrt(max((n + before) / reference, 1)) at step n (Karras et al. 2023,
    arXiv:2312.02696, eq. 67).

    before: steps that count, though they were made before; with those of the warm-up it is a law of
        the whole training, as EDM2's.
    """
    return lambda n: peak / jnp.sqrt(jnp.maximum((n + before) / reference, 1.0))
