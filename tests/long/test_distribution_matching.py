"""DMD2 and SiD: gradients of affine generators of Gaussians in closed form, by quadrature."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_sde.conditioning.labels import Labels
from score_sde.errors import ConfigError
from score_sde.processes import EDM, VP, Flow, exact
from score_sde.training import time_law, weighting
from score_sde.training.distribution_matching import LEAST, generated, scale
from score_sde.training.objective import Training
from score_sde.training.objectives.denoising import denoising
from score_sde.training.objectives.dmd2 import dmd2
from score_sde.training.objectives.sid import identity, sid
from score_sde.training.optimizer import at_rates
from score_sde.training.teacher import Teacher
from tests.training.flow_map_nets import SDES, model_of, shift

pytestmark = pytest.mark.usefixtures("x64")

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(20)
Z, NOISE = (a.ravel()[:, None] for a in np.meshgrid(NODES, NODES))
SHARE = np.outer(WEIGHTS, WEIGHTS).ravel() / WEIGHTS.sum() ** 2
REAL, FAKE = (0.3, 0.8), (-0.4, 0.5)  # mean and standard deviation
CASES = [(VP(), 0.3), (EDM(), 1.5), (Flow(), 0.6)]


def law(mean, std):
    return exact.Gaussian(jnp.array([mean]), jnp.array([[std**2]]))


def expectation(values):
    return jnp.sum(jnp.asarray(SHARE) * values[:, 0])


def of_generator(sde, t, mean, std):
    """x = mean + std z, x_t, and what teacher and critic say, at all nodes."""
    x = mean + std * jnp.asarray(Z)
    t = jnp.full(len(x), t)
    x_t = sde.noised(x, jnp.asarray(NOISE), t)
    return x, law(*REAL).denoiser(sde)(x_t, t), law(*FAKE).denoiser(sde)(x_t, t)


@pytest.mark.parametrize(("sde", "t"), CASES, ids=lambda a: str(a)[:5])
def test_the_pull_of_dmd_is_the_gradient_of_a_divergence(sde, t):
    """E (D_fake - D_real) dx = sigma^2/alpha^2 d KL(p_fake || p_real) of x_t = N(alpha m, v)."""
    alpha, sigma = float(sde.alpha(jnp.asarray(t))), float(sde.sigma(jnp.asarray(t)))

    def divergence(mean, std):
        v, v_real = ((alpha * s) ** 2 + sigma**2 for s in (std, REAL[1]))
        square = (alpha * (mean - REAL[0])) ** 2
        return ((v + square) / v_real - 1 - jnp.log(v / v_real)) / 2

    of_mean, of_std = jax.grad(divergence, (0, 1))(*FAKE)
    _, real, fake = of_generator(sde, t, *FAKE)
    pull = (fake - real) * alpha**2 / sigma**2
    np.testing.assert_allclose(expectation(pull), of_mean, rtol=1e-9)
    np.testing.assert_allclose(expectation(pull * jnp.asarray(Z)), of_std, rtol=1e-9)


@pytest.mark.parametrize(("sde", "t"), CASES, ids=lambda a: str(a)[:5])
def test_the_identity_of_sid(sde, t):
    """E (D_r - D_f)(D_r - x) = E (D_r - D_f)^2, so the value is (1 - alpha) of that; and of equal
    variances the gradient by the mean is (sigma^2/v)^2 (m - mu), the critic held."""
    x, real, fake = of_generator(sde, t, *FAKE)
    for alpha in (0.0, 1.2):
        value = expectation(identity(x, real, fake, alpha))
        truth = (1 - alpha) * expectation((real - fake) ** 2)
        np.testing.assert_allclose(value, truth, rtol=1e-9)

    def value(mean):
        x = mean + REAL[1] * jnp.asarray(Z)
        times = jnp.full(len(x), t)
        x_t = sde.noised(x, jnp.asarray(NOISE), times)
        real = law(*REAL).denoiser(sde)(x_t, times)
        fake = law(FAKE[0], REAL[1]).denoiser(sde)(x_t, times)
        return expectation(identity(x, real, fake, 1.2))

    sigma2 = float(sde.sigma(jnp.asarray(t))) ** 2
    v = (float(sde.alpha(jnp.asarray(t))) * REAL[1]) ** 2 + sigma2
    truth = (sigma2 / v) ** 2 * (FAKE[0] - REAL[0])
    np.testing.assert_allclose(jax.grad(value)(FAKE[0]), truth, rtol=1e-9)


def make(name, model, denoiser=None, **options):
    of_cond = jax.tree_util.Partial(lambda cond: denoiser)
    teacher = None if denoiser is None else Teacher(of_cond, shift())
    parts = {"time_law": time_law.uniform(), "weighting": weighting.v(), "teacher": teacher}
    return {"dmd2": dmd2, "sid": sid}[name](model, Labels(1), **parts, **options)


def batch(n=32):
    return {"x": jnp.zeros((n, 2)), "cond": {"label": jnp.zeros(n, int)}}


@pytest.mark.parametrize("name", ["dmd2", "sid"])
def test_each_loss_moves_its_own_network(name):
    """Where the critic is the teacher the generator stays; else dmd2 moves it by the mean of
    (D_fake - D_real)/mean |x - D_real|. The critic's gradient is that of denoising."""
    sde, data = SDES["VP"], exact.Gaussian(jnp.zeros(2), jnp.eye(2) * 0.25)
    denoiser = data.denoiser(sde)
    model = model_of(sde, lambda x, t, s: denoiser(x, t), numbers=())
    objective, key, training = make(name, model, denoiser), jax.random.key(0), Training()

    @jax.jit
    def gradient(params):
        return jax.grad(
            lambda params: jnp.sum(objective.losses(params, key, batch(), training).value)
        )(params)

    start = {"generator": shift(0.2), "critic": shift()}
    assert abs(float(gradient(start)["generator"]["shift"])) < 1e-12
    moved = {"generator": shift(0.2), "critic": shift(0.1)}
    found = gradient(moved)
    assert float(found["generator"]["shift"]) > 0

    key_start, key_time, key_noise, key_critic = jax.random.split(key, 4)
    x = generated(model, shift(0.2), batch()["cond"], jax.random.normal(key_start, (32, 2)))
    if name == "dmd2":
        t = time_law.uniform().sample(key_time, sde, 32, x.dtype)
        real = denoiser(sde.perturb(key_noise, x, t), t)
        by_hand = np.sum(0.1 / np.mean(np.abs(x - real), axis=1))
        np.testing.assert_allclose(found["generator"]["shift"], by_hand, rtol=1e-10)
    plain = denoising(model, Labels(1), time_law=time_law.uniform(), weighting=weighting.v())
    alone = jax.grad(
        lambda params: jnp.sum(
            plain.losses(params, key_critic, {**batch(), "x": x}, training).value
        )
    )(shift(0.1))
    np.testing.assert_allclose(found["critic"]["shift"], alone["shift"], rtol=1e-10)


def test_both_networks_start_alike_and_the_result_is_the_generator():
    sde, data = SDES["VP"], exact.Gaussian(jnp.zeros(2), jnp.eye(2) * 0.25)
    denoiser = data.denoiser(sde)
    model = model_of(sde, lambda x, t, s: denoiser(x, t), numbers=())
    for given in (None, denoiser):
        objective = make("dmd2", model, given)
        params = objective.init(jax.random.key(0), batch())
        chex.assert_trees_all_equal(params, {"generator": shift(), "critic": shift()})
    x, t = jnp.ones((3, 2)), jnp.full(3, 0.7)
    result = objective.result({"generator": shift(0.3), "critic": shift()}, {})(x, t, t)
    np.testing.assert_allclose(result, denoiser(x, t) + 0.3, rtol=1e-12)
    with pytest.raises(ConfigError, match=r"set objective\.teacher to its workdir"):
        make("sid", model).losses(params, jax.random.key(0), batch(), Training())
    with pytest.raises(ValueError, match=r"critic_rate must be above 0, not 0\.0"):
        make("sid", model, critic_rate=0.0)


def test_rates_scale_the_updates_of_parts():
    plain = optax.adam(1e-2)
    both = at_rates(plain, {"critic": 5.0})
    params = {"generator": jnp.ones(3), "critic": jnp.ones(3)}
    gradient = jax.tree.map(lambda a: a * jnp.array([1.0, -2.0, 3.0]), params)
    state = plain.init(params)
    chex.assert_trees_all_equal(both.init(params), state)
    with jax.numpy_dtype_promotion("standard"):
        ours, after = both.update(gradient, state, params)
        truth, state = plain.update(gradient, state, params)
    chex.assert_trees_all_equal(after, state)
    np.testing.assert_array_equal(ours["generator"], truth["generator"])
    np.testing.assert_array_equal(ours["critic"], 5 * truth["critic"])
    assert at_rates(plain, {}) is plain


def test_an_example_that_the_teacher_keeps_is_not_divided_by_zero():
    x = jnp.asarray([[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]])
    real = x + jnp.asarray([[0.0, 0.0], [2.0, -4.0], [LEAST / 4, 0.0]])
    np.testing.assert_allclose(scale(x, real), [[LEAST], [3.0], [LEAST]])
