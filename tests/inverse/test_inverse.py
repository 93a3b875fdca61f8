"""Samples of x_0 given y against exact posteriors, and the published formulas by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from score_sde import inverse, sampling, solvers
from score_sde.config import build
from score_sde.errors import ConfigError
from score_sde.inverse.guiding import conjugate_gradients
from score_sde.inverse.observation import Observation
from score_sde.inverse.operators import clip, dense, gaussian_blur, mask
from score_sde.processes import DDPM, EDM, VP
from score_sde.processes.exact import Gaussian, Mixture, three_gaussians
from score_sde.sampling import grids
from score_sde.types import Noise, Solver

pytestmark = pytest.mark.usefixtures("x64")
METHODS = ["replacement", "repaint", "dps", "pigdm", "mmps", "ddnm", "ddrm", "twisted"]


def covariance(d, seed=0):
    root = np.random.default_rng(seed).normal(size=(d, d))
    return root @ root.T / d + 0.1 * np.eye(d)


MEAN, COV = np.array([1.0, -0.5, 0.3, 0.0]), covariance(4)
MATRIX = np.random.default_rng(1).normal(size=(2, 4)) / 2
NOISE = 0.3
PRIOR_STD = np.sqrt(np.diag(COV))


def measured(noise=NOISE, n=1):
    x = MEAN + np.random.default_rng(2).normal(size=(n, 4)) @ np.linalg.cholesky(COV).T
    return inverse.observe(jax.random.key(3), dense(MATRIX), jnp.asarray(x), noise)


def posterior(y, noise=NOISE, cov=COV):
    """Mean and covariance of N(MEAN, cov) given y, by the joint distribution."""
    gain = cov @ MATRIX.T @ np.linalg.inv(MATRIX @ cov @ MATRIX.T + noise**2 * np.eye(2))
    return MEAN + gain @ (np.asarray(y) - MATRIX @ MEAN), cov - gain @ MATRIX @ cov


def denoiser(sde):
    """That of N(MEAN, COV), in an eigenbasis found beforehand: quick to compile."""
    eigenvalues, eigenvectors = np.linalg.eigh(COV)

    def denoise(x, t):
        flat = x.reshape(-1, 4)
        mean, basis, values = (jnp.asarray(a, x.dtype) for a in (MEAN, eigenvectors, eigenvalues))
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        gain = alpha * values / (alpha**2 * values + sigma**2)
        away = (flat - alpha * mean[None]) @ basis * gain[None]
        return (mean[None] + away @ basis.T).reshape(x.shape)

    return denoise


def errors(x, truth):
    """Of the mean, the worst in units of the prior's deviation; of the covariance, relative in
    Frobenius' norm."""
    mean, cov = truth
    away = np.max(np.abs(np.mean(x, axis=0) - mean) / PRIOR_STD)
    return away, np.linalg.norm(np.cov(np.asarray(x).T) - cov) / np.linalg.norm(cov)


def test_posterior_of_a_mixture_is_bayes_rule():
    """p(x | y) p(y) = p(x) p(y | x) at any x, with p(y) of the mixture that y has."""
    prior, noise = three_gaussians(), 0.4
    matrix, y = jnp.asarray([[0.7, -0.4]]), jnp.asarray([0.5])
    x = jnp.asarray(np.random.default_rng(0).normal(size=(9, 2)))

    @jax.jit
    def both(x):
        return prior.posterior(matrix, y, noise).log_density(x), prior.log_density(x)

    found, before = both(x)
    likelihood = stats.norm.logpdf(np.asarray(x @ matrix[0]), 0.5, noise)
    p_y = sum(
        float(w)
        * stats.norm.pdf(
            0.5, float(matrix[0] @ m), np.sqrt(float(matrix[0] @ c @ matrix[0]) + noise**2)
        )
        for w, m, c in zip(prior.weights, prior.means, prior.covs, strict=True)
    )
    truth = np.asarray(before) + likelihood - np.log(p_y)
    np.testing.assert_allclose(found, truth, rtol=1e-10)


def test_mmps_is_exact_for_gaussians():
    """Its denoiser is that of the posterior, at every level, for images and an operator that is
    stated by its SVD, one observation for all or one for each."""
    sde, shape = EDM(), (4, 3, 1)
    blur = gaussian_blur(shape, 0.7)
    matrix = np.asarray(blur.apply(jnp.eye(12).reshape(12, *shape))).reshape(12, 12).T
    prior = Gaussian(jnp.linspace(-1, 1, 12), jnp.asarray(covariance(12)))
    x = jax.random.normal(jax.random.key(0), (5, *shape))
    t = sde.t_of_log_snr(jnp.linspace(-6.0, 6.0, 5))
    y = jax.random.normal(jax.random.key(1), (1, *shape))
    y = jnp.concatenate([y] * 4 + [y + 1])

    @jax.jit
    def both(x):
        x = sde.prior_std * x
        found = [
            build("inverse", "mmps(iterations=20)", sde, Observation(blur, seen, 0.2)).denoiser(
                prior.denoiser(sde)
            )(x, t)
            for seen in (y, y[:1])
        ]
        truth = prior.posterior(jnp.asarray(matrix), y[0].ravel(), 0.2).denoiser(sde)(x, t)
        other = prior.posterior(jnp.asarray(matrix), y[4].ravel(), 0.2).denoiser(sde)(x, t)
        return (*found, truth, jnp.concatenate([truth[:4], other[4:]]))

    each, one, truth, mixed = both(x)
    np.testing.assert_allclose(one, truth, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(each, mixed, rtol=1e-7, atol=1e-8)


def test_pigdm_is_exact_for_isotropic_gaussians():
    """With their standard deviation for `data_std`; noise 0 is the limit of little noise."""
    sde = VP()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)))
    t = jnp.linspace(0.1, 0.9, 5)

    @jax.jit
    def both(y, noise, mean, cov):
        prior = Gaussian(jnp.asarray(MEAN), 0.49 * jnp.eye(4))
        method = inverse.pigdm(sde, Observation(dense(MATRIX), y, noise), data_std=0.7)
        exact = Gaussian(mean, cov).denoiser(sde)(x, t)
        return method.denoiser(prior.denoiser(sde))(x, t), exact

    for noise in (0.0, NOISE):
        y = measured(noise).y
        truth = posterior(y[0], max(noise, 1e-6), 0.49 * np.eye(4))
        found, truth = both(y, noise, *(jnp.asarray(a) for a in truth))
        np.testing.assert_allclose(found, truth, atol=1e-8)


def test_moments_by_mmps():
    """The flow of an affine denoiser is affine: of its ends from 0 and from a basis, moments
    without chance. From the law of x_t given y the mean is the posterior's to rounding, and the
    covariance tends to its by the order of the solver, which is 2. From the process's prior they
    are within 2 % of the prior's deviation and 5 % of the covariance."""
    sde = VP(t_min=1e-3)
    alpha, sigma = (np.asarray(f(jnp.asarray([1.0, 1e-3]))) for f in (sde.alpha, sde.sigma))

    @jax.jit
    def ends(x, y, noise, times):
        method = inverse.mmps(sde, Observation(dense(MATRIX), y, noise))
        solver, changed = method.solver(solvers.heun(sde)), method.denoiser(denoiser(sde))
        return sampling.sample(jax.random.key(0), solver, changed, x, times).x

    for noise in (0.0, NOISE):
        y = measured(noise).y
        truth = posterior(y[0], noise)
        laws = [
            (a * truth[0], a**2 * truth[1] + s**2 * np.eye(4))
            for a, s in zip(alpha, sigma, strict=True)
        ]
        roots = np.stack([np.linalg.cholesky(laws[0][1]).T, np.eye(4)])
        starts = np.stack([laws[0][0], np.zeros(4)])[:, None]
        x = jnp.asarray(np.concatenate([starts, starts + roots], axis=1).reshape(10, 4))
        off = []
        for steps in (25, 50):
            end = np.asarray(ends(x, y, noise, grids.log_snr(sde, steps))).reshape(2, 5, 4)
            means, roots = end[:, 0], end[:, 1:] - end[:, :1]
            mean = np.max(np.abs(means - [laws[1][0], truth[0]]) / PRIOR_STD, axis=1)
            covs = np.einsum("cij,cik->cjk", roots, roots) - [laws[1][1], truth[1]]
            cov = np.linalg.norm(covs, axis=(1, 2)) / np.linalg.norm(truth[1])
            off.append(np.stack([mean, cov]))
        off = np.array(off)  # [steps, mean or covariance, start]
        assert np.all(off[:, 0, 0] < 1e-12), off
        assert abs(np.log2(off[0, 1, 0] / off[1, 1, 0]) - 2) < 0.15, off
        assert np.all(off[-1, :, 1] < [0.02, 0.05]), off


def chain(sde, times):
    """Mean and covariance of where the ancestral sampler ends, whose every step is affine."""
    mean, cov, one = np.zeros(4), sde.prior_std**2 * np.eye(4), np.eye(4)
    alpha, sigma = (np.asarray(f(times)) for f in (sde.alpha, sde.sigma))
    for a, s, a_end, s_end in zip(alpha[:-1], sigma[:-1], alpha[1:], sigma[1:], strict=True):
        gain = a * COV @ np.linalg.inv(a**2 * COV + s**2 * one)
        between = s**2 - (a / a_end * s_end) ** 2
        linear, weight = a / a_end * s_end**2 / s**2, a_end * between / s**2
        step = linear * one + weight * gain
        mean = step @ mean + weight * (MEAN - a * gain @ MEAN)
        cov = step @ cov @ step.T + s_end**2 * between / s**2 * one
    return mean, cov


def chain_given(sde, times, y, noise, data_std):
    """The same, given each y [n, 2] by the twist at the last time: means [n, 4] and covariance."""
    mean, cov = chain(sde, times)
    alpha, sigma = float(sde.alpha(times[-1])), float(sde.sigma(times[-1]))
    gain = alpha * COV @ np.linalg.inv(alpha**2 * COV + sigma**2 * np.eye(4))
    r2 = (sigma * data_std) ** 2 / ((alpha * data_std) ** 2 + sigma**2)
    seen = MATRIX @ gain
    error = noise**2 * np.eye(2) + r2 * MATRIX @ MATRIX.T
    gain_y = cov @ seen.T @ np.linalg.inv(seen @ cov @ seen.T + error)
    away = np.asarray(y) - MATRIX @ (MEAN + gain @ (mean - alpha * MEAN))
    return mean + away @ gain_y.T, cov - gain_y @ seen @ cov


def particles(sde, steps, groups, size, threshold):
    """`(y [groups, 2], noise)` -> the ends of a filter for each y with so many particles,
    [groups, size, 4], and the evaluations of a particle; in float32, since normal numbers are what
    takes time."""
    times = grids.log_snr(sde, steps)

    @jax.jit
    def run(y, noise):
        key_x, key_run = jax.random.split(jax.random.key(0))
        x = sde.prior_sample(key_x, (groups * size, 4), jnp.float32)
        seen = Observation(dense(MATRIX), y.astype(x.dtype), noise)
        solver = inverse.twisted(sde, seen, threshold).solver(
            solvers.heun(sde)
        )  # it brings its own
        out = sampling.sample(key_run, solver, denoiser(sde), x, times)
        return out.x.reshape(groups, size, 4), out.nfe

    def with_numpy(y, noise):
        return [np.asarray(a, np.float64) for a in run(y, np.float32(noise))]

    return with_numpy


def test_particles_tend_to_what_the_chain_is_given_y():
    """With few steps, after which the chain's moments, in closed form, are not yet the
    posterior's, and resampled at every step: errors of filters for several y, side by side, fall as
    1/sqrt(particles), here 4-fold, of which 2.5 is asked."""
    sde, steps = VP(t_min=1e-2), 30
    times = grids.log_snr(sde, steps)
    off = []  # [particles, noise, mean or covariance]
    for size in (128, 2048):
        run, rms = particles(sde, steps, 8, size, threshold=1.0), []
        for noise in (0.0, NOISE):
            y = measured(noise, n=8).y
            mean, cov = chain_given(sde, times, y, noise, 1.0)
            x, nfe = run(y, noise)
            assert nfe == steps + 1
            means = (x.mean(axis=1) - mean) / np.sqrt(np.diag(cov))
            covs = np.stack([np.cov(group.T) for group in x]) - cov
            rms.append(np.sqrt([np.mean(means**2), np.mean(covs**2) / np.mean(cov**2)]))
        off.append(rms)
    few, many = np.sqrt(np.mean(np.square(off), axis=1))
    assert np.all(few / many > 2.5), off
    assert np.all(many < [0.07, 0.14]), off


def test_particles_reach_the_posterior():
    """The chain's moments given y tend to the posterior's with the steps, by order 1. With many
    steps and particles, over 25 seeds, the errors were 1.3 +- .5 % of the prior's deviation for the
    mean and 3.9 +- 1.0 % for the covariance: four of their deviations are allowed."""
    sde, y = VP(t_min=1e-3), measured().y
    truth = posterior(y[0])
    off = [chain_given(sde, grids.log_snr(sde, n), y, NOISE, 1.0)[1] - truth[1] for n in (100, 400)]
    assert np.linalg.norm(off[0]) > 3 * np.linalg.norm(off[1])
    x, _ = particles(sde, 250, 1, 16384, threshold=0.5)(y, NOISE)
    mean, cov = errors(x[0], truth)
    assert mean < 0.033, mean
    assert cov < 0.079, cov


def test_dps_is_a_step_along_the_gradient_of_the_norm():
    """By reverse differentiation through everything, for an operator that is not linear; and the
    same in x/sqrt(alpha^2 + sigma^2) for another process."""
    operator = clip((4,), gain=0.7)
    y = jnp.asarray([[0.3, -0.2, 0.9, 0.1]])
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))
    lam, seen = jnp.asarray([-0.2, 0.4]), inverse.observed(operator, y, 0.1)

    def step(sde, change):
        t, s = sde.t_of_log_snr(2 * lam)
        start = x * jnp.hypot(sde.alpha(t), sde.sigma(t))
        solver = change(solvers.heun(sde))
        state = solver.init(start, jnp.stack([t, s]))
        end, _ = solver.step(Noise(jax.random.key(0)), denoiser(sde), start, t, s, state)
        return end / jnp.hypot(sde.alpha(s), sde.sigma(s))

    def norm(x):
        sde = VP()
        t, _ = sde.t_of_log_snr(2 * lam)
        return jnp.sum(jnp.linalg.norm(y - operator.apply(denoiser(sde)(x, t)), axis=1))

    @jax.jit
    def every():
        pulled = [step(sde, inverse.dps(sde, seen, step_size=0.8).solver) for sde in (VP(), EDM())]
        return *pulled, step(VP(), lambda solver: solver), jax.grad(norm)(x)

    found, other, plain, gradient = every()
    np.testing.assert_allclose(found, plain - 0.8 * gradient, rtol=1e-9)
    np.testing.assert_allclose(other, found, rtol=1e-9)


def one_step(sde, method, x_0, x, t, s):
    """The state after a step of a method's own solver, and the normal numbers it drew."""

    @jax.jit
    def run(x, x_0):
        noise, solver = Noise(jax.random.key(5)), method.solver(solvers.ddim(sde))
        state = solver.init(x, jnp.stack([t, s]))
        end, _ = solver.step(noise, lambda x, t: x_0, x, t, s, state)
        return end, noise(t, s, x.shape)

    return [np.asarray(a) for a in run(jnp.asarray(x), jnp.asarray(x_0))]


def test_ddnm_is_the_published_formula():
    """Wang et al. 2022 on the chain of DDPM: the estimate's range part is scaled by lambda, the
    noise there by gamma, and y's errors fit into the step's noise or are scaled until they do."""
    sde, i, noise = DDPM(num_steps=20, beta_max=10.0), 7, 0.4
    t, s = jnp.asarray([i, i - 1]) / 19
    bar = np.cumprod(1 - sde.betas)
    beta = sde.betas[i]
    a, sigma = (
        np.sqrt(bar[i - 1]) * beta / (1 - bar[i]),
        np.sqrt((1 - bar[i - 1]) / (1 - bar[i]) * beta),
    )
    matrix = np.array([[2.0, 0, 0, 0], [0, 0.4, 0, 0], [0, 0, 1e-2, 0]])  # the last unseen
    rng = np.random.default_rng(0)
    x, x_0, y = rng.normal(size=(3, 4)), rng.normal(size=(3, 4)), rng.normal(size=(3, 3))
    seen = Observation(dense(matrix), jnp.asarray(y), noise)
    end, z = one_step(sde, inverse.ddnm(sde, seen), x_0, x, t, s)
    values = np.diag(matrix)
    scale = np.where(sigma >= a * noise / values, 1, sigma * values / (a * noise))
    assert scale[0] == 1
    assert scale[2] < 1
    gamma = sigma**2 - (a * scale * noise / values) ** 2
    changed, std = x_0.copy(), np.full(4, sigma)
    changed[:, :3] = x_0[:, :3] - scale * (x_0[:, :3] - y / values)
    std[:3] = np.sqrt(np.maximum(gamma, 0))
    truth = a * changed + np.sqrt(1 - beta) * (1 - bar[i - 1]) / (1 - bar[i]) * x + std * z
    np.testing.assert_allclose(end, truth, rtol=1e-8, atol=1e-9)


def test_ddrm_is_the_published_formula():
    """Kawar et al. 2022, sec. 3.2, where alpha is 1: coefficients that are unseen, known
    better than the level, and worse."""
    sde, noise, eta, eta_b = EDM(), 0.3, 0.7, 0.9
    t, s = jnp.asarray(2.0), jnp.asarray(0.8)
    matrix = np.array([[2.0, 0, 0, 0], [0, 0.1, 0, 0]])
    rng = np.random.default_rng(0)
    x, x_0, y = rng.normal(size=(3, 4)), rng.normal(size=(3, 4)), rng.normal(size=(3, 2))
    method = inverse.ddrm(sde, Observation(dense(matrix), jnp.asarray(y), noise), eta, eta_b)
    end, z = one_step(sde, method, x_0, x, t, s)
    truth = x_0 + np.sqrt(1 - eta**2) * 0.8 * (x - x_0) / 2.0 + eta * 0.8 * z
    exact, rough = noise / 2.0, noise / 0.1
    truth[:, 0] = (1 - eta_b) * x_0[:, 0] + eta_b * y[:, 0] / 2.0
    truth[:, 0] += np.sqrt(0.8**2 - (eta_b * exact) ** 2) * z[:, 0]
    away = (y[:, 1] / 0.1 - x_0[:, 1]) / rough
    truth[:, 1] = x_0[:, 1] + np.sqrt(1 - eta**2) * 0.8 * away + eta * 0.8 * z[:, 1]
    np.testing.assert_allclose(end, truth, rtol=1e-8, atol=1e-9)


def test_replaced_coefficients_are_as_the_process_has_them():
    """Over y and the fresh noise, the known coefficients of x_t are those of
    `alpha x_0 + sigma z`, all else is untouched, and where y is noisier than the level all is."""
    sde, n, noise = VP(), 20_000, 0.5
    x_0, x = jnp.asarray([[1.0, -2.0, 0.5, 0.0]]), jnp.full((n, 4), 7.0)
    operator = dense(np.array([[0.0, 2.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]))
    seen = inverse.observe(jax.random.key(0), operator, jnp.tile(x_0, (n, 1)), noise)
    still = Solver(lambda x, times: (), lambda noise, denoiser, x, t, s, state: (x, state))
    solver = inverse.replacement(sde, seen).solver(still)
    t = sde.t_of_log_snr(-2 * jnp.log(jnp.asarray([0.8, 0.3])))  # sigma/alpha

    @jax.jit
    def states(x):
        return [solver.step(Noise(jax.random.key(1)), None, x, at, at, ())[0] for at in t]

    above, between = (np.asarray(a) for a in states(x))
    for found, at, known in ((above, t[0], [0, 1]), (between, t[1], [1])):
        alpha, sigma = float(sde.alpha(at)), float(sde.sigma(at))
        np.testing.assert_allclose(np.delete(found, known, axis=1), 7.0, rtol=1e-14)
        z = (found[:, known] - alpha * np.asarray(x_0)[:, known]) / sigma
        # four standard errors of a mean and of a covariance of normal numbers
        np.testing.assert_allclose(z.mean(axis=0), 0, atol=4 / np.sqrt(n))
        np.testing.assert_allclose(z.T @ z / n, np.eye(len(known)), atol=4 * np.sqrt(2 / n))


def test_the_noise_of_replaced_coefficients_is_not_the_solvers():
    sde, n = VP(), 20_000
    seen = Observation(dense(np.array([[1.0, 0.0]])), jnp.zeros((1, 1)), 0.0)
    draws = Solver(lambda x, times: (), lambda noise, _, x, t, s, state: (x, noise(t, s, x.shape)))
    solver, t = inverse.replacement(sde, seen).solver(draws), jnp.asarray(0.5)
    x, drawn = solver.step(Noise(jax.random.key(1)), None, jnp.zeros((n, 2)), t, t, ())
    product = np.mean(np.asarray(x[:, 0] / sde.sigma(t) * drawn[:, 0]))
    assert abs(product) < 4 / np.sqrt(n)  # four standard errors


def test_particles_are_resampled_only_if_few_count():
    """With threshold 0 weights are kept and particles do not meet; with 1 they are dealt anew."""
    sde, x = VP(), jax.random.normal(jax.random.key(0), (4, 4))
    t, s = (jnp.asarray(a) for a in (0.6, 0.5))
    before = jnp.asarray([[0.0, -1.0, -50.0, 1.0]])

    @functools.partial(jax.jit, static_argnums=0)
    def stepped(threshold, log_weights):
        solver = inverse.twisted(sde, measured(), threshold=threshold).solver(None)
        state = solver.init(x, jnp.linspace(1.0, 0.1, 6))._replace(log_weights=log_weights)
        return solver.step(Noise(jax.random.key(1)), denoiser(sde), x, t, s, state)

    x_0, even = stepped(0.0, jnp.zeros((1, 4)))
    x_1, uneven = stepped(0.0, before)
    np.testing.assert_array_equal(x_0, x_1)
    np.testing.assert_allclose(uneven.log_weights - even.log_weights, before, atol=1e-12)
    x_1, dealt = stepped(1.0, before)
    assert np.max(np.abs(x_1 - x_0)) > 0.1
    assert np.ptp(dealt.log_weights) < 40  # the particle of weight e^-50 is gone


def test_passes_carry_x_back_as_the_process_does():
    """Between two passes x_t is drawn given x_s, but only where x_t is noisier than y."""
    sde, n = VP(), 20_000
    seen = Observation(dense(np.array([[1.0, 0.0]])), jnp.zeros((1, 1)), 2.0)
    still = Solver(lambda x, times: (), lambda noise, denoiser, x, t, s, state: (x, state))
    solver = inverse.repaint(sde, seen, resamplings=2).solver(still)
    high, low, end = sde.t_of_log_snr(-2 * jnp.log(jnp.asarray([3.0, 1.9, 1.0])))  # sigma/alpha
    x = jnp.full((n, 2), 7.0)

    @jax.jit
    def unknown(t):
        state = solver.init(x, jnp.stack([t, end]))
        return solver.step(Noise(jax.random.key(1)), lambda x, t: x, x, t, end, state)[0][:, 1]

    np.testing.assert_array_equal(unknown(low), 7.0)
    ratio = float(sde.alpha(high) / sde.alpha(end))
    variance = float(sde.sigma(high)) ** 2 - (ratio * float(sde.sigma(end))) ** 2
    z = (np.asarray(unknown(high)) - ratio * 7) / np.sqrt(variance)
    # four standard errors of a mean and of a variance of normal numbers
    assert abs(z.mean()) < 4 / np.sqrt(n)
    assert abs(np.mean(z**2) - 1) < 4 * np.sqrt(2 / n)


def test_passes_bring_repaint_nearer():
    """The bias of replacement, which no number of steps removes, falls with RePaint's passes, in
    each of which a solver with a history starts anew."""
    sde, seen = VP(t_min=1e-3), measured(0.0)
    truth = posterior(seen.y[0], 0.0)
    x = sde.prior_sample(jax.random.key(0), (1024, 4))

    @jax.jit
    def run(x):
        times = grids.log_snr(sde, 40)
        return [
            sampling.sample(
                jax.random.key(1),
                build("inverse", spec, sde, seen).solver(solvers.dpmpp_sde(sde)),
                denoiser(sde),
                x,
                times,
            )
            for spec in ("replacement", "repaint(resamplings=6, jump_steps=2)")
        ]

    plain, passes = run(x)
    assert [int(plain.nfe), int(passes.nfe)] == [40, 40 * 6 * 2]
    off, left = (errors(out.x, truth)[0] for out in (plain, passes))
    assert left < off / 3, (off, left)


def test_methods_without_noise():
    """Finite, for a solver with a history, in float32, and the known pixels exact at the end, to
    the last bit. Above, the others are."""
    sde, shape, names = EDM(), (2, 2, 1), ["dps", "pigdm", "ddnm", "ddrm"]
    operator = mask(shape, np.array([[True, False], [False, True]]))
    seen = inverse.observed(operator, np.array([[0.4, 1.2]], np.float32), 0.0)
    x = sde.prior_sample(jax.random.key(1), (6, *shape), jnp.float32)

    @jax.jit
    def every(x):
        ends = []
        for name in names:
            method = build("inverse", name, sde, seen)
            solver = method.solver(solvers.dpmpp(sde))
            changed = method.denoiser(denoiser(sde))
            times = grids.log_snr(sde, 8)
            end = sampling.sample(jax.random.key(2), solver, changed, x, times, denoise=True).x
            ends.append((end, inverse.consistent(seen, end)))
        return ends

    for name, (end, fixed) in zip(names, every(x), strict=True):
        assert end.dtype == jnp.float32, name
        assert bool(jnp.all(jnp.isfinite(end))), name
        known = seen.operator.apply(fixed)
        np.testing.assert_array_equal(known, np.tile(seen.y, (6, 1)), err_msg=name)
        assert np.all(np.asarray(fixed == end)[:, [0, 1], [1, 0]]), name


def test_conjugate_gradients_solve_each_example_by_itself():
    """As many steps as dimensions; one right side is 0, and one matrix indefinite."""
    matrices = np.stack([covariance(5, seed) * 10.0**seed for seed in range(3)] + [-np.eye(5)])
    b = np.random.default_rng(0).normal(size=(4, 5))
    b[1] = 0
    found = jax.jit(
        lambda b: conjugate_gradients(
            lambda v: jnp.einsum("bij,bj->bi", jnp.asarray(matrices), v), b, 8
        )
    )(jnp.asarray(b))
    truth = np.linalg.solve(matrices[:3], b[:3, :, None])[..., 0]
    np.testing.assert_allclose(found[:3], truth, rtol=1e-8, atol=1e-12)
    np.testing.assert_array_equal(found[3], 0)


def test_mistakes_are_told_in_one_line():
    sde, seen = VP(), measured(n=2)
    assert set(METHODS) == set(inverse.__all__)
    bent = inverse.observed(clip((4,)), np.zeros((1, 4)), 0.1)
    for name in METHODS:
        if name != "dps":
            with pytest.raises(ConfigError, match=rf"{name} is for linear operators: take dps"):
                build("inverse", name, sde, bent)
    for spec, message in {
        "mmps(iterations=0)": "at least 1 iteration, not 0",
        "repaint(resamplings=0)": "at least 1, not 0, 1",
        "twisted(threshold=2.0)": "from 0 to 1, not 2.0",
        "ddrm(eta=1.5)": "eta must be from 0 to 1, not 1.5",
        "ddnm(eta=-1.0)": "eta must be from 0 to 1, not -1.0",
        "dps(scale=1.0)": "no field 'scale'",
        "ddrn": "did you mean 'ddrm'",
    }.items():
        with pytest.raises(ConfigError, match=message):
            build("inverse", spec, sde, seen)
    with pytest.raises(ValueError, match="7 particles for 2 observations: take a multiple of 2"):
        inverse.twisted(sde, seen).solver(None).init(jnp.zeros((7, 4)), jnp.ones(3))
    with pytest.raises(ValueError, match="noise must be positive, not 0"):
        Mixture(*(jnp.ones(s) for s in ((1,), (1, 2), (1, 2, 2)))).posterior(
            jnp.ones((1, 2)), jnp.ones(1), 0.0
        )
