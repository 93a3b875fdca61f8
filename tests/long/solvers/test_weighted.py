"""Weighted samples against closed forms: products, powers and rewards of Gaussians and mixtures."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from score_sde import sampling, solvers
from score_sde.evaluation.solver_error import order
from score_sde.evaluation.weighted_law import weighted_law
from score_sde.models import guidance, tilting
from score_sde.processes import EDM, VP, Tilt, coefficients
from score_sde.processes.exact import Gaussian, Mixture
from score_sde.processes.exact_tilted import powers, tilted, times
from score_sde.sampling import grids
from score_sde.types import Noise

pytestmark = pytest.mark.usefixtures("x64")
SDE = VP(t_min=1e-4)


def pair(sde, laws):
    """(D_pos, D_neg): the second law is the one to go towards."""
    return guidance.of_two(laws[1].denoiser(sde), laws[0].denoiser(sde))


def double():
    """The two Gaussians of the tests of guidance, in float64."""
    eye = jnp.eye(1)
    return Gaussian(jnp.zeros(1), eye), Gaussian(jnp.ones(1), eye / 4)


def bimodal():
    means, covs = jnp.array([[-1.5], [1.0]]), jnp.array([[[0.3]], [[0.5]]])
    return Mixture(jnp.array([0.3, 0.7]), means, covs)


def many(sde, tilt, n, groups, p, seed=0, **options):
    """The sample and the solver's state: `groups` estimates, by p particles each."""
    solver = solvers.feynman_kac(sde, p, **options)
    times = grids.log_snr(sde, n)

    @jax.jit
    def draw(key):
        start, walk = jax.random.split(key)
        x = sde.prior_sample(start, (groups * p, 1), times.dtype)
        return sampling.sample(walk, solver, tilt, x, times)

    return draw(jax.random.key(seed))


@pytest.mark.parametrize("powers_of", [(2.0, -1.0), (1.0, 1.0), (0.5, 0.2)])
@pytest.mark.parametrize("std", [0.0, 0.7])
def test_a_step_is_the_integral_over_products_of_normal_laws(powers_of, std):
    """The proposal ~ F(x_t | x_s) prod_i N_i,s(x_s)^beta_i and its weight by quadrature, for N_i
    the noised N(m_i, std^2)."""
    sde, t, s = VP(), 0.5, 0.4
    a_t, a_s, b_t, b_s = (float(f(jnp.asarray(u))) for f in (sde.alpha, sde.sigma) for u in (t, s))
    means, x = np.array([0.8, -0.5]), 0.6
    gain = a_t * std**2 / (a_t**2 * std**2 + b_t**2)

    def normal(u, alpha, sigma):
        deviation = np.sqrt((alpha * std) ** 2 + sigma**2)
        return np.prod(stats.norm.pdf(u, alpha * means, deviation) ** np.array(powers_of))

    def integrand(u):
        forward = stats.norm.pdf(x, a_t / a_s * u, np.sqrt(b_t**2 - (a_t / a_s * b_s) ** 2))
        return forward * normal(u, a_s, b_s)

    z, first, second = (
        integrate.quad(lambda u, k=k: u**k * integrand(u), -6, 6, epsabs=1e-14, limit=300)[0]
        for k in range(3)
    )
    mean, deviation = first / z, np.sqrt(second / z - (first / z) ** 2)
    found = means + gain * (x - a_t * means)
    tilt = tilting.product(
        sde, lambda x_t, t: tuple(jnp.full_like(x_t, d) for d in found), powers_of
    )
    solver = solvers.feynman_kac(sde, 3, threshold=0.0, data_std=std, deal=False)
    x_t, ends = jnp.full((3, 1), x), (jnp.asarray(t), jnp.asarray(s))
    # the first step is from the prior: this is the second
    state = solver.init(x_t, jnp.asarray([0.6, t, s]))
    state = state._replace(done=jnp.int32(1), left=jnp.int32(1))
    noise = Noise(jax.random.key(0))
    x_s, state = solver.step(noise, tilt, x_t, *ends, state)
    z_drawn = noise(*ends, (3, 1))
    np.testing.assert_allclose(x_s, mean + deviation * z_drawn, rtol=1e-7)
    np.testing.assert_allclose(
        state.log_weights, np.full((1, 3), np.log(z / normal(x, a_t, b_t))), rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize("powers_of", [(2.0, -1.0), (1.0, 1.0), (3.0, -0.5)])
def test_short_steps_have_the_weight_of_feynman_kac_correctors(powers_of):
    """d ln w = g^2/2 (|S|^2 - sum_i beta_i |s_i|^2) + (B - 1) div f in reverse time (Skreta et al.
    2025, prop. 3.3), in three dimensions: the difference falls as the step."""
    sde, t = VP(), jnp.asarray(0.5)
    rng = np.random.default_rng(0)
    x, parts = jnp.asarray(rng.normal(size=(1, 3))), jnp.asarray(rng.normal(size=(2, 1, 3)))
    f, g2 = coefficients(sde, t)
    scores = np.stack([sde.score(x, t, d) for d in parts])
    whole = np.tensordot(powers_of, scores, 1)
    parts_of = sum(b * np.sum(s**2) for b, s in zip(powers_of, scores, strict=True))
    rate = float(g2) / 2 * (np.sum(whole**2) - parts_of) + (sum(powers_of) - 1) * 3 * float(f)
    tilt = tilting.product(sde, lambda x_t, t: tuple(parts), powers_of)
    solver = solvers.feynman_kac(sde, 1, threshold=0.0, deal=False)

    def off(step):
        s = t - step
        state = solver.init(x, jnp.stack([t, t, s]))._replace(done=jnp.int32(1))
        _, state = solver.step(Noise(jax.random.key(0)), tilt, x, t, s, state)
        return abs(float(state.line[0, 0]) / step - rate)

    errors = [off(step) for step in (1e-3, 1e-4, 1e-5)]
    assert errors[0] / abs(rate) < 0.2
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 10, rtol=0.1)


@pytest.mark.parametrize("sde", [SDE, EDM()], ids=["VP", "EDM"])
@pytest.mark.parametrize("std", [0.0, 0.5])
def test_guidance_of_weight_two_tends_to_the_truth_with_the_steps(sde, std):
    """p_0^-1 p_1^2 = N(8/7, 1/7). In the limit of many particles the errors of mean, variance and
    ln Z fall as 1/steps; plain guidance tends to another law, N(1.38, .0625) by the ODE."""
    law, log_z = powers(double(), (-1.0, 2.0))
    tilt = tilting.between(pair(sde, double()), 2.0)
    solver = solvers.feynman_kac(sde, 6, threshold=0.0, data_std=std, deal=False)
    run = jax.jit(functools.partial(weighted_law, solver, tilt, sde.prior_std))
    steps = (100, 200, 400, 800)
    found = [run(grids.log_snr(sde, n)) for n in steps]
    truth = (law.means[0, 0], law.covs[0, 0, 0], log_z)
    errors = np.abs([[float(a - b) for a, b in zip(one, truth, strict=True)] for one in found])
    slopes = [order(steps, column) for column in errors.T]
    at = [1, 2] if std == 0 else [0, 1, 2]  # points have an error of the mean below the prior's
    np.testing.assert_allclose(np.asarray(slopes)[at], 1, atol=0.1)
    assert np.all(errors[-1] < (0.002, 0.003, 0.02)), errors[-1]
    plain = jax.jit(
        lambda times: sampling.sample(
            jax.random.key(0),
            solvers.dpmpp(sde),
            tilt,
            sde.prior_std * jnp.array([[0.0], [1.0]]),
            times,
        ).x[:, 0]
    )(grids.log_snr(sde, 800))
    # with u = sigma/alpha and Phi = (1/4 + u^2)/(1 + u^2)^.5, d(x/alpha/Phi)/du = -2 u/((1/4 +
    # u^2) Phi): x_T has the mean 0
    most = float(sde.sigma(jnp.asarray(sde.t_max)) / sde.alpha(jnp.asarray(sde.t_max)))
    mean, _ = integrate.quad(
        lambda u: 0.25 * 2 * u * np.sqrt(1 + u**2) / (0.25 + u**2) ** 2, 0, most, limit=200
    )
    np.testing.assert_allclose([plain[0], (plain[1] - plain[0]) ** 2], [mean, 0.0625], atol=1e-3)
    assert abs(mean - 1.38) < 0.007


@pytest.mark.parametrize("power", [0.5, 2.0, 3.0])
def test_a_power_of_the_law_that_is_taken_is_exact_in_any_number_of_steps(power):
    """p^beta of N(1, 1/4), with data_std 1/2, in 1 step and in 5: what is left is that the law at
    t_max is taken for the prior."""
    _, one = double()
    law, log_z = powers((one,), (power,))
    tilt = tilting.product(SDE, lambda x, t: (one.denoiser(SDE)(x, t),), (power,))
    solver = solvers.feynman_kac(SDE, 6, threshold=0.0, data_std=0.5, deal=False)
    truth = (law.means[0, 0], law.covs[0, 0, 0], log_z)
    for n in (1, 5):
        found = jax.jit(functools.partial(weighted_law, solver, tilt, 1.0))(grids.log_snr(SDE, n))
        # alpha at t_max is .0066; x there has the mean alpha and the variance 1 - .75 alpha^2; and
        # at t_min the law has a little noise
        np.testing.assert_allclose([*found], truth, atol=1e-3)


def test_a_mixture_to_a_power_and_a_product_of_experts():
    """Particles on laws that are no Gaussians. The results of 60 and 120 steps are extrapolated,
    as those of a method of order 1. Five standard errors, which sixteen groups show, are
    allowed. Particles are dealt anew at every step: for powers that do not sum to 1 the weights of
    several steps together have heavy tails."""
    law, other = bimodal(), Gaussian(jnp.array([0.5]), jnp.eye(1))
    cases = {
        (2.0,): (lambda x, t: (law.denoiser(SDE)(x, t),), times(law, law)),
        (1.0, 1.0): (guidance.of_two(law.denoiser(SDE), other.denoiser(SDE)), times(law, other)),
    }
    for exponents, (each, truth) in cases.items():
        tilt = tilting.product(SDE, each, exponents)
        found = []
        for n in (60, 120):
            out = many(SDE, tilt, n, 16, 2000, threshold=1.0, data_std=0.7, deal=False)
            shares = jax.nn.softmax(out.state.log_weights, axis=1)
            x = out.x.reshape(16, -1)
            left = jnp.sum(jnp.where(x < -0.4, shares, 0), axis=1)
            mean = jnp.sum(shares * x, axis=1)
            found.append(np.stack([solvers.log_z(out.state), left, mean]))
        best = 2 * found[1] - found[0]
        error = best.std(axis=1, ddof=1) / 4
        means, stds = truth.law.means[:, 0], np.sqrt(truth.law.covs[:, 0, 0])
        share = float(truth.law.weights @ stats.norm.cdf(-0.4, means, stds))
        wanted = [float(truth.log_z), share, float(truth.law.weights @ means)]
        assert np.all(error < (0.08, 0.03, 0.07)), error
        assert np.all(np.abs(best.mean(axis=1) - wanted) < 5 * error), (best.mean(axis=1), wanted)


def quadratic(x):
    return -2 * jnp.sum(x**2, axis=1)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_the_weights_of_a_line_telescope_to_the_reward_of_its_end(threshold):
    """Whatever V is before the end, and whether or not particles are dealt anew: with proposals of
    the plain model, to rounding."""
    denoiser = bimodal().denoiser(SDE)
    tilt = tilting.rewarded(SDE, denoiser, quadratic)
    out = many(SDE, tilt, 20, 5, 16, threshold=threshold, pull=0.0, deal=False)
    end = quadratic(jax.jit(denoiser)(out.x, jnp.asarray(SDE.t_min))).reshape(5, 16)
    np.testing.assert_allclose(out.state.line, end, rtol=1e-9, atol=1e-10)
    if threshold == 0:
        np.testing.assert_array_equal(out.state.log_weights, out.state.line)
        np.testing.assert_array_equal(out.state.log_z, np.zeros(5))
    else:
        assert np.all(out.state.log_z != 0)


@pytest.mark.parametrize(("threshold", "pull"), [(0.0, 0.5), (0.5, 0.5), (1.0, 0.0)])
def test_the_mean_of_the_weights_is_z(pull, threshold):
    """The estimate of Z is unbiased with four particles, for any proposal, whenever they are dealt
    anew, and its mean with x is Z E[x] at every place; both against the exact law of so many steps.
    8,000 groups, and four standard errors."""
    law = Gaussian(jnp.array([0.4]), jnp.eye(1))
    tilt = tilting.rewarded(SDE, law.denoiser(SDE), lambda x: quadratic(x) / 4)
    solver = solvers.feynman_kac(SDE, 6, threshold=0.0, pull=pull, deal=False)
    exact = jax.jit(functools.partial(weighted_law, solver, tilt, 1.0))(grids.log_snr(SDE, 12))
    groups = 8000
    out = many(SDE, tilt, 12, groups, 4, threshold=threshold, pull=pull)
    ratio = np.exp(np.asarray(out.state.log_z) - float(exact.log_z))
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(groups)
    for place in (0, 3):
        off = ratio * (np.asarray(out.x).reshape(groups, 4)[:, place] - float(exact.mean))
        assert abs(off.mean()) < 4 * off.std() / np.sqrt(groups), place
    np.testing.assert_allclose(out.state.log_weights, 0.0)


def test_at_the_end_each_place_is_a_draw_by_the_weights():
    """20,000 groups of weights .2 .8 0, at 0, 1 and 2, through a step with next to no noise."""
    groups, weights = 20_000, np.array([0.2, 0.8, 0.0])
    tilt = tilting.alone(lambda x, t: x)
    solver = solvers.feynman_kac(SDE, 3, threshold=0.0)
    x = jnp.tile(jnp.arange(3.0), groups)[:, None]
    t, s = jnp.asarray(1.1e-4), jnp.asarray(1e-4)
    state = solver.init(x, jnp.stack([t, s]))
    state = state._replace(log_weights=jnp.log(jnp.tile(jnp.asarray(weights), (groups, 1))))
    x, state = jax.jit(
        lambda x, state: solver.step(Noise(jax.random.key(0)), tilt, x, t, s, state)
    )(x, state)
    found = np.round(np.asarray(x).reshape(groups, 3)).astype(int)
    for place in range(3):
        share = np.bincount(found[:, place], minlength=3) / groups
        assert np.all(np.abs(share - weights) <= 4 * np.sqrt(0.16 / groups)), (place, share)
    np.testing.assert_allclose(solvers.log_z(state), -np.log(3.0))


def test_the_exact_value_leaves_equal_weights():
    """With V_t = ln E[e^r(x_0) | x_t] and its gradient, the weights vary less the more steps there
    are; and plain samples have the tilted law, N(0, .2) for r = -2 x^2 on N(0, 1)."""
    law, _ = double()
    found = tilted(law, jnp.zeros(1), 4 * jnp.eye(1))
    tilt = tilting.valued(SDE, law.denoiser(SDE), functools.partial(found.value, SDE))
    spread = []
    for n in (40, 160):
        out = many(SDE, tilt, n, 1, 2000, threshold=0.0, deal=False)
        spread.append(float(jnp.std(out.state.line - found.log_z)))
    assert spread[0] > 1.8 * spread[1], spread
    ends = jnp.array([[0.0], [1.0]])
    plain = jax.jit(
        lambda times: sampling.sample(jax.random.key(0), solvers.dpmpp(SDE), tilt, ends, times).x[
            :, 0
        ]
    )(grids.log_snr(SDE, 100))
    np.testing.assert_allclose((plain[1] - plain[0]) ** 2, 0.2, rtol=0.01)


def test_a_law_without_tilt_is_ancestral_sampling():
    """To rounding, with every weight 1."""
    law, times_ = bimodal(), grids.log_snr(SDE, 10)
    x, key = jax.random.normal(jax.random.key(0), (6, 1)), jax.random.key(1)
    solver = solvers.feynman_kac(SDE, 3, deal=False)
    ours = jax.jit(
        lambda x: sampling.sample(key, solver, tilting.alone(law.denoiser(SDE)), x, times_)
    )(x)
    theirs = jax.jit(
        lambda x: sampling.sample(key, solvers.ancestral(SDE), law.denoiser(SDE), x, times_)
    )(x)
    np.testing.assert_allclose(ours.x, theirs.x, rtol=1e-9)
    np.testing.assert_array_equal(ours.state.line, np.zeros((2, 3)))
    assert int(ours.nfe) == 30
    assert int(ours.depth) == 10


def test_two_ways_to_say_powers_that_sum_to_one():
    law, t = pair(SDE, double()), jnp.asarray(0.3)
    x = jnp.array([[0.3], [-1.0]])
    a, b = tilting.between(law, 2.5), tilting.product(SDE, law, (2.5, -1.5))
    ours, theirs = a(x, t, t), b(x, t, t)
    assert isinstance(ours, Tilt)
    np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-12)
    np.testing.assert_allclose(jnp.asarray(ours.spread), jnp.asarray(theirs.spread), rtol=1e-12)
    np.testing.assert_allclose(a(x, t), guidance.guide(law, 2.5)(x, t), rtol=1e-12)


def test_the_denoiser_of_a_product_has_the_sum_of_scores():
    """Whatever the powers sum to."""
    laws, t = (bimodal(), double()[1]), jnp.asarray(0.3)
    x = jnp.array([[0.3], [-1.0]])
    each = guidance.of_two(*(law.denoiser(SDE) for law in laws))
    found = SDE.score(x, t, tilting.product(SDE, each, (1.5, 0.7))(x, t))
    truth = 1.5 * laws[0].score(SDE, x, t) + 0.7 * laws[1].score(SDE, x, t)
    np.testing.assert_allclose(found, truth, rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"particles": 0}, "at least 1, not 0"),
        ({"threshold": 1.5}, "from 0 to 1, not 1.5"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        solvers.feynman_kac(SDE, **options)


def test_wrong_batches_and_powers_are_refused():
    with pytest.raises(ValueError, match="7 is no multiple of 2 particles"):
        solvers.feynman_kac(SDE, 2).init(jnp.zeros((7, 1)), jnp.array([1.0, 0.5]))
    with pytest.raises(ValueError, match="a sum above 0"):
        tilting.product(SDE, lambda x, t: (x, x), (1.0, -2.0))
