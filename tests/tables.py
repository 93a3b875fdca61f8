"""A law of three tokens of three values, and the exact laws of chains over all their states."""

import itertools

import jax.numpy as jnp
import numpy as np

from score_sde.processes import exact

LENGTH, VALUES = 3, 3


def table(seed=0):
    """A law far from independent tokens."""
    probs = np.random.default_rng(seed).dirichlet(np.full(VALUES**LENGTH, 0.3))
    return exact.Table(jnp.asarray(probs.reshape((VALUES,) * LENGTH)))


def states(process):
    """All x [n, 3]; with masks, if the process has them."""
    values = range(-1 if process.absorbing else 0, VALUES)
    return np.array([*itertools.product(values, repeat=LENGTH)], np.int32)


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
    x = states(process)
    prior = np.all(x == -1, axis=1) if process.absorbing else np.ones(len(x))
    law, times = prior / prior.sum(), jnp.linspace(process.t_max, process.t_min, n + 1)
    for t, s in itertools.pairwise(times):
        value, masked = (np.asarray(a) for a in transition(denoiser, jnp.asarray(x), t, s))
        each = np.concatenate([(1 - masked)[..., None] * value, masked[..., None]], axis=2)
        chain = np.ones((len(x), len(x)))
        for i in range(LENGTH):
            chain *= each[:, i][:, x[:, i]]  # the value -1 is the last
        chain[law == 0] = 0  # states that do not come
        law = law @ chain
    return law


def total_variation(law, process, probs):
    """Of the law of all states to that of the sequences."""
    wanted = np.zeros(len(law))
    wanted[np.all(states(process) >= 0, axis=1)] = np.asarray(probs).reshape(-1)
    return np.abs(law - wanted).sum() / 2
