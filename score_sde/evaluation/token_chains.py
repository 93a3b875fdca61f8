"""The exact law of what a solver of tokens draws, without a draw: its chain over all states."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from score_sde.processes import MASK, Discrete
from score_sde.solvers.tokens import Transition
from score_sde.types import Denoiser

MOST = 5_000  # states: the chain is a matrix of as many rows and columns


def states(process: Discrete, length: int, values: int) -> Int[np.ndarray, "n l"]:
    """All x of so many tokens and values, in lexicographic order, with masks if the process has
    them.

    Raises:
      ValueError: there are more than `MOST`.
    """
    each = range(MASK if process.absorbing else 0, values)
    if len(each) ** length > MOST:
        raise ValueError(f"{len(each)}^{length} states are more than {MOST:,}: take fewer tokens")
    return np.array([*itertools.product(each, repeat=length)], np.int32)


def law_of(
    transition: Transition,
    process: Discrete,
    denoiser: Denoiser,
    length: int,
    values: int,
    steps: int,
) -> Float[np.ndarray, " n"]:
    """The probability of each of the `states` after so many equal steps from t_max to t_min."""
    x = states(process, length, values)
    prior = np.all(x == MASK, axis=1) if process.absorbing else np.ones(len(x))
    law, times = prior / prior.sum(), jnp.linspace(process.t_max, process.t_min, steps + 1)
    for t, s in itertools.pairwise(times):
        law = law @ _chain(transition, denoiser, x, t, s, law > 0)
    return law


def _chain(transition, denoiser, x, t, s, comes) -> Float[np.ndarray, "n n"]:
    """From each state that comes to each state."""
    value, masked = (np.asarray(a) for a in transition(denoiser, jnp.asarray(x), t, s))
    each = np.concatenate([(1 - masked)[..., None] * value, masked[..., None]], axis=2)
    chain = np.ones((len(x), len(x)))
    for i in range(x.shape[1]):
        chain *= each[:, i][:, x[:, i]]  # a mask, -1, is the last value
    chain[~comes] = 0
    return chain


def total_variation(
    law: Float[np.ndarray, " n"], process: Discrete, probs: Float[np.ndarray, "..."]
) -> float:
    """Half the sum of the differences of a law of all states to one of the sequences [v, ..., v];
    masks that are left count as errors."""
    probs = np.asarray(probs)
    wanted, x = np.zeros(len(law)), states(process, probs.ndim, probs.shape[0])
    wanted[np.all(x != MASK, axis=1)] = probs.reshape(-1)
    return float(np.abs(law - wanted).sum() / 2)
