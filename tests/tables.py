"""A law of three tokens of three values, and the exact laws of chains over all their states."""

import itertools

import jax.numpy as jnp
import numpy as np

from score_sde.evaluation import token_chains
from score_sde.processes import exact

LENGTH, VALUES = 3, 3


def table(seed=0):
    """A law far from independent tokens."""
    probs = np.random.default_rng(seed).dirichlet(np.full(VALUES**LENGTH, 0.3))
    return exact.Table(jnp.asarray(probs.reshape((VALUES,) * LENGTH)))


def states(process):
    """All x [n, 3]; with masks, if the process has them."""
    return token_chains.states(process, LENGTH, VALUES)


def sequences():
    """All x without masks."""
    return np.array([*itertools.product(range(VALUES), repeat=LENGTH)], np.int32)


def forward(process, t):
    """q(x_t | x_0) [27, n] of every sequence and every state, written out from its definition."""
    alpha = float(process.alpha(jnp.asarray(t, float)))
    x_0, x_t = sequences()[:, None], states(process)[None]
    same = x_t == x_0
    if process.absorbing:
        each = np.where(x_t == -1, 1 - alpha, alpha * same)
    else:
        each = alpha * same + (1 - alpha) / VALUES
    return each.prod(axis=2)


def law_of(transition, process, denoiser, n):
    """The law [n_states] of a sampler after n steps of a uniform grid, without any draw."""
    return token_chains.law_of(transition, process, denoiser, LENGTH, VALUES, n)
