"""What an optimiser keeps the parameters to, by name: constructors `() -> Constraint`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from score_sde.types import PyTree

__all__ = ["none", "unit_rms"]  # what a config can name

Constraint = Callable[[PyTree, PyTree], PyTree]
"""`(updates, params) -> updates`, those with which `params + updates` is where it should be."""


def none() -> Constraint:
    """Parameters may be anything."""
    return lambda updates, params: updates


def unit_rms(eps: float = 1e-4) -> Constraint:
    """The weights w of each output of every matrix and kernel become w / (eps + rms w): the forced
    normalisation of EDM2 (Karras et al. 2023, arXiv:2312.02696, eq. 66), without which weights grow
    and their relative updates shrink.

    Outputs are on the last axis. Parameters of fewer than two dimensions stay as they are. EDM2
    normalises before the next step in the place of after this one, so its averages are of weights
    not yet normalised; networks that normalise where they use a weight give nearly the same.
    """

    def normalized(weight):
        square = jnp.mean(weight**2, axis=tuple(range(weight.ndim - 1)), keepdims=True)
        return weight / (eps + jnp.sqrt(square))

    def projected(update, param):
        return update if param.ndim < 2 else normalized(param + update) - param

    return lambda updates, params: jax.tree.map(projected, updates, params)


def constrained(
    optimizer: optax.GradientTransformation, constraint: Constraint
) -> optax.GradientTransformation:
    """The optimiser whose updates keep to the constraint; its state is the same."""

    def update(updates, state, params=None):
        updates, state = optimizer.update(updates, state, params)
        return constraint(updates, params), state

    return optax.GradientTransformation(optimizer.init, update)
