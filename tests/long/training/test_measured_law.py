"""The measured law of t: closed forms of its optimum, and runs that go on where they were."""

import dataclasses
import functools
import math
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import digits_tokens
from score_sde.conditioning.labels import Labels
from score_sde.config import build
from score_sde.errors import ConfigError
from score_sde.evaluation.sampler_law import Normal
from score_sde.experiment.build import abstract_state, build_experiment, initial_state
from score_sde.experiment.program import compiled_step, stack
from score_sde.models import parametrization
from score_sde.models.model import Model
from score_sde.modes.train import train
from score_sde.processes import EDM, VP, Flow
from score_sde.runtime.checkpoint import Checkpoints
from score_sde.training import time_law, weighting
from score_sde.training.objective import TOLD, Training, mean, noise_levels
from score_sde.training.objectives.denoising import denoising
from score_sde.training.state import accumulated, create, not_finite, several, skipping, train_step
from tests import perceptron

BINS = 100
LAW = f"measured(bins={BINS}, memory=1000)"
SDE = EDM(t_min=math.exp(-6), t_max=math.exp(6))  # log-SNR from 12 to -12
VARIANCE = np.exp(np.linspace(2, -6, 64))


def data():
    return Normal(jnp.zeros(64), jnp.asarray(VARIANCE))


class Exact(nn.Module):
    """The network of which the model is the exact denoiser. It is told t."""

    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        return data().denoiser(SDE)(x, noise)


def objective(law):
    """The likelihood loss of the exact denoiser, nats: half the integral of sum_k v_k over the
    log-SNR, with v_k = a^2 l_k/(a^2 l_k + b^2) the error of noise k."""
    model = Model(Exact(), SDE, parametrization.x0(lambda sde, t: t))
    conditioner: Any = Labels(0)
    weight = weighting.likelihood()
    return denoising(model, conditioner, time_law=law, weighting=weight, reduction="sum")


def closed_form():
    """log-SNR on a fine grid, mean loss and mean squared loss there, for uniform log-SNR."""
    log_snr = np.linspace(12, -12, 40_001)
    log_snr = (log_snr[1:] + log_snr[:-1]) / 2
    snr = np.exp(log_snr)[:, None] * VARIANCE[None]
    v = snr / (1 + snr)
    first = v.sum(axis=1)
    return log_snr, 12 * first, 144 * (first**2 + 2 * (v**2).sum(axis=1))


def relative_std(law):
    """The relative standard deviation of the loss of one example, in closed form."""
    log_snr, first, second = closed_form()
    t = SDE.t_of_log_snr(jnp.asarray(log_snr))
    ratio = np.asarray(law.density(SDE, t) / time_law.log_snr_uniform().density(SDE, t))
    assert np.mean(ratio) == pytest.approx(1, abs=1e-3)
    return float(np.sqrt(np.mean(second / ratio) / np.mean(first) ** 2 - 1))


def learnt(law, steps, parts=1):
    """The state of the law, and the mean loss, after steps of training that change no parameter."""
    of: Any = objective(law)
    loss = mean(of.losses, noise_levels(law, SDE), functools.partial(of.learning.measure, SDE))
    gradient = accumulated(jax.grad(loss, has_aux=True), parts)
    optimizer = optax.sgd(0.0)

    def prepare(key, raw):
        return {"x": jnp.sqrt(data().variance)[None] * jax.random.normal(key, (128, 64))}

    step = train_step(gradient, optimizer, (), prepare, (), of.learning)
    run = jax.jit(several(step, steps))
    start = create({"a": jnp.zeros(2)}, optimizer, 0, of.learning)
    state, metrics = run(jax.random.key(0), start, {"n": jnp.zeros(steps)})
    assert TOLD not in metrics
    return state.law, np.asarray(metrics["loss"])


def test_the_optimum_is_reached_within_one_percent(x64):
    """It is p ~ sqrt(E loss^2) (1.031 for uniform log-SNR, .1933 for the optimum). The mean loss is
    that of every law: half the sum of ln(1 + SNR l) between the ends."""
    law = build("training.time_law", LAW)
    _, first, second = closed_form()
    best = np.sqrt(np.mean(np.sqrt(second)) ** 2 / np.mean(first) ** 2 - 1)
    assert best == pytest.approx(0.1933, abs=5e-5)
    assert relative_std(law) == pytest.approx(1.0309, abs=5e-5)
    state, losses = learnt(law, 3000)
    assert best < relative_std(law.at(state)) < 1.01 * best

    nats = np.sum(np.log1p(np.exp(12) * VARIANCE) - np.log1p(np.exp(-12) * VARIANCE)) / 2
    late = losses[1000:]
    assert abs(np.mean(late) - nats) < 4 * best * nats / np.sqrt(128 * len(late))
    # the mean of a batch spreads so much, too; 2,000 batches know their spread to 1.6 %
    assert np.std(late) * np.sqrt(128) / nats == pytest.approx(best, rel=0.05)


@pytest.mark.parametrize("base", ["uniform", "log_snr_uniform", "karras"])
@pytest.mark.parametrize("sde", [VP(), EDM(), Flow(t_min=1e-3, t_max=0.999)])
def test_density_is_the_derivative_of_the_quantile(base, sde, x64):
    law = build("training.time_law", f"measured(base='{base}', bins=10, memory=5)")
    told = np.stack([np.full(10, 0.1), 0.1 * np.linspace(1, 3, 10) ** 2]).astype(np.float32)
    state = law.learning.init()
    for _ in range(20):
        state = law.learning.update(state, told)
    now = law.at(state)
    u = jnp.linspace(0.0013, 0.9987, 97)
    t, rate = jax.jvp(functools.partial(now.quantile, sde), (u,), (jnp.ones_like(u),))
    np.testing.assert_allclose(now.density(sde, t), (sde.t_max - sde.t_min) / rate, rtol=2e-6)
    ratio = np.asarray(now.density(sde, t) / law.density(sde, t))
    of_bin = 0.001 + 0.999 * np.linspace(1, 3, 10) / 2  # the root of the moments; mean 1
    np.testing.assert_allclose(np.unique(np.round(ratio, 4)), np.round(of_bin, 4), atol=2e-3)


def test_parts_of_a_batch_tell_what_the_whole_tells(x64):
    """One step from the same state: of the losses of all parts."""
    law = build("training.time_law", "measured(bins=4, memory=5)")
    learning = law.learning
    state = jnp.array([[0.1, 0.2, 0.2, 0.3], [1.0, 0.5, 2.0, 0.1]], jnp.float32)
    key_t, key_loss = jax.random.split(jax.random.key(0))
    t = law.at(state).sample(key_t, SDE, 32, float)
    losses = jax.random.exponential(key_loss, (32,))
    whole = learning.measure(SDE, state, losses, t)
    parts = [learning.measure(SDE, state, losses[i::4], t[i::4]) for i in range(4)]
    np.testing.assert_allclose(whole, sum(parts) / 4, rtol=1e-6)
    index = np.searchsorted([6, 0, -6][::-1], -2 * np.log(t) * -1, side="right")
    np.testing.assert_allclose(whole[0], np.bincount(index, minlength=4) / 32, rtol=1e-6)


def test_a_skipped_step_tells_the_law_nothing():
    law = build("training.time_law", "measured(bins=4, memory=5)")
    told = jnp.ones((2, 4), jnp.float32)

    def gradient(params, key, batch, training):
        loss = jnp.where(training.step == 1, jnp.nan, 0.0)
        return jnp.ones(()), {"loss": loss, TOLD: told + loss}

    optimizer = optax.sgd(1.0)
    step = train_step(gradient, optimizer, (), lambda key, raw: raw, (), law.learning)
    step = jax.jit(skipping(step, not_finite))
    state: Any = create(jnp.asarray(8.0), optimizer, 0, law.learning)
    found = []
    for _ in range(3):
        state, _ = step(jax.random.key(0), state, {})
        found.append(float(state.law[0, 0]))
    np.testing.assert_allclose(found, [0.2, 0.2, 0.36], rtol=1e-6)


def small(**changes):
    """The perceptron of a few steps with a measured law; eight devices."""
    config = perceptron.get_config()
    config.objective.time_law = "measured(base='uniform(stratified=True)', bins=8, memory=4)"
    config.train.update(steps=4, batch_size=16, log_every=2, checkpoint_every=2, sample_every=0)
    config.update_from_flattened_dict(changes)
    return config


def final_state(config, workdir) -> Any:
    checkpoints = Checkpoints(workdir)
    restored: Any = checkpoints.restore(abstract_state(build_experiment(config)))
    checkpoints.close()
    return restored.state


def test_a_resumed_run_is_the_same_run_bit_for_bit(tmp_path):
    """The state of the law is in the checkpoint."""
    train(small(), tmp_path / "whole")
    train(small(**{"train.steps": 2}), tmp_path / "resumed")
    train(small(), tmp_path / "resumed")
    whole, ours = (final_state(small(), tmp_path / name) for name in ("whole", "resumed"))
    assert float(whole.law[0].sum()) == pytest.approx(1 - 0.75**4, rel=1e-6)
    chex.assert_trees_all_equal(ours, whole, strict=True)


def test_parts_and_devices_are_one_batch():
    """A step in two parts, over eight devices, counts all examples of the batch."""
    config = small(**{"train.accumulate": 2})
    experiment = build_experiment(config)
    state = initial_state(config, experiment)
    raw = {"image": np.zeros((16, 8, 8, 1), np.uint8)}
    raw |= {
        name: np.zeros((16, *feature.shape), np.int32)
        for name, feature in experiment.data.features.items()
        if name != "image"
    }
    batches = iter([raw])
    step = compiled_step(config, experiment, 1)
    batch = stack(batches, 1, experiment.sharded(axis=1))
    state, _ = step(jax.random.key(1), state, batch)
    # each part of 8 is stratified over 8 bins that the law draws equally often
    np.testing.assert_allclose(state.law[0], np.full(8, 1 / 8 / 4), rtol=1e-6)


@pytest.mark.parametrize(
    ("law", "message"),
    [
        ("measured(bins=1)", "at least 2 bins"),
        ("measured(floor=0.0)", "a floor above 0"),
        ("measured(memory=1.0)", "memory above 1"),
    ],
)
def test_bad_options_are_one_line(law, message):
    with pytest.raises(ConfigError, match=message):
        build("training.time_law", law)


def test_what_cannot_learn_is_refused():
    law = build("training.time_law", "measured(base='grid_points')")
    with pytest.raises(ValueError, match="continuous"):
        law.learning.measure(SDE, law.learning.init(), jnp.ones(2), jnp.ones(2))
    config = digits_tokens.get_config()
    config.objective.time_law = "measured(base='uniform')"
    with pytest.raises(ConfigError, match="learns in training"):
        build_experiment(config)


def test_outside_of_training_it_is_the_base_law():
    law, base = build("training.time_law", "measured"), time_law.log_snr_uniform()
    t = jnp.linspace(0.1, 1.0, 5)
    for state in ((), Training().law):
        np.testing.assert_array_equal(law.at(state).density(VP(), t), base.density(VP(), t))


def test_other_laws_leave_the_state_as_it_was():
    """So that checkpoints of earlier versions still load."""
    optimizer = optax.sgd(1.0)
    plain = create(jnp.zeros(2), optimizer, 1, time_law.uniform().learning)
    assert [field.name for field in dataclasses.fields(plain)] == [
        "step",
        "params",
        "ema",
        "opt_state",
    ]
    assert plain.law == ()
