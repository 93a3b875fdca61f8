"""The optimiser against Adam written out (Kingma & Ba 2015, alg. 1; Loshchilov & Hutter 2019)."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import base
from score_sde.errors import ConfigError
from score_sde.experiment import optimization
from score_sde.training.optimizer import (
    NORM_DECAY,
    clipped,
    from_one,
    last_rate,
    matrices,
    recent_norm,
    updates,
)

RATE, WARMUP, STEPS = 0.1, 3, 9
B1, B2, EPS = 0.8, 0.95, 1e-3


def options(weight_decay=0.0, **changes):
    """A config whose part `optim` has these fields."""
    config = base.get_config()
    config.train.steps = STEPS
    adam = f"adamw(b1={B1}, b2={B2}, eps={EPS}, weight_decay={weight_decay})"
    config.optim.update(learning_rate=RATE, warmup=WARMUP, optimizer=adam)
    config.optim.update(changes)
    return config


def gradients():
    """Of a matrix and a bias; some are longer than the clip of 1, others are not."""
    rng = np.random.default_rng(0)
    size = [3.0, 0.05, 20.0, 0.3, 0.1, 5.0, 0.02, 1.5, 0.4]
    return [{"w": s * rng.normal(size=(3, 2)), "b": s * rng.normal(size=2)} for s in size]


def by_hand(clip, weight_decay, rate_of):
    """Adam after the clip of the gradient's norm, decay of the matrix alone; step i has
    `rate_of(i)`, i from 1."""
    params = {"w": np.ones((3, 2)), "b": np.ones(2)}
    m, v = ({key: np.zeros_like(p) for key, p in params.items()} for _ in range(2))
    for i, gradient in enumerate(gradients(), 1):
        norm = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
        for key, g in gradient.items():
            if clip:
                g = g * min(1, clip / norm)
            m[key] = B1 * m[key] + (1 - B1) * g
            v[key] = B2 * v[key] + (1 - B2) * g**2
            update = m[key] / (1 - B1**i) / (np.sqrt(v[key] / (1 - B2**i)) + EPS)
            decay = weight_decay if key == "w" else 0
            params[key] = params[key] - rate_of(i) * (update + decay * params[key])
    return params


def ours(config):
    optimizer, rate = optimization.build_optimizer(config)
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
    truth = by_hand(config.optim.clip, changes.get("weight_decay", 0.0), rate_of)
    # bias corrections and the schedule are float32 in optax
    for key, p in truth.items():
        np.testing.assert_allclose(params[key], p, rtol=1e-5, err_msg=key)
    steps = np.arange(STEPS + 1)
    with jax.numpy_dtype_promotion("standard"):
        found = np.array([float(rate(step)) for step in steps])
    np.testing.assert_allclose(found, [rate_of(i) for i in steps], rtol=1e-6, atol=1e-8)


def line(i):
    done = max(i - WARMUP, 0) / (STEPS - WARMUP)
    return constant(i) * (1 - 0.8 * done)


def inverse_sqrt(i):
    return constant(i) / np.sqrt(max(max(i - WARMUP, 0) / 2, 1))


def of_all_steps(i):
    """The learning rate of EDM2: both factors count from the beginning."""
    return RATE * min(i / WARMUP, 1) / np.sqrt(max(i / 4, 1))


@pytest.mark.parametrize(
    ("schedule", "rate_of"),
    [
        ("linear(final=0.2)", line),
        ("inverse_sqrt(reference=2)", inverse_sqrt),
        (f"inverse_sqrt(reference=4, before={WARMUP})", of_all_steps),
    ],
)
def test_schedules(schedule, rate_of):
    _, rate = optimization.build_optimizer(options(schedule=schedule))
    with jax.numpy_dtype_promotion("standard"):
        found = np.array([float(rate(step)) for step in range(STEPS + 1)])
    np.testing.assert_allclose(found, [rate_of(i) for i in range(STEPS + 1)], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("radam(b1=0.8)", lambda rate: optax.radam(rate, b1=0.8)),
        ("contrib.muon(beta=0.9)", lambda rate: optax.contrib.muon(rate, beta=0.9)),
        ("sgd", optax.sgd),
    ],
)
def test_any_optimizer_of_optax(name, theirs):
    """With the rate of step 1 at the first step, after the clip."""
    config = options(optimizer=name, clip=2.0)
    found, rate = ours(config)
    truth = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    chain = optax.chain(optax.clip_by_global_norm(2.0), theirs(lambda n: rate(n + 1)))
    with jax.numpy_dtype_promotion("standard"):
        state = chain.init(truth)
        for gradient in gradients():
            update, state = chain.update(jax.tree.map(jnp.float32, gradient), state, truth)
            truth = optax.apply_updates(truth, update)
    chex.assert_trees_all_close(found, truth, rtol=1e-4)  # radam subtracts like numbers
    assert int(updates(state)) == STEPS


def test_what_is_read_off_the_state():
    """The rate of the last update, and the recent norm: an average with weights 0.999^age."""
    rate = optax.linear_schedule(1.0, 0.0, 10)
    optimizer = clipped(optax.sgd(from_one(rate)), 1.0, remember_norm=True)
    state, squares = optimizer.init(gradients()[0]), []
    for i, gradient in enumerate(gradients(), 1):
        with jax.numpy_dtype_promotion("standard"):
            _, state = optimizer.update(jax.tree.map(jnp.float32, gradient), state)
        squares.append(min(sum(np.sum(g**2) for g in gradient.values()), 1.0))
        norm, count = recent_norm(state)
        ages = np.arange(i)[::-1]
        truth = np.sqrt(np.average(squares, weights=NORM_DECAY**ages))
        np.testing.assert_allclose(norm, truth, rtol=1e-3)  # 1 - 0.999^i in float32
        assert int(count) == i == int(updates(state))
        np.testing.assert_allclose(last_rate(rate, state), 1 - i / 10, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adamm", "optax: unknown name 'adamm'; did you mean 'adam'"),
        ("adamw(beta=1.0)", "optax: adamw has no field 'beta'"),
        ("sgd(momentum=2.0, nesterof=True)", "did you mean 'nesterov'"),
        ("constant_schedule", "constant_schedule is no optimiser of optax"),
    ],
)
def test_wrong_optimizers(name, message):
    with pytest.raises(ConfigError, match=message):
        optimization.build_optimizer(options(optimizer=name))


def test_what_decays():
    """Matrices, also stacked ones; biases and norms do not, stacked or not."""
    layer = {"kernel": np.ones((3, 2)), "bias": np.ones(2), "scale": np.ones(2)}
    stacked = jax.tree.map(lambda a: np.stack([a, a]), layer)
    decays = {"kernel": True, "bias": False, "scale": False}
    assert matrices({"one": layer, "two": stacked}) == {"one": decays, "two": decays}


def test_weights_of_unit_rms(x64):
    """After an update the weights of an output have the root mean square r / (1e-4 + r), r that of
    what Adam alone would leave; a bias is what it is without the constraint."""
    plain, _ = optimization.build_optimizer(options(clip=0.0))
    constrained, _ = optimization.build_optimizer(options(clip=0.0, constraint="unit_rms"))
    params = {"w": jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 4))), "b": jnp.ones(2)}
    slope = jax.tree.map(lambda a: jnp.full_like(a, 0.7), params)
    with jax.numpy_dtype_promotion("standard"):
        free, state = plain.update(slope, plain.init(params), params)
        bound, state_too = constrained.update(slope, constrained.init(params), params)
    assert jax.tree.structure(state) == jax.tree.structure(state_too)
    moved = np.asarray(params["w"] + free["w"])
    r = np.sqrt(np.mean(moved**2, axis=(0, 1)))
    np.testing.assert_allclose(params["w"] + bound["w"], moved / (1e-4 + r), rtol=1e-12)
    np.testing.assert_array_equal(bound["b"], free["b"])
    assert abs(r - 1).max() > 0.05  # the weights were not there before
