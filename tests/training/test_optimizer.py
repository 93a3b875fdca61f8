"""The optimiser against Adam written out (Kingma & Ba 2015, alg. 1; Loshchilov & Hutter 2019)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import base
from score_sde.experiment import build as door

RATE, WARMUP, STEPS = 0.1, 3, 9
B1, B2, EPS = 0.8, 0.95, 1e-3


def options(**changes):
    fields = {"learning_rate": RATE, "warmup": WARMUP, "beta1": B1, "beta2": B2, "eps": EPS}
    return ConfigDict({**base.get_config().optim.to_dict(), **fields, **changes})


def gradients():
    """Of a matrix and a bias; some are longer than the clip of 1, others are not."""
    rng = np.random.default_rng(0)
    size = [3.0, 0.05, 20.0, 0.3, 0.1, 5.0, 0.02, 1.5, 0.4]
    return [{"w": s * rng.normal(size=(3, 2)), "b": s * rng.normal(size=2)} for s in size]


def by_hand(config, rate_of):
    """Adam after the clip of the gradient's norm, decay of the matrix alone; step i has
    `rate_of(i)`, i from 1."""
    params = {"w": np.ones((3, 2)), "b": np.ones(2)}
    m, v = ({key: np.zeros_like(p) for key, p in params.items()} for _ in range(2))
    for i, gradient in enumerate(gradients(), 1):
        norm = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
        for key, g in gradient.items():
            if config.clip:
                g = g * min(1, config.clip / norm)
            m[key] = B1 * m[key] + (1 - B1) * g
            v[key] = B2 * v[key] + (1 - B2) * g**2
            update = m[key] / (1 - B1**i) / (np.sqrt(v[key] / (1 - B2**i)) + EPS)
            decay = config.weight_decay if key == "w" else 0
            params[key] = params[key] - rate_of(i) * (update + decay * params[key])
    return params


def ours(config):
    optimizer, rate = door.build_optimizer(config, STEPS)
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, gradient):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient, state, params)
        return jax.tree.map(jnp.add, params, updates), state

    for gradient in gradients():
        params, state = step(params, state, jax.tree.map(jnp.asarray, gradient))
    return params, rate


def constant(i):
    """The first step has the rate of step 1 of the warm-up, and not 0."""
    return RATE * min(i / WARMUP, 1)


def cosine(i):
    done = max(i - WARMUP, 0) / (STEPS - WARMUP)
    return constant(i) * (1 + np.cos(np.pi * done)) / 2


@pytest.mark.parametrize(
    ("changes", "rate_of"),
    [
        ({}, constant),
        ({"clip": 0.0}, constant),
        ({"weight_decay": 0.3}, constant),
        ({"schedule": "cosine"}, cosine),
    ],
    ids=["clip", "no clip", "decay", "cosine"],
)
def test_updates_are_those_of_adam(x64, changes, rate_of):
    config = options(**changes)
    params, rate = ours(config)
    truth = by_hand(config, rate_of)
    # bias corrections and the schedule are float32 in optax
    for key, p in truth.items():
        np.testing.assert_allclose(params[key], p, rtol=1e-5, err_msg=key)
    steps = np.arange(STEPS + 1)
    with jax.numpy_dtype_promotion("standard"):
        found = np.array([float(rate(step)) for step in steps])
    np.testing.assert_allclose(found, [rate_of(i) for i in steps], rtol=1e-6, atol=1e-8)
