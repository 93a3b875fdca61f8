"""Objectives of two data sets: losses at the exact denoiser, and samples that begin at x_1."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from configs import digits
from score_sde.conditioning.nothing import Nothing
from score_sde.data.source import Arrays, Data
from score_sde.errors import ConfigError
from score_sde.experiment import samplers
from score_sde.experiment.build import build_experiment, initial_state
from score_sde.models import parametrization
from score_sde.models.model import Model
from score_sde.processes import VE, Flow, exact_bridge
from score_sde.processes.two_ends import Brownian, Trigonometric, between
from score_sde.training import time_law, weighting
from score_sde.training.objective import Training
from score_sde.training.objectives.bridge_matching import bridge_matching
from score_sde.training.objectives.interpolant import interpolant
from score_sde.types import Feature
from tests.training.flow_map_nets import FlowMapNet, model_of, shift, tell_t


def numbers():
    one, zero = jnp.eye(1), jnp.zeros(1)
    return exact_bridge.gaussian((zero, zero), (one, 2 * one), 0.8 * one)


def batch_of(pairs, n=40_000):
    x_0, x_1 = pairs.sample(jax.random.key(0), n)
    return {"x": x_0, "cond": {"start": x_1}}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("prediction", [parametrization.eps, parametrization.v], ids=["eps", "v"])
@pytest.mark.parametrize("sde", [Brownian(variance=0.5), Trigonometric(variance=0.5)],
                         ids=["Brownian", "Trigonometric"])  # fmt: skip
def test_the_loss_of_the_exact_denoiser_is_the_variance_that_is_left(sde, prediction):
    """With the weight 1 on the error of D it is E_t[Var(x_0 | x_t)] on the bridge. A shift of D by
    0.1 costs 0.01 more, so the gradient is 0."""
    pairs = numbers()
    denoiser = pairs.denoiser(sde)
    model = model_of(sde, lambda x, t, s: denoiser(x, t), prediction, numbers=())
    law = time_law.uniform(stratified=True)
    objective = bridge_matching(model, Nothing(), time_law=law, weighting=snr_free())
    assert objective.noisy is True
    losses = jax.jit(objective.losses)
    batch = batch_of(pairs)
    loss = losses(shift(), jax.random.key(1), batch, Training())

    def left(t):
        a, b, c = (float(w) for w in between(sde, jnp.asarray(t)))
        return 1 - (a + 0.8 * b) ** 2 / (a**2 + 2 * b**2 + 1.6 * a * b + c**2)

    wanted = integrate.quad(left, sde.t_min, 1)[0] / (1 - sde.t_min)
    error = 4 * float(jnp.std(loss.value)) / np.sqrt(len(loss.value))
    assert abs(float(jnp.mean(loss.value)) - wanted) < error
    off = losses(shift(0.1), jax.random.key(1), batch, Training())
    more = float(jnp.mean(off.value - loss.value))
    assert abs(more - 0.01) < 4 * 0.2 * np.sqrt(wanted / len(loss.value))


class BothEnds(nn.Module):
    """The network whose denoiser and whose other end are those of these pairs."""

    sde: Any
    pairs: Any

    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        ends = self.pairs.ends(self.sde)
        first = FlowMapNet(
            self.sde, parametrization.v(tell_t).scales, lambda x, t, s: ends(x, t), ()
        )
        second = ends(x, noise, noise)[:, 1:]
        return jnp.concatenate([first(x, noise, cond, train), second], axis=-1)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("second", ["learnt", "told"])
def test_the_other_end(second):
    """Learnt, the loss is what is left of both ends, Var(x_0 | x_t) + Var(x_1 | x_t); told, x_1 is
    the condition."""
    sde, pairs = Brownian(variance=0.5), numbers()
    model = Model(BothEnds(sde, pairs), sde, parametrization.v(tell_t))
    objective = bridge_matching(
        model,
        Nothing(),
        time_law=time_law.uniform(stratified=True),
        weighting=snr_free(),
        second=second,
    )
    batch = batch_of(pairs)
    params = {"FlowMapNet_0": shift()}
    loss = jax.jit(objective.losses)(params, jax.random.key(1), batch, Training()).value

    def left(t):
        a, b, c = (float(w) for w in between(sde, jnp.asarray(t)))
        power = a**2 + 2 * b**2 + 1.6 * a * b + c**2
        first, other = 1 - (a + 0.8 * b) ** 2 / power, 2 - (0.8 * a + 2 * b) ** 2 / power
        return first + (other if second == "learnt" else 0)

    wanted = integrate.quad(left, sde.t_min, 1)[0] / (1 - sde.t_min)
    assert abs(float(jnp.mean(loss)) - wanted) < 4 * float(jnp.std(loss)) / np.sqrt(len(loss))
    x, t = jnp.asarray([[0.3], [-1.0]]), jnp.full(2, 0.4)
    start = jnp.asarray([[2.0], [3.0]])
    found = objective.result(params, {"start": start})(x, t, t - 0.1)
    exact = pairs.ends(sde)(x, t, t)
    wanted_end = exact[:, 1:] if second == "learnt" else start
    np.testing.assert_allclose(found, jnp.concatenate([exact[:, :1], wanted_end], 1), rtol=1e-9)


def snr_free():
    """1 on the error of D."""

    def weight(sde, t):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        return (sigma / (alpha**2 + sigma**2)) ** 2

    return weight


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("make", [bridge_matching, interpolant])
def test_where_x_0_follows_from_x_t_the_loss_is_0(make):
    """Pairs with x_0 = 2 x_1 + 1: without noise x_t = (2 alpha + sigma) x_1 + alpha. With noise the
    loss of the same denoiser is not 0."""
    sde = Flow(t_min=1e-3) if make is interpolant else Brownian(variance=0.5)
    x_1 = jax.random.normal(jax.random.key(0), (64, 2))
    batch = {"x": 2 * x_1 + 1, "cond": {"start": x_1}}

    def denoise(x, t, s):
        alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
        return 2 * (x - alpha) / (2 * alpha + sigma) + 1

    model = model_of(sde, denoise, parametrization.v, numbers=())
    objective = make(model, Nothing(), time_law=time_law.uniform(), weighting=weighting.v())
    loss = objective.losses(shift(), jax.random.key(1), batch, Training())
    assert (float(jnp.max(loss.value)) < 1e-18) == (make is interpolant)


@pytest.mark.parametrize("make", [bridge_matching, interpolant])
def test_a_batch_without_a_start_is_refused(make):
    model = model_of(Brownian(), lambda x, t, s: x, parametrization.v, numbers=())
    objective = make(model, Nothing(), time_law=time_law.uniform(), weighting=weighting.v())
    with pytest.raises(ConfigError, match="set conditioner="):
        objective.losses(shift(), jax.random.key(0), {"x": jnp.zeros((4, 2)), "cond": {}}, None)


def test_a_bridge_needs_a_finite_end():
    model = model_of(Flow(t_max=1.0), lambda x, t, s: x, parametrization.v, numbers=())
    with pytest.raises(ValueError, match="a bridge needs a finite log-SNR"):
        bridge_matching(model, Nothing(), time_law=time_law.uniform(), weighting=weighting.v())
    bridge_matching(
        model._replace(sde=VE()), Nothing(), time_law=time_law.uniform(), weighting=weighting.v()
    )


def config_of(objective, sde, solver):
    config = digits.get_config()
    config.codec.dequantize = False
    config.conditioner = "starts(text='nothing')"
    config.net = {"name": "mlp.MLP", "features": (16,), "embedding_dim": 8}
    config.sde = sde
    config.parametrization = "flow"
    law = "uniform(stratified=True)"
    config.objective = {"name": objective, "time_law": law, "weighting": "flow"}
    config.sampling.update(solver=solver, grid="uniform", steps=4, t_min=None, num_samples=8)
    return config


def data_of():
    random = np.random.default_rng(0)
    image, source = random.integers(17, size=(2, 16, 8, 8, 1)).astype(np.uint8)
    arrays, feature = Arrays(image=image, source=source), Feature((8, 8, 1), 17)
    return Data("two", arrays, arrays, {"image": feature, "source": feature})


def test_samples_begin_at_the_source():
    """Where the network says that the velocity is 0, they end there too."""
    config, data = config_of("interpolant", "Flow(t_max=1.0)", "ddim"), data_of()
    experiment = build_experiment(config, data)
    params = jax.tree.map(jnp.zeros_like, initial_state(config, experiment).params)
    drawn = samplers.build_sampler(config, experiment, 8)(params, jax.random.key(0))
    wanted = np.round(data.test.parts["source"][:8].astype(float) * 255 / 16)
    np.testing.assert_array_equal(drawn.shown, wanted)


@pytest.mark.parametrize(("objective", "sde", "solver", "message"), [
    ("interpolant", "Flow(t_max=1.0)", "ancestral", "right only for the ODE"),
    ("bridge_matching", "two_ends.Brownian", "ddim", "right only for the reverse SDE"),
])  # fmt: skip
def test_a_solver_of_the_wrong_kind_is_refused(objective, sde, solver, message):
    config = config_of(objective, sde, solver)
    with pytest.raises(ConfigError, match=message):
        samplers.build_sampler(config, build_experiment(config, data_of()), 8)
