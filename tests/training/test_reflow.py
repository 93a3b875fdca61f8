"""Reflow: the fixed point on a Gaussian is straight, and one step of Euler's method is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning.labels import Labels
from score_sde.errors import ConfigError
from score_sde.processes import VP, Cosine, Flow, exact, flow, jump
from score_sde.training import time_law, weighting
from score_sde.training.objective import Training
from score_sde.training.objectives.denoising import denoising
from score_sde.training.objectives.reflow import reflow
from tests.training.flow_map_nets import model_of, shift

pytestmark = pytest.mark.usefixtures("x64")

MEAN, COV = np.array([0.5, -1.0]), np.array([[0.6, 0.2], [0.2, 0.3]])
PROCESSES = [Flow(t_min=0.0), VP(t_min=0.0), Cosine(t_min=0.0)]


def pairs(sde, n=64):
    """x at t_max, and pairs: where the ODE leads from there, and the noise of a straight path."""
    law, end = exact.Gaussian(jnp.asarray(MEAN), jnp.asarray(COV)), jnp.asarray(sde.t_max)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(n, 2)))
    x_0 = flow(sde, law.flow_map(sde))(x, end, jnp.asarray(0.0))
    return x, {"x": x_0, "noise": sde.eps(x, end, x_0), "cond": {"label": jnp.zeros(n, int)}}


def straight(sde):
    """E[x_0 | x_t] of the pairs, in the eigenbasis of COV. With r = sqrt(l/m_T), l an
    eigenvalue, the ODE leads to
    x_0 - mu = r (x_T - alpha_T mu), so x_0 - mu = g z with g = r sigma_T/(1 - r alpha_T), and
    x_t - alpha mu = (alpha + sigma/g)(x_0 - mu)."""
    eigenvalues, basis = np.linalg.eigh(COV)
    end = jnp.asarray(sde.t_max)
    alpha, sigma = float(sde.alpha(end)), float(sde.sigma(end))
    r = np.sqrt(eigenvalues / (alpha**2 * eigenvalues + sigma**2))
    gain = r * sigma / (1 - r * alpha)

    def denoise(x, t, s):
        a, b = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
        rest = (x - a * MEAN[None]) @ basis / (a + b / gain[None])
        return MEAN[None] + rest @ basis.T

    return denoise


def make(model):
    law, weight = time_law.uniform(), weighting.flow()
    return reflow(model, Labels(1), time_law=law, weighting=weight)


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_the_fixed_point_is_straight(sde):
    """The loss is 0 at every time, and a shift of D costs its square; one step from t_max to 0 by
    DDIM, on the rectified flow Euler's method, ends where the teacher's ODE does."""
    x, batch = pairs(sde)
    denoise = straight(sde)
    objective = make(model_of(sde, denoise, numbers=()))
    losses = jax.jit(objective.losses)
    loss = losses(shift(), jax.random.key(0), batch, Training())
    assert float(jnp.max(loss.value)) < 1e-18
    off = losses(shift(0.1), jax.random.key(0), batch, Training())
    factor = (sde.alpha(off.t) + sde.sigma(off.t)) / sde.sigma(off.t)  # of an error of z - x_0
    np.testing.assert_allclose(off.value, (0.1 * factor) ** 2, rtol=1e-6)
    t = jnp.full(len(x), sde.t_max)
    one = jump(sde, x, t, jnp.zeros_like(t), denoise(x, t, t))
    np.testing.assert_allclose(one, batch["x"], rtol=1e-11, atol=1e-11)


def test_the_denoiser_of_the_data_is_no_fixed_point():
    sde = PROCESSES[0]
    x, batch = pairs(sde)
    law = exact.Gaussian(jnp.asarray(MEAN), jnp.asarray(COV))
    denoiser = law.denoiser(sde)
    objective = make(model_of(sde, lambda x, t, s: denoiser(x, t), numbers=()))
    loss = objective.losses(shift(), jax.random.key(0), batch, Training())
    assert float(jnp.mean(loss.value)) > 0.05
    t = jnp.full(len(x), sde.t_max)
    one = jump(sde, x, t, jnp.zeros_like(t), denoiser(x, t))
    assert float(jnp.max(jnp.abs(one - batch["x"]))) > 0.5


def test_without_pairs_it_is_denoising_and_training_needs_them():
    sde = PROCESSES[0]
    _, batch = pairs(sde)
    plain = {name: batch[name] for name in ("x", "cond")}
    model = model_of(sde, straight(sde), numbers=())
    law, weight = time_law.uniform(), weighting.flow()
    ours, truth = (
        make(model, Labels(1), time_law=law, weighting=weight).losses(
            shift(), jax.random.key(0), plain, None
        )
        for make in (reflow, denoising)
    )
    np.testing.assert_array_equal(ours.value, truth.value)
    with pytest.raises(ConfigError, match=r"learns from pairs: set objective\.teacher"):
        make(model).losses(shift(), jax.random.key(0), plain, Training())
