"""Bridges: the law between two ends, and what the reverse SDE makes of pairs, in closed form."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from score_sde import sampling, solvers
from score_sde.processes import (
    EDM,
    VE,
    VP,
    Flow,
    coefficients,
    derivative,
    exact,
    exact_bridge,
    posterior,
)
from score_sde.processes.exact_bridge import Pairs, gaussian, markovian, schroedinger
from score_sde.processes.two_ends import Brownian, Trigonometric, between, noise_between
from score_sde.sampling import grids
from score_sde.solvers.bridge import bridge as solvers_bridge

pytestmark = pytest.mark.usefixtures("x64")

BRIDGES = [Brownian(variance=0.3), Trigonometric(variance=0.3)]
PROCESSES = [*BRIDGES, VP(), VE(sigma_max=5.0), EDM(t_max=3.0)]


def times():
    return jnp.asarray([0.01, 0.2, 0.5, 0.9])


def of_name(sde):
    return type(sde).__name__


@pytest.mark.parametrize("sde", PROCESSES, ids=of_name)
def test_the_law_between_two_ends_is_a_conditional_law_of_the_process(sde):
    """x_t and x_T given x_0 are Gaussian with Cov(x_t, x_T) = (alpha_T/alpha_t) sigma_t^2."""
    t, end = times(), jnp.asarray(sde.t_max)
    alpha, sigma2, alpha_end, sigma2_end = (
        sde.alpha(t), sde.sigma(t) ** 2, sde.alpha(end), sde.sigma(end) ** 2
    )  # fmt: skip
    cross = alpha_end / alpha * sigma2
    b = cross / sigma2_end
    weights = between(sde, t)
    np.testing.assert_allclose(weights.b, b, rtol=1e-10)
    np.testing.assert_allclose(weights.a, alpha - b * alpha_end, rtol=1e-9)
    np.testing.assert_allclose(weights.c**2, sigma2 - b * cross, rtol=1e-9)


def test_bridges_have_the_weights_that_they_state():
    brownian, round_ = (between(sde, times()) for sde in BRIDGES)
    t = np.asarray(times())
    for found, wanted in zip(brownian, (1 - t, t, np.sqrt(0.3 * t * (1 - t))), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    cos, sin = np.cos(np.pi * t / 2), np.sin(np.pi * t / 2)
    for found, wanted in zip(round_, (cos, sin, np.sqrt(0.3 * cos * sin)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("sde", BRIDGES, ids=of_name)
def test_times_of_a_log_snr(sde):
    t = jnp.asarray([1e-4, 0.3, 0.999])
    np.testing.assert_allclose(sde.t_of_log_snr(sde.log_snr(t)), t, rtol=1e-9)


@pytest.mark.parametrize("sde", PROCESSES, ids=of_name)
def test_the_leaning_noise_is_on_the_bridge(sde):
    x_0, x_1, z = np.random.default_rng(0).normal(size=(3, 4, 2))
    t = times() * sde.t_max
    a, b, c = (weight[:, None] for weight in between(sde, t))
    n = noise_between(sde, jnp.asarray(x_0), jnp.asarray(x_1), jnp.asarray(z), t)
    found = sde.noised(jnp.asarray(x_0), n, t)
    np.testing.assert_allclose(found, a * x_0 + b * x_1 + c * z, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sde", PROCESSES, ids=of_name)
def test_a_step_back_needs_no_second_end(sde):
    """It is `x_s = (b_s/b_t) x_t + (a_s - a_t b_s/b_t) D + noise`, with c_s kept, and the diffusion
    is the one at which E[x_1 | x_t] drops out, g^2 = 2 c^2 d ln(b/c)/dt."""
    t, s = times()[1:], times()[:-1]
    now, then, step = between(sde, t), between(sde, s), posterior(sde, t, s)
    ratio = then.b / now.b
    np.testing.assert_allclose(step.from_x, ratio, rtol=1e-10)
    np.testing.assert_allclose(step.from_x0, then.a - ratio * now.a, rtol=1e-9)
    kept = (ratio * now.c) ** 2 + jnp.exp(step.log_variance)
    np.testing.assert_allclose(kept, then.c**2, rtol=1e-9)

    def log_ratio(t):
        weights = between(sde, t)
        return jnp.log(weights.b) - jnp.log(weights.c)

    wanted = 2 * now.c**2 * derivative(log_ratio, t)
    np.testing.assert_allclose(coefficients(sde, t)[1], wanted, rtol=1e-8)


def test_a_bridge_has_no_noise_to_begin_at():
    with pytest.raises(ValueError, match="conditioner='starts"):
        Brownian().prior_sample(jax.random.key(0), (1, 1))
    with pytest.raises(ValueError, match="density is not known"):
        Brownian().prior_log_prob(jnp.zeros((1, 1)))
    with pytest.raises(ValueError, match="variance must be above 0"):
        Brownian(variance=0.0)


def two_components():
    means = jnp.asarray([[1.0, -0.5], [-1.0, 0.7]])
    covs = jnp.asarray([[[0.2, 0.1], [0.1, 0.3]], [[0.1, -0.05], [-0.05, 0.4]]])
    return Pairs(jnp.asarray([0.4, 0.6]), means, covs)


def density(pairs, x_0, x_1):
    """Of a pair, up to a factor."""
    found = 0
    for w, mean, cov in zip(pairs.weights, pairs.means, pairs.covs, strict=True):
        away = np.stack(np.broadcast_arrays(x_0 - float(mean[0]), x_1 - float(mean[1])))
        precision = np.linalg.inv(np.asarray(cov))
        square = np.einsum("i...,ij,j...->...", away, precision, away)
        found = found + float(w) * np.sqrt(np.linalg.det(precision)) * np.exp(-square / 2)
    return found


@pytest.mark.parametrize("sde", BRIDGES, ids=of_name)
def test_posterior_means_by_quadrature(sde):
    pairs, x, end, t = two_components(), 0.3, 0.8, 0.35
    a, b, c = (float(w) for w in between(sde, jnp.asarray(t)))
    grid = np.linspace(-5, 5, 1001)
    x_0, x_1 = np.meshgrid(grid, grid, indexing="ij")
    seen = density(pairs, x_0, x_1) * np.exp(-(((x - a * x_0 - b * x_1) / c) ** 2) / 2)
    wanted = np.sum(seen * x_0) / np.sum(seen)
    at, x_t = jnp.asarray([t]), jnp.asarray([[x]])
    np.testing.assert_allclose(pairs.denoiser(sde)(x_t, at)[0, 0], wanted, rtol=1e-7)

    seen = density(pairs, grid, end) * np.exp(-(((x - a * grid - b * end) / c) ** 2) / 2)
    wanted = np.sum(seen * grid) / np.sum(seen)
    given = pairs.denoiser_given(sde, jnp.asarray([[end]]))
    np.testing.assert_allclose(given(x_t, at)[0, 0], wanted, rtol=1e-7)
    # at the start, where x_t is x_1, it is E[x_0 | x_1]
    weights = density(pairs, grid, end)
    wanted = np.sum(weights * grid) / np.sum(weights)
    start = given(jnp.asarray([[end]]), jnp.ones(1))
    np.testing.assert_allclose(start[0, 0], wanted, rtol=1e-7)


def test_the_interpolant_without_noise_by_quadrature():
    pairs, x, t = two_components(), 0.3, 0.35
    x_0 = np.linspace(-6, 6, 4001)
    seen = density(pairs, x_0, (x - (1 - t) * x_0) / t)
    found = pairs.interpolated(Flow())(jnp.asarray([[x]]), jnp.asarray([t]))
    np.testing.assert_allclose(found[0, 0], np.sum(seen * x_0) / np.sum(seen), rtol=1e-7)


def numbers(first, second, cross):
    one, zero = jnp.eye(1), jnp.zeros(1)
    return gaussian((zero, zero), (first * one, second * one), jnp.asarray([[cross]]))


@pytest.mark.parametrize(("variance", "given", "known"), [
    (0.1, 0.9, 0.950), (1.0, 0.9, 0.642), (0.1, 0.0, 0.927), (1.0, 0.0, 0.546),
])  # fmt: skip
def test_a_bridge_loses_the_pairing(variance, given, known):
    """Of unit variances the correlation drawn is exp(-int_0^1 (1 - g)/t dt) with g = Cov(x_0, x_t)/
    Var(x_t), whatever the schedule of the weights."""

    def rate(t):
        a, b = 1 - t, t
        power = a**2 + b**2 + 2 * a * b * given + variance * a * b
        return (1 - (a + b * given) / power) / t

    wanted = np.exp(-integrate.quad(rate, 1e-12, 1)[0])
    assert abs(wanted - known) < 6e-4
    for kind in (Brownian, Trigonometric):
        found = markovian(kind(variance=variance, t_min=1e-9), numbers(1.0, 1.0, given))
        np.testing.assert_allclose(found.covs[0][0, 1], wanted, rtol=1e-7)


@pytest.mark.parametrize("kind", [Brownian, Trigonometric])
def test_markovian_fitting_converges_by_a_factor_of_16(kind):
    """N(0, 1) and N(0, 4), independent at first: the covariance goes to (sqrt(17) - 1)/2."""
    sde, cross, errors = kind(t_min=1e-9), 0.0, []
    for _ in range(5):
        cross = float(markovian(sde, numbers(1.0, 4.0, cross)).covs[0][0, 1])
        errors.append(cross - (np.sqrt(17) - 1) / 2)
    np.testing.assert_allclose(errors[:4], [-0.138, -9.0e-3, -5.7e-4, -3.6e-5], rtol=0.02)
    ratios = np.divide(errors[2:-1], errors[3:])
    assert np.all(np.abs(ratios - 15.75) < 0.1)


@pytest.mark.parametrize("sde", [Brownian(variance=0.3, t_min=1e-9),
                                 Trigonometric(variance=0.3, t_min=1e-9),
                                 VP(t_min=1e-9, beta_max=2.0)], ids=of_name)  # fmt: skip
def test_the_schroedinger_plan(sde):
    """Its ends are those asked for. Off its diagonal the precision is that of the process: of
    (x_T - alpha x_0)^2/(2 sigma^2). A round of Markovian fitting leaves it as it is."""
    random = np.random.default_rng(0)
    covs = [jnp.asarray(a @ a.T + np.eye(3)) for a in random.normal(size=(2, 3, 3))]
    means = (jnp.ones(3), -jnp.ones(3))
    plan = schroedinger(sde, means, (covs[0], covs[1]))
    whole = np.asarray(plan.covs[0])
    np.testing.assert_allclose(whole[:3, :3], covs[0], rtol=1e-13)
    np.testing.assert_allclose(whole[3:, 3:], covs[1], rtol=1e-13)
    end = jnp.asarray(sde.t_max)
    scale = float(sde.sigma(end) ** 2 / sde.alpha(end))
    assert np.max(np.abs(np.linalg.inv(whole)[:3, 3:] * scale + np.eye(3))) < 1e-12
    np.testing.assert_allclose(markovian(sde, plan).covs[0], whole, atol=2e-9)


def test_closed_forms_are_of_one_gaussian():
    with pytest.raises(ValueError, match="one Gaussian"):
        markovian(Brownian(), two_components())


def no_noise(t, s, shape):
    return jnp.zeros(shape, t.dtype)


@pytest.mark.parametrize("told", [False, True])
def test_the_solver_of_noise_serves(told):
    """`ancestral` leads from x_1 to x_0. Both are affine, so with its draws set to 0 the slope is
    the covariance: that of the Markov process, or of the pairs if the denoiser is told x_1."""
    sde, pairs = Brownian(variance=1.0, t_min=1e-7), numbers(1.0, 1.0, 0.9)
    wanted = 0.9 if told else float(markovian(sde, pairs).covs[0][0, 1])
    x_1 = jnp.ones((1, 1))
    denoiser = pairs.denoiser_given(sde, x_1) if told else pairs.denoiser(sde)
    errors = []
    for steps in (50, 100):
        grid, solver = grids.uniform(sde, steps), solvers.ancestral(sde)
        found = sampling.sample(no_noise, solver, denoiser, x_1, grid, denoise=True).x
        errors.append(abs(float(found[0, 0]) - wanted))
    assert errors[1] < (1e-9 if told else 0.004)
    assert told or 1.8 < errors[0] / errors[1] < 2.2


@pytest.mark.parametrize("sde", [Brownian(variance=1.0, t_min=1e-6),
                                 Trigonometric(variance=1.0, t_min=1e-6)], ids=of_name)  # fmt: skip
def test_both_means_give_the_ode(sde):
    """`bridge` of N(0, 1) and N(0, 2): the variance of x_0 that it ends with has an error
    of h ln(1/h), since c grows like a root at t_max. It is affine, so the variance is made of the
    squared slopes of x_1 and of the draw."""
    pairs = numbers(1.0, 2.0, 0.8)
    solver, errors = solvers_bridge(sde, eta=0.0), []
    for steps in (40, 80):
        grid = grids.uniform(sde, steps)
        x, state, ends = jnp.asarray([[1.0], [0.0]]), (), pairs.ends(sde)
        for i, (t, s) in enumerate(itertools.pairwise(grid)):
            draws = jnp.asarray([[0.0], [float(i == 0)]])
            x, state = solver.step(lambda *_, z=draws: z, ends, x, t, s, state)
        x = ends(x, grid[-1])
        errors.append(float(2 * x[0, 0] ** 2 + x[1, 0] ** 2) - 1)
    assert abs(errors[1]) < 0.05
    assert 1.65 < errors[0] / errors[1] < 2.1


@pytest.mark.parametrize("sde", BRIDGES, ids=of_name)
def test_with_eta_1_it_is_ancestral(sde):
    pairs = two_components()
    x, t, s = jnp.asarray([[0.4]]), jnp.asarray(0.7), jnp.asarray(0.5)
    args = (lambda *_: 0.3 * jnp.ones((1, 1)), pairs.ends(sde), x, t, s)
    found, _ = solvers_bridge(sde, eta=1.0).step(*args, ())
    ancestral = solvers.ancestral(sde)
    wanted, _ = ancestral.step(*args, ancestral.init(x, jnp.stack([t, s])))
    np.testing.assert_allclose(found, wanted, rtol=1e-10)


def test_samples_of_independent_mixtures_have_the_law_of_x_0():
    first, ring = exact.three_gaussians(), exact.ring()
    equal, covs = jnp.full(8, 1 / 8), jnp.broadcast_to(0.01 * jnp.eye(2), (8, 2, 2))
    pairs = exact_bridge.independent(first, exact.Mixture(equal, ring.points, covs))
    sde = Brownian(variance=0.5, t_min=1e-5)
    _, x_1 = pairs.sample(jax.random.key(0), 800)
    run = jax.jit(lambda key, x_1: sampling.sample(
        key, solvers.ancestral(sde), pairs.denoiser(sde), x_1, grids.uniform(sde, 60), denoise=True
    ).x)  # fmt: skip
    x = np.asarray(run(jax.random.key(1), x_1))
    far = np.asarray(first.sample(jax.random.key(2), 4000))
    for i, j in itertools.product(range(2), range(2)):
        error = np.mean(x[:, i] * x[:, j]) - np.mean(far[:, i] * far[:, j])
        assert abs(error) < 4 * np.std(far[:, i] * far[:, j]) * np.sqrt(1 / 800 + 1 / 4000) + 0.02
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=4 * np.sqrt(1.2 / 800) + 0.01)
