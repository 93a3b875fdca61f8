"""Bounds of likelihoods against the masses and densities of laws in closed form, in nats."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp
from scipy import stats

from score_sde.config import build
from score_sde.errors import ConfigError
from score_sde.processes import EDM, VE, VP, Flow, Masking
from score_sde.processes.exact import Mixture
from score_sde.sampling import bounds, dequantisation, grids, information, variational
from score_sde.sampling.quadrature import Rule, over_noise
from score_sde.types import Levels

pytestmark = pytest.mark.usefixtures("x64")
WIDE = EDM(t_min=3e-7, t_max=1e7)  # its ends leave out t_min^2 (ln p)'', about 1e-11
LEVELS = Levels(-0.75, 0.5, 4)
VALUES = LEVELS.first + LEVELS.step * np.arange(LEVELS.number)
CELLS = VALUES[:, None] + LEVELS.step / 2 * np.array([[-1, 1]])
FINER = Rule(points=300)


def mixture(d=1):
    """Two Gaussians, correlated neither within themselves nor, in one dimension, of one width."""
    means = np.array([[-0.5, 0.3], [0.4, -0.2]])[:, :d]
    covs = np.array([np.diag([0.06, 0.1]), np.diag([0.04, 0.05])])[:, :d, :d]
    return Mixture(jnp.array([0.6, 0.4]), jnp.asarray(means), jnp.asarray(covs))


def masses(law, rho=0.0):
    """P of every cell of `grid(d)`, under the law with noise rho, by its distribution functions."""
    total = 0.0
    d = law.means.shape[1]
    for weight, mean, cov in zip(*map(np.asarray, (law.weights, law.means, law.covs)), strict=True):
        std = np.sqrt(np.diag(cov) + rho**2)
        each = [np.diff(stats.norm.cdf((CELLS - mean[j]) / std[j]), axis=1)[:, 0] for j in range(d)]
        total = total + weight * (each[0] if d == 1 else np.outer(*each).ravel())
    return total


def grid(d=1):
    """Every x [n, d] at levels."""
    return jnp.asarray(np.stack(np.meshgrid(*d * [VALUES], indexing="ij"), axis=-1).reshape(-1, d))


def of_levels(d=1):
    """The law of x at levels with the masses of the mixture's cells (scaled to 1), and P."""
    p = masses(mixture(d))
    p = p / p.sum()
    x = grid(d)
    return Mixture(jnp.asarray(p), x, jnp.zeros((len(x), d, d))), x, p


def repeated(estimate, x, n, seed=0):
    """Mean and standard error [b] of n estimates of every x."""
    keys = jax.random.split(jax.random.key(seed), n * len(x))
    found = np.asarray(jax.jit(estimate)(keys, jnp.repeat(x, n, axis=0))).reshape(len(x), n)
    return found.mean(axis=1), found.std(axis=1, ddof=1) / np.sqrt(n)


def near(found, truth, errors=4.0):
    """Within so many standard errors."""
    mean, error = found
    np.testing.assert_array_less(np.abs(mean - truth), errors * error)


# Densities


@pytest.mark.parametrize(
    ("d", "rule", "tolerance"), [(1, Rule(), 2e-10), (2, Rule(30, 60, 7.0), 2e-8)]
)
def test_the_errors_of_a_denoiser_give_its_density(d, rule, tolerance):
    law = mixture(d)
    x = jnp.array([[0.1, -0.1], [-0.7, 0.4], [1.3, 0.2]])[: 3 if d == 1 else 1, :d]
    found = jax.jit(lambda x: information.by_quadrature(WIDE, law.denoiser(WIDE), x, rule))(x)
    np.testing.assert_allclose(found, law.log_density(x), rtol=0, atol=tolerance)


@pytest.mark.parametrize("process", [VP(), Flow(), EDM(t_min=0.2, t_max=4.0)])
def test_what_lies_beyond_the_ends_of_a_process(process):
    """With the exact denoiser the bound is E ln p of x_t/alpha at t_min, less what the prior is
    away from the law of x_T."""
    law, x = mixture(), jnp.array([[-0.6], [0.2], [0.9]])
    at_min, at_max = jnp.asarray(process.t_min), jnp.asarray(process.t_max)

    def end(x, nu):
        y = process.noised(x, nu, at_max)
        return law.log_prob(process, y, at_max) - process.prior_log_prob(y)

    def start(x, nu):
        y = process.noised(x, nu, at_min)
        return law.log_prob(process, y, at_min) + jnp.log(process.alpha(at_min))

    truth = over_noise(start, x, FINER) - over_noise(end, x, FINER)
    found = information.by_quadrature(process, law.denoiser(process), x)
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-8)


@pytest.mark.parametrize("process", [VP(), VE()])
def test_the_information_bound_is_estimated_without_bias(process):
    law, x = mixture(2), jnp.array([[-0.6, 0.3], [0.9, 0.1]])
    denoiser = law.denoiser(process)
    truth = information.by_quadrature(process, denoiser, x, Rule(20, 60, 7.0))
    estimator = build("sampling.bounds", "information(draws=4)", None)
    found = repeated(lambda k, x: estimator.estimate(k, process, denoiser, x).log_prob, x, 5000)
    near(found, truth)
    other = build("sampling.bounds", "information(draws=2, location=0.0, scale=3.0)", None)
    near(repeated(lambda k, x: other.estimate(k, process, denoiser, x).log_prob, x, 5000), truth)


# Probabilities, with a decoder


@pytest.mark.parametrize(("d", "rule"), [(1, FINER), (2, Rule(20, 110, 7.0))])
def test_probability_is_half_the_integral_of_the_error(d, rule):
    """Where the decoder is sure and the prior is the law of x_T, P = exp(-1/2 int mse ds)."""
    law, x, p = of_levels(d)
    process = EDM(t_min=0.02, t_max=1e7)
    x, p = (x, p) if d == 1 else (x[5:6], p[5:6])
    found = jax.jit(
        lambda x: variational.by_quadrature(process, LEVELS, law.denoiser(process), x, rule)
    )(x)
    np.testing.assert_allclose(found, np.log(p), rtol=0, atol=2e-10 if d == 1 else 1e-8)


@pytest.mark.parametrize("process", [VP(), EDM(t_max=5.0)])
def test_the_gap_is_that_of_decoder_and_prior(process):
    """ln P(x) - bound = E ln P(x | x_0)/decoder(x | x_0) + what the prior is away."""
    law, x, p = of_levels()
    process = variational.ended(process, LEVELS, tau=1.2)
    at_min, at_max = jnp.asarray(process.t_min), jnp.asarray(process.t_max)
    rho = process.sigma(at_min) / process.alpha(at_min)

    def decoder(x, nu):  # ln P(x | x_0)/decoder(x | x_0), written out
        y = (x + rho * nu)[:, :1]
        log_normal = -((y - VALUES[None]) ** 2) / (2 * rho**2)
        own = -((y[:, 0] - x[:, 0]) ** 2) / (2 * rho**2)
        posterior = logsumexp(log_normal + np.log(p)[None], axis=1)
        return (
            jnp.interp(x[:, 0], VALUES, np.log(p))
            + own
            - posterior
            - (own - logsumexp(log_normal, axis=1))
        )

    def end(x, nu):
        y = process.noised(x, nu, at_max)
        return law.log_prob(process, y, at_max) - process.prior_log_prob(y)

    gap = over_noise(decoder, x, FINER) + over_noise(end, x, FINER)
    found = variational.by_quadrature(process, LEVELS, law.denoiser(process), x, FINER)
    np.testing.assert_allclose(np.log(p) - found, gap, rtol=0, atol=1e-9)
    assert p @ gap > 0.005  # nats, a mean of divergences, and not rounding


def test_the_variational_bound_is_estimated_without_bias():
    law, x, _ = of_levels()
    estimator = build("sampling.bounds", "variational(draws=4, tau=1.2)", LEVELS)
    denoiser = law.denoiser(VP())
    found = repeated(lambda k, x: estimator.estimate(k, VP(), denoiser, x).log_prob, x, 4000)
    ended = variational.ended(VP(), LEVELS, 1.2)
    near(found, variational.by_quadrature(ended, LEVELS, denoiser, x, FINER))
    assert (estimator.kind, estimator.of_levels) == (bounds.LOWER, True)


# A model of five steps, by quadrature

STEPS = variational.ended(VP(t_max=0.6), LEVELS, 1.5)


def chain(denoiser):
    """P of every level under the model of five steps: x_T ~ N(0, 1) on a fine line, the steps of
    DDPM (Ho et al. 2020, eq. 6 and 7), and the decoder."""
    times = grids.log_snr(STEPS, 5)
    line = np.linspace(-6, 6, 1201)
    density = stats.norm.pdf(line)
    for t, s in itertools.pairwise(times):
        at, st = float(STEPS.alpha(t)), float(STEPS.sigma(t))
        as_, ss = float(STEPS.alpha(s)), float(STEPS.sigma(s))
        kept = at / as_
        drawn = st**2 - kept**2 * ss**2
        clean = np.asarray(denoiser(jnp.asarray(line)[:, None], t))[:, 0]
        mean = (as_ * drawn * clean + kept * ss**2 * line) / st**2
        kernel = stats.norm.pdf(line[:, None], mean[None], np.sqrt(drawn) * ss / st)
        density = kernel @ density * (line[1] - line[0])
    end = jnp.asarray(STEPS.t_min)
    alpha, sigma = float(STEPS.alpha(end)), float(STEPS.sigma(end))
    likely = np.exp(-((line[:, None] - alpha * VALUES) ** 2) / (2 * sigma**2))
    return density @ (likely / likely.sum(axis=1, keepdims=True)) * (line[1] - line[0])


def test_weights_of_paths_give_the_probability_of_the_model_with_steps():
    law, x, p = of_levels()
    denoiser = law.denoiser(STEPS)
    truth = chain(denoiser)
    assert abs(truth.sum() - 1) < 1e-6
    assert np.abs(np.log(truth / p)).max() > 0.02  # the model is another than the law

    def weights(keys, x):
        times = grids.log_snr(STEPS, 5)
        return variational.path_weight(keys, STEPS, LEVELS, denoiser, x, times)

    near(repeated(lambda k, x: jnp.exp(weights(k, x)), x, 8000), truth)


def test_more_paths_are_a_tighter_bound_and_their_sum_is_none():
    law, x, _ = of_levels()
    denoiser = law.denoiser(STEPS)
    truth = np.log(chain(denoiser))

    def bound(spec):
        estimator = build("sampling.bounds", spec, LEVELS)
        return repeated(lambda k, x: estimator.estimate(k, STEPS, denoiser, x).log_prob, x, 1000)

    found = {k: bound(f"variational(steps=5, samples={k})") for k in (1, 4, 16)}
    means = np.array([mean for mean, _ in found.values()])
    errors = np.array([error for _, error in found.values()])
    assert np.all(np.diff(means, axis=0) > 3 * np.hypot(errors[1:], errors[:-1]))
    assert np.all(means - 4 * errors < truth)
    assert np.all(truth - means[2] < (truth - means[0]) / 2)
    assert np.all(means[2] + np.log(16) > truth + 2)  # as public code sums them

    def each(i):  # the term of step i by quadrature
        times = grids.log_snr(STEPS, 5).astype(x.dtype)
        gain = jnp.diff(jnp.exp(STEPS.log_snr(times)))[i] / 2

        def error(x, nu):
            return gain * variational.squared_error(STEPS, denoiser, x, times[i], nu)

        return over_noise(error, x, FINER)

    lost = over_noise(lambda x, nu: variational.reconstruction(STEPS, LEVELS, x, nu), x, FINER)
    near(found[1], -variational.prior_divergence(STEPS, x) - sum(map(each, range(5))) - lost)


# Masses of cells, by dequantisation

LAWS = ("uniform", "truncated_normal")


def begun():
    return variational.ended(VP(), LEVELS, 2.0)


def exact_density(law, process):
    """Of x_t/alpha at t_min."""
    t = jnp.asarray(process.t_min)

    def density(keys, y):
        alpha = process.alpha(t)
        log_prob = law.log_prob(process, alpha * y, t) + y.shape[1] * jnp.log(alpha)
        return log_prob, jnp.zeros(len(y), jnp.int32)

    return density


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("d", [1, 2])
def test_the_gap_of_dequantisation_is_a_divergence_and_falls_with_the_samples(name, d):
    law, process, x = mixture(d), begun(), grid(d)
    density, noise = exact_density(law, process), dequantisation.LAWS[name](process, LEVELS)
    rho = LEVELS.step / 4
    log_p = np.log(masses(law, rho))

    # E ln p(x + u)/q(u) = ln P - KL(q(u) || p(u | x)), by Gauss-Legendre quadrature over the cell
    nodes, weights = np.polynomial.legendre.leggauss(40)
    u = np.stack(np.meshgrid(*d * [nodes * LEVELS.step / 2]), axis=-1).reshape(-1, d)
    w = np.prod(np.stack(np.meshgrid(*d * [weights * LEVELS.step / 2]), -1), axis=-1).ravel()
    uniform_q = np.full(len(u), LEVELS.step**-d)
    normal_q = np.prod(stats.truncnorm.pdf(u, -2, 2, scale=rho), axis=1)
    q = {"uniform": uniform_q, "truncated_normal": normal_q}[name]
    y = np.asarray(x)[:, None] + u[None]
    log_density = np.asarray(density(None, jnp.asarray(y.reshape(-1, d)))[0]).reshape(len(x), -1)
    p_of_u = np.exp(log_density - log_p[:, None])
    np.testing.assert_allclose(p_of_u @ w, 1, rtol=1e-9)  # a law: so log_p is the mass
    divergence = (np.log(q) - np.log(p_of_u)) @ (w * q)
    assert divergence.min() > 0

    def bound(k):
        def estimate(keys, x):
            return dequantisation.log_mass(keys, density, noise, x, k)[0]

        return repeated(estimate, x, 2000)

    found = {k: bound(k) for k in (1, 4, 32)}
    near(found[1], log_p - divergence)
    for k, (mean, error) in found.items():
        np.testing.assert_array_less(mean, log_p + 4 * error)
        if k > 1:
            np.testing.assert_array_less(log_p, mean + np.log(k))  # without -ln k: above
    assert found[1][0].mean() < found[4][0].mean() < found[32][0].mean()
    # the second order: the gap falls to about var(p/q)/(2 K P^2)
    spread = (p_of_u**2 / q) @ w - 1
    mean, error = found[32]
    np.testing.assert_allclose(log_p - mean, spread / 64, rtol=0.3, atol=4 * error.max())


def test_the_density_is_that_of_the_ode():
    law, process, x = mixture(2), begun(), grid(2)[4:8]
    law = dataclasses.replace(law, means=law.means - (law.weights @ law.means)[None])
    keys = jax.random.split(jax.random.key(3), len(x))
    options = "samples=3, tau=2.0, probes=0, rtol=1e-7, atol=1e-7"
    estimator = build("sampling.bounds", f"dequantised({options})", LEVELS)
    found = jax.jit(lambda x: estimator.estimate(keys, VP(), law.denoiser(VP()), x))(x)
    noise = dequantisation.truncated_normal(process, LEVELS)
    truth, _ = dequantisation.log_mass(keys, exact_density(law, process), noise, x, 3)
    np.testing.assert_allclose(found.log_prob, truth, atol=2e-4)  # alpha^2 of x_T, in the prior
    assert np.all(found.nfe > 30)


def test_one_probe_in_a_mean_of_exponentials_is_no_bound():
    """The trace of a correlated law is noise with one probe, and e^noise has a mean above 1."""
    cov = jnp.array([[0.1, 0.095], [0.095, 0.1]])
    law = Mixture(jnp.ones(1), jnp.zeros((1, 2)), cov[None])
    x = grid(2)[5:6]
    u = np.linspace(-0.5, 0.5, 201)[:-1] * LEVELS.step + LEVELS.step / 400
    y = jnp.asarray(np.stack(np.meshgrid(u, u), -1).reshape(-1, 2)) + x
    process = begun()
    truth = np.log(np.mean(np.exp(exact_density(law, process)(None, y)[0])) * LEVELS.step**2)
    results = {}
    for probes in (0, 1):
        spec = f"dequantised(samples=20, tau=2.0, probes={probes}, rtol=1e-3, atol=1e-3)"
        estimator = build("sampling.bounds", spec, LEVELS)
        assert estimator.kind == (bounds.ESTIMATE if probes else bounds.LOWER)
        results[probes] = repeated(
            lambda k, x, e=estimator: e.estimate(k, VP(), law.denoiser(VP()), x).log_prob, x, 100
        )
    assert results[0][0] - 4 * results[0][1] - 5e-3 < truth  # 5e-3 of the prior and the ODE
    assert results[1][0] > truth + 4 * results[1][1] + 5e-3


# Options


def test_tau_is_half_a_cell_over_the_noise():
    ended = variational.ended(VP(), LEVELS, 3.0)
    t = jnp.asarray(ended.t_min)
    assert LEVELS.step / 2 * ended.alpha(t) / ended.sigma(t) == pytest.approx(3)
    assert variational.tau_of(ended, LEVELS) == pytest.approx(3)
    assert variational.ended(VP(), LEVELS, None) == VP()
    assert dataclasses.replace(ended, t_min=VP().t_min) == VP()


def test_examples_do_not_see_each_other():
    law, x, _ = of_levels()
    keys = jax.random.split(jax.random.key(1), len(x))
    denoiser = law.denoiser(STEPS)
    for spec in ("information", "variational", "variational(steps=3, samples=2)"):
        estimator = build("sampling.bounds", spec, LEVELS)

        @jax.jit
        def estimate(keys, x, estimator=estimator):
            return estimator.estimate(keys, STEPS, denoiser, x)

        whole, part = estimate(keys, x), estimate(keys[1:3], x[1:3])
        np.testing.assert_allclose(whole.log_prob[1:3], part.log_prob, rtol=1e-12)
        assert whole.nfe[0] == {"information": 16, "variational": 16}.get(spec, 6)


@pytest.mark.parametrize(
    ("spec", "levels", "message"),
    [
        ("variational", None, "evenly spaced levels"),
        ("dequantised", None, "evenly spaced levels"),
        ("variational(samples=2)", LEVELS, "set steps too"),
        ("variational(draws=0)", LEVELS, "draws must be at least 1"),
        ("dequantised(samples=0)", LEVELS, "samples must be at least 1"),
        ("dequantised(law='logistic')", LEVELS, "one of uniform, truncated_normal"),
    ],
)
def test_wrong_options_end_in_one_line(spec, levels, message):
    with pytest.raises(ConfigError, match=message):
        build("sampling.bounds", spec, levels)


@pytest.mark.parametrize(
    ("spec", "process", "message"),
    [
        ("information", Masking(), "take the bound elbo"),
        ("information(scale=0.0)", VP(), "scale must be above 0"),
        ("information(draws=0)", VP(), "draws must be at least 1"),
        ("information", Flow(t_max=1.0), "a little inwards"),
        ("variational(tau=-1.0)", VP(), "tau must be above 0"),
        ("variational(tau=1e5)", VP(), "at its t_min, tau is"),
    ],
)
def test_what_does_not_fit_a_process_ends_in_one_line(spec, process, message):
    estimate = build("sampling.bounds", spec, LEVELS).estimate
    with pytest.raises(ValueError, match=message):
        estimate(jax.random.split(jax.random.key(0), 1), process, lambda x, t: x, jnp.ones((1, 1)))
