"""The copies of the parameters that an objective keeps: who sees them, and when they change."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs import digits
from score_sde.data import train_iterator
from score_sde.experiment import build, program
from score_sde.training import ema
from score_sde.training.objectives.progressive_distillation import Stages
from score_sde.training.state import accumulated, create, not_finite, skipping, train_step


def test_a_gradient_sees_the_copies_as_they_were_before_its_step():
    """Parameters fall by 1 each step. One target is a copy of them after step 2 and step 4, one is
    the mean of itself and them; both begin as they do. Averages are no targets."""

    def gradient(params, key, batch, training):
        seen = jnp.stack([training.step.astype(float), params, *training.targets])
        return jnp.ones(()), {"seen": seen}

    def after_two(step):
        return ((step + 1) % 2 == 0).astype(float)

    targets = after_two, lambda step: jnp.asarray(0.5)
    averages = (ema.constant(0.0, warmup=False),)
    optimizer = optax.sgd(1.0)
    step = train_step(accumulated(gradient, 1), optimizer, averages, lambda key, raw: raw, targets)
    state, seen = create(jnp.asarray(8.0), optimizer, 3), []
    for _ in range(5):
        state, metrics = jax.jit(step)(jax.random.key(0), state, {})
        seen.append(np.asarray(metrics["seen"]))
    params = [8, 7, 6, 5, 4]
    copies = [8, 8, 6, 6, 4]
    means = [8, 7.5, 6.75, 5.875, 4.9375]
    np.testing.assert_array_equal(seen, np.stack([range(5), params, copies, means], axis=1))


def test_a_copy_is_made_after_a_step_that_is_skipped():
    """The second of five steps and the fourth end a stage of progressive distillation. The second
    is not finite: the parameters stay, an average too, and the copy is that of these parameters."""

    def gradient(params, key, batch, training):
        seen = jnp.stack([params, *training.targets])
        return jnp.ones(()), {"seen": seen, "loss": jnp.where(training.step == 1, jnp.nan, 0.0)}

    targets, averages = (Stages(8, 2, 2, False).copied,), (lambda step: jnp.asarray(0.5),)
    optimizer = optax.sgd(1.0)
    step = train_step(accumulated(gradient, 1), optimizer, averages, lambda key, raw: raw, targets)
    step = jax.jit(skipping(step, not_finite, targets=targets))
    state, seen, means = create(jnp.asarray(8.0), optimizer, 2), [], []
    for _ in range(5):
        state, metrics = step(jax.random.key(0), state, {})
        seen.append(np.asarray(metrics["seen"]))
        means.append(float(state.ema[0]))
    np.testing.assert_array_equal(seen, np.stack([[8, 7, 7, 6, 5], [8, 8, 7, 7, 5]], axis=1))
    np.testing.assert_array_equal(means, [7.5, 7.5, 6.75, 5.875, 4.9375])


def test_the_training_step_makes_it_too():
    config = digits.get_config()
    config.net = {"name": "mlp.MLP", "features": (8,), "embedding_dim": 8, "num_classes": 0}
    config.train.update(batch_size=8, non_finite="skip")
    experiment = build.build_experiment(config)
    plain = experiment.objective

    def losses(params, key, batch, training):
        drawn = plain.losses(params, key, batch, training)
        return drawn._replace(value=jnp.where(training.step == 1, jnp.nan, drawn.value))

    targets = (Stages(8, 2, 2, False).copied,)
    experiment = experiment._replace(objective=plain._replace(losses=losses, targets=targets))
    start = build.initial_state(config, experiment)
    first = jax.device_get(start.params)
    batches = train_iterator(experiment.data.train, batch_size=8, seed=0)
    batch = program.stack(batches, 2, experiment.sharded(axis=1))
    step = program.compiled_step(config, experiment, 2)
    state, metrics = jax.device_get(step(build.key_for(config, "train"), start, batch))
    np.testing.assert_array_equal(metrics["skipped"], [0, 1])
    chex.assert_trees_all_equal(state.ema[-1], state.params)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.ema[-1], first)
    assert any(jax.tree.leaves(moved))
