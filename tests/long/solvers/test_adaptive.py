"""Solvers that choose their steps, against closed forms and the published algorithms by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling, solvers
from score_sde.processes import EDM, VE, VP, Cosine, Flow, SubVP
from score_sde.sampling import grids
from score_sde.solvers.exponential import Interpolation, noise_level
from score_sde.solvers.runge_kutta import PAIRS, coefficients, results
from score_sde.types import Noise, brownian, keys_of

MEAN, VAR = np.array([1.0, -0.5]), np.array([0.8, 0.1])
CENTRES, WIDTH = np.array([[1.5, 0.0], [-1.0, 1.0], [0.0, -1.5]]), 0.3
NAME = {"ids": lambda value: type(value).__name__}


def batched(one):
    return lambda x, t: jax.vmap(one)(x, jnp.broadcast_to(t, x.shape[:1]))


def gaussian(sde):
    """The denoiser of N(MEAN, diag VAR)."""

    def one(x, t):
        mean, var = (jnp.asarray(a, x.dtype) for a in (MEAN, VAR))
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        return mean + alpha * var / (alpha**2 * var + sigma**2) * (x - alpha * mean)

    return batched(one)


def mixture(sde):
    """The denoiser of three equal N(CENTRE, WIDTH^2)."""

    def one(x, t):
        centres = jnp.asarray(CENTRES, x.dtype)
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        total = (alpha * WIDTH) ** 2 + sigma**2
        weights = jax.nn.softmax(-jnp.sum((x[None] - alpha * centres) ** 2, axis=1) / (2 * total))
        mean = weights @ centres
        return mean + alpha * WIDTH**2 / total * (x - alpha * mean)

    return batched(one)


def moments(sde, t):
    alpha, sigma = (np.asarray(f(jnp.asarray(t, float))) for f in (sde.alpha, sde.sigma))
    return alpha * MEAN, np.sqrt(alpha**2 * VAR + sigma**2)


def flow(sde, x, t, s):
    """The probability flow of N(MEAN, diag VAR) from t to s."""
    (m0, std0), (m1, std1) = moments(sde, t), moments(sde, s)
    return m1 + (np.asarray(x) - m0) * std1 / std0


def sampler(solver, sde, denoiser, times=None, seed=0, **options):
    times = grids.uniform(sde, 1) if times is None else times
    key = jax.random.key(seed)
    return jax.jit(lambda x: sampling.sample(key, solver, denoiser, x, times, **options))


def run(solver, sde, denoiser, x, *args, **options):
    return sampler(solver, sde, denoiser, *args, **options)(x)


def rounding(nfe, dtype, size=10.0):
    """What rounding may change in a sample that is computed in two ways, after nfe evaluations.
    Each rounds x, of this size at most, and its velocity a few times, and the flow to data does not
    spread what was there before."""
    return 8 * int(nfe) * float(np.finfo(dtype).eps) * size


def rms(a):
    return float(np.sqrt(np.mean(np.asarray(a) ** 2)))


# DPM-Solver-12 and -23


@pytest.mark.parametrize("sde", [VP(), EDM(), SubVP(), VE(), Cosine(), Flow()], **NAME)
def test_the_error_is_proportional_to_the_tolerance(x64, sde):
    """The flow of a Gaussian is linear. With steps in ln(alpha/sigma), in which it is smooth, a
    hundredth of the tolerance is a hundredth of the error, within a half for the chance by which
    the first and last steps fall."""
    x = sde.prior_sample(jax.random.key(1), (8, 2))
    truth = flow(sde, x, sde.t_max, sde.t_min)

    @jax.jit
    def both(rtol):
        return [
            sampling.sample(
                jax.random.key(0),
                solvers.dpm_adaptive(sde, order, rtol, 0.3 * rtol),
                gaussian(sde),
                x,
                grids.uniform(sde, 1),
            )[:2]
            for order in (2, 3)
        ]

    loose, tight = both(1e-3), both(1e-5)
    for order, (x_loose, nfe_loose), (x_tight, nfe_tight) in zip((2, 3), loose, tight, strict=True):
        errors = rms(x_loose - truth), rms(x_tight - truth)
        assert errors[1] < 3e-5
        assert 50 < errors[0] / errors[1] < 200, (order, errors)
        # h goes as the tolerance to the power 1/order, once it is small
        assert np.mean(nfe_tight) < 100 ** (1 / order) * np.mean(nfe_loose)


def published(order, x, sde, t, s, eps):
    """DPM-Solver-k and, from its evaluations, DPM-Solver-(k-1) (Lu et al. 2022, alg. 1 and 2, eq.
    4.1; arXiv:2206.00927): in the words of the paper, one sample, with noise prediction."""

    def at(t):
        return (float(f(jnp.asarray(t, float))) for f in (sde.alpha, sde.sigma))

    (alpha, sigma), (alpha_s, sigma_s) = at(t), at(s)
    lam = np.log(alpha / sigma)
    h = np.log(alpha_s / sigma_s) - lam
    e0 = eps(x, t)
    first = alpha_s / alpha * x - sigma_s * np.expm1(h) * e0
    r1, r2 = (0.5, None) if order == 2 else (1 / 3, 2 / 3)
    t1 = float(sde.t_of_log_snr(jnp.asarray(2 * (lam + r1 * h))))
    alpha_1, sigma_1 = at(t1)
    e1 = eps(alpha_1 / alpha * x - sigma_1 * np.expm1(r1 * h) * e0, t1)
    second = first - sigma_s / (2 * r1) * np.expm1(h) * (e1 - e0)
    if order == 2:
        return first, second
    t2 = float(sde.t_of_log_snr(jnp.asarray(2 * (lam + r2 * h))))
    alpha_2, sigma_2 = at(t2)
    u2 = alpha_2 / alpha * x - sigma_2 * np.expm1(r2 * h) * e0
    u2 = u2 - sigma_2 * r2 / r1 * (np.expm1(r2 * h) / (r2 * h) - 1) * (e1 - e0)
    third = first - sigma_s / r2 * (np.expm1(h) / h - 1) * (eps(u2, t2) - e0)
    return second, third


@pytest.mark.parametrize("order", [2, 3])
def test_dpm_adaptive_is_the_published_algorithm(x64, order):
    """Appendix C.4 of Lu et al. 2022, with the steps, rejections and evaluations of each sample."""
    sde, rtol, atol = VP(t_min=1e-3), 0.05, 0.0078
    denoiser = jax.jit(mixture(sde))

    def eps(x, t):
        x, t = jnp.asarray(x)[None], jnp.asarray([t])
        return np.asarray(sde.eps(x, t, denoiser(x, t)))[0]

    def lam_of(t):
        return float(sde.log_snr(jnp.asarray(t, float))) / 2

    start = sde.prior_sample(jax.random.key(0), (2, 2))
    ours = run(solvers.dpm_adaptive(sde, order, rtol, atol), sde, denoiser, start)
    for i in range(2):
        x, lam, end = np.asarray(start[i]), lam_of(sde.t_max), lam_of(sde.t_min)
        previous, h, nfe, rejected = x, 0.05, 0, 0
        while end - lam > 1e-9:
            h = min(h, end - lam)
            t, s = (float(sde.t_of_log_snr(jnp.asarray(2 * a))) for a in (lam, lam + h))
            low, high = published(order, x, sde, t, s, eps)
            delta = np.maximum(atol, rtol * np.maximum(abs(low), abs(previous)))
            error = rms((low - high) / delta)
            nfe += order
            if error <= 1:
                x, lam, previous = high, lam + h, low
            else:
                rejected += 1
            h = h * np.clip(0.9 * error ** (-1 / order), 0.2, 10)
        assert rejected
        assert int(ours.nfe[i]) == nfe
        np.testing.assert_allclose(ours.x[i], x, rtol=1e-8, atol=1e-9)


def test_local_errors_of_the_pair(x64):
    """Of one step of length h from the same place: h^(k+1), and h^k of the embedded result."""
    sde, t = VP(), jnp.asarray(0.4)
    denoiser, start = mixture(sde), noise_level(sde, t)
    x = jax.random.normal(jax.random.key(0), (16, 2))
    tight = solvers.probability_flow(sde, rtol=1e-12, atol=1e-12)

    @jax.jit
    def errors(h):
        s = sde.t_of_log_snr(2 * (start.lam + h))
        truth = sampling.sample(jax.random.key(0), tight, denoiser, x, jnp.stack([t, s])).x
        ends = []
        for prediction in ("eps", "x0", "v"):
            for pair in PAIRS.values():
                method = Interpolation(prediction)
                rows = coefficients(sde, pair, method, start, noise_level(sde, s))
                ends += results(pair, rows, prediction, denoiser, x, start)
        return jnp.stack([jnp.sqrt(jnp.mean((end - truth) ** 2)) for end in ends])

    slopes = np.log2(np.asarray(errors(0.04)) / np.asarray(errors(0.02)))
    np.testing.assert_allclose(slopes, 3 * [3, 2, 4, 3], atol=0.15)


def test_fewer_evaluations_than_an_even_grid(x64):
    """A mixture wants small steps where a sample turns to one of the modes, and there alone: for
    the error of 160 steps of DPM-Solver++ 2M, two thirds of the evaluations."""
    sde = VP(t_min=1e-3)
    x = sde.prior_sample(jax.random.key(1), (32, 2))

    @jax.jit
    def adaptive(rtol):
        solver = solvers.dpm_adaptive(sde, rtol=rtol, atol=0.1 * rtol)
        times = grids.uniform(sde, 1)
        return sampling.sample(jax.random.key(0), solver, mixture(sde), x, times)[:2]

    (truth, _), (ours, nfe) = adaptive(1e-8), adaptive(1e-3)
    even = run(solvers.dpmpp(sde), sde, mixture(sde), x, grids.log_snr(sde, 160)).x
    assert rms(ours - truth) < rms(even - truth)
    assert np.mean(nfe) < 107


# Gotta go fast


def test_brownian_is_one_brownian_path(x64):
    """cov(W(r), W(r')) = min(r, r') of 10k paths within four standard errors, neighbours too."""
    r = jnp.array([2.0**-13, 0.1, 0.1 + 2.0**-12, 0.77, 1.0])
    n = 10_000
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(0), jnp.arange(n))
    paths = jax.vmap(lambda key: jax.vmap(lambda r: brownian(key, r, ()))(r))
    w = np.asarray(jax.jit(paths)(keys))
    assert np.all(np.asarray(brownian(keys[0], jnp.asarray(0.0), (3,))) == 0)
    increments = np.diff(w, axis=1, prepend=0) / np.sqrt(np.diff(np.asarray(r), prepend=0))
    np.testing.assert_allclose(increments.mean(0), 0, atol=4 / np.sqrt(n))
    covariance = increments.T @ increments / n
    np.testing.assert_allclose(covariance, np.eye(5), atol=4 * np.sqrt(2 / n))


def keys_of_paths(sde, seed, n):
    """Those of the Brownian paths of n samples from t_max to t_min."""
    t_max, t_min = grids.uniform(sde, 1)
    return keys_of(Noise(jax.random.key(seed)).at(t_max, t_min).key, n)


@pytest.mark.parametrize("sde", [VP(t_min=0.05), VE(t_min=0.3)], **NAME)
def test_gotta_go_fast_is_the_published_algorithm(x64, sde):
    """Algorithm 1 of Jolicoeur-Martineau et al. 2021, on the increments of one Brownian path."""
    rtol, atol, seed = 0.2, 0.04, 3
    denoiser = jax.jit(mixture(sde))
    start = sde.prior_sample(jax.random.key(0), (2, 2))
    ours = run(solvers.gotta_go_fast(sde, rtol, atol), sde, denoiser, start, seed=seed)
    length = sde.t_max - sde.t_min
    unit = jax.jit(functools.partial(brownian, shape=(2,)))

    def reverse(x, t):
        alpha, sigma = (float(f(jnp.asarray(t))) for f in (sde.alpha, sde.sigma))
        if type(sde) is VP:  # equations 32 and 33, or 30 and 31, of Song et al. 2021
            f, g2 = -(0.1 + 19.9 * t) / 2, 0.1 + 19.9 * t
        else:
            f, g2 = 0.0, 2 * np.log(5000) * sigma**2
        x_0 = np.asarray(denoiser(jnp.asarray(x)[None], jnp.asarray([t])))[0]
        return f * x - g2 * (alpha * x_0 - x) / sigma**2, np.sqrt(g2)

    for i in range(2):
        key = keys_of_paths(sde, seed, 2)[i]

        def w(t, key=key):
            return np.sqrt(length) * np.asarray(unit(key, jnp.asarray((t - sde.t_min) / length)))

        x, t, h, nfe, rejected = np.asarray(start[i]), sde.t_max, 0.01 * length, 0, 0
        previous = x
        while t > sde.t_min:
            h = min(h, t - sde.t_min)
            s = sde.t_min if h == t - sde.t_min else t - h
            noise = w(t) - w(s)
            drift, g = reverse(x, t)
            low = x - h * drift + g * noise
            drift, g = reverse(low, s)
            high = (low + x - h * drift + g * noise) / 2
            delta = np.maximum(atol, rtol * np.maximum(abs(low), abs(previous)))
            error = rms((low - high) / delta)
            nfe += 2
            if error <= 1:
                x, t, previous = high, s, low
            else:
                rejected += 1
            h = h * np.clip(0.9 * error**-0.9, 0.2, 10)
        assert rejected
        assert int(ours.nfe[i]) == nfe
        np.testing.assert_allclose(ours.x[i], x, rtol=1e-8)


@pytest.mark.parametrize("sde", [VP(t_min=1e-3), VE(sigma_min=0.05, sigma_max=10.0)], **NAME)
def test_moments_by_gotta_go_fast(sde):
    """Mean and variance of a Gaussian within four standard errors, and the 2 % of a standard
    deviation and 3 % of a variance that these tolerances leave. Noise drawn anew after a rejection
    gives 1.6 times the variance and more."""
    n = 1000
    m0, std0 = moments(sde, sde.t_max)
    x = (m0 + std0 * np.random.default_rng(0).standard_normal((n, 2))).astype(np.float32)
    out = run(solvers.gotta_go_fast(sde), sde, gaussian(sde), jnp.asarray(x))
    m1, std1 = moments(sde, sde.t_min)
    z = (np.asarray(out.x) - m1) / std1
    np.testing.assert_allclose(z.mean(0), 0, atol=4 / np.sqrt(n) + 0.02)
    np.testing.assert_allclose((z**2).mean(0), 1, atol=4 * np.sqrt(2 / n) + 0.03)
    # where Euler and Maruyama are given a thousand steps
    assert np.max(out.nfe) < 600


def test_gotta_go_fast_converges_along_a_path(x64):
    """To the solution of Euler and Maruyama in small steps along the same Brownian path.

    The two results of a step differ by the change of g over it, times the noise: h^(3/2). So h
    goes as tol^(2/3), and the error with it: an eighth of the tolerance is a fourth of the error,
    here within a third for the chance of 64 values."""
    sde, n, steps = VP(t_min=0.05), 32, 4096
    denoiser = gaussian(sde)
    x = sde.prior_sample(jax.random.key(0), (n, 2))
    keys = keys_of_paths(sde, 0, n)
    h = (sde.t_max - sde.t_min) / steps

    @jax.jit
    def truth(x):
        left = jnp.linspace(1, 0, steps + 1)
        w = jax.vmap(lambda r: jax.vmap(lambda key: brownian(key, r, (2,)))(keys))(left)
        noise = np.sqrt(sde.t_max - sde.t_min) * (w[:-1] - w[1:])

        def step(x, inputs):
            t, dw = inputs
            beta = 0.1 + 19.9 * t
            drift = -beta / 2 * x - beta * sde.score(x, t, denoiser(x, t))
            return x - h * drift + jnp.sqrt(beta) * dw, None

        times = jnp.linspace(sde.t_max, sde.t_min, steps + 1)
        return jax.lax.scan(step, x, (times[:-1], noise))[0]

    @jax.jit
    def ours(rtol):
        solver = solvers.gotta_go_fast(sde, rtol, 0.15 * rtol)
        times = grids.uniform(sde, 1)
        return sampling.sample(jax.random.key(0), solver, denoiser, x, times).x

    loose, tight = (rms(ours(rtol) - truth(x)) for rtol in (0.2, 0.025))
    assert tight < 0.02
    assert 4 / 1.33 < loose / tight < 4 * 1.33


# Both


ADAPTIVE = {
    "probability_flow": functools.partial(solvers.probability_flow, rtol=1e-3, atol=1e-3),
    "dpm_adaptive": functools.partial(solvers.dpm_adaptive, prediction="x0"),
    "gotta_go_fast": solvers.gotta_go_fast,
}


@pytest.mark.parametrize("name", ADAPTIVE)
def test_a_grid_costs_what_one_interval_costs(name):
    """An adaptive solver chooses its own steps: 1,000 intervals change no digit and cost no
    evaluation more than one. Each of them alone would cost a step at least."""
    sde = VP(t_min=1e-3)
    x = sde.prior_sample(jax.random.key(0), (4, 2))
    few, many = (
        run(ADAPTIVE[name](sde), sde, mixture(sde), x, grids.uniform(sde, n)) for n in (1, 1000)
    )
    np.testing.assert_array_equal(few.x, many.x)
    np.testing.assert_array_equal(few.nfe, many.nfe)


@pytest.mark.parametrize("name", ["dpm_adaptive", "gotta_go_fast"])
def test_evaluations_and_times(name):
    """What is reported is what the denoiser saw, on a trajectory too, and the times of the grid are
    met to the last digit."""
    sde = VP(t_min=1e-3)
    denoiser, seen = mixture(sde), []

    def spying(x, t):
        jax.debug.callback(lambda t: seen.append(float(t[0])), jnp.broadcast_to(t, (1,)))
        return denoiser(x, t)

    x = sde.prior_sample(jax.random.key(0), (1, 2))
    times = grids.uniform(sde, 3)
    out = run(ADAPTIVE[name](sde), sde, spying, x, times, denoise=True, trajectory=True)
    jax.effects_barrier()
    assert int(out.nfe[0]) == len(seen)
    assert set(np.asarray(times).tolist()) <= set(seen)
    assert min(seen) == times[-1]
    assert max(seen) == times[0]


def test_a_trajectory_is_that_of_the_flow(x64):
    sde = EDM()
    x = sde.prior_sample(jax.random.key(0), (4, 2))
    times = grids.karras(sde, 6)
    solver = solvers.dpm_adaptive(sde, rtol=1e-5, atol=1e-6)
    out = run(solver, sde, gaussian(sde), x, times, trajectory=True)
    for state, t in zip(out.trajectory, np.asarray(times), strict=True):
        np.testing.assert_allclose(state, flow(sde, x, sde.t_max, t), atol=3e-5, rtol=3e-5)
    # the steps go on with the size that they had
    whole = run(solver, sde, gaussian(sde), x)
    assert np.mean(out.nfe) < np.mean(whole.nfe) + 6 * 3 * 2


@pytest.mark.parametrize("name", ADAPTIVE)
def test_samples_do_not_know_of_each_other(x64, name):
    """Companions may change, and one may be lost: a sample stays the same up to rounding. XLA may
    round a row otherwise when other rows change. Each sample keeps its own condition."""
    sde = VP(t_min=1e-3)
    offsets = jnp.array([0.0, 5.0, -5.0, 1.0])

    def denoiser(x, t):  # of N(MEAN + offset, diag VAR)
        shift = offsets[:, None] * sde.alpha(jnp.broadcast_to(t, x.shape[:1]))[:, None]
        return gaussian(sde)(x - shift, t) + offsets[:, None]

    x = sde.prior_sample(jax.random.key(0), (4, 2))
    draw = sampler(ADAPTIVE[name](sde), sde, denoiser)
    one, other = draw(x), draw(x.at[1].multiply(30).at[2].set(jnp.nan))
    for i in (0, 3):
        assert int(one.nfe[i]) == int(other.nfe[i])
        off = rounding(one.nfe[i], float)
        np.testing.assert_allclose(one.x[i], other.x[i], rtol=0, atol=off)
    assert not np.array_equal(one.x[1], other.x[1])
    assert np.all(np.isnan(other.x[2]))
    away = (np.asarray(one.x) - MEAN - np.asarray(offsets)[:, None]) / np.sqrt(VAR)
    assert np.all(np.abs(away) < 4)


def test_a_sample_that_takes_too_long_is_nan(x64):
    """Also, one that is not finite is given up long before that."""
    sde = VP(t_min=1e-3)
    x = sde.prior_sample(jax.random.key(0), (5, 2)).at[0].set(jnp.inf)
    usual = run(solvers.dpm_adaptive(sde), sde, mixture(sde), x)
    attempts = np.asarray(usual.nfe) // 3
    enough = int(np.median(attempts[1:]))
    out = run(solvers.dpm_adaptive(sde, max_steps=enough), sde, mixture(sde), x)
    late = attempts > enough
    assert 0 < late[1:].sum() < 4
    np.testing.assert_array_equal(np.isnan(out.x[1:]).all(axis=1), late[1:])
    off = rounding(3 * enough, np.float32)  # the bound on the steps makes it another program
    np.testing.assert_allclose(out.x[1:][~late[1:]], usual.x[1:][~late[1:]], rtol=0, atol=off)
    assert np.all(np.isnan(usual.x[0]))
    assert attempts[0] < 40


@pytest.mark.parametrize("sde", [SubVP(), VE(), EDM(), Cosine(), Flow()], **NAME)
def test_float32(sde):
    """To the default t_min: the flow to five tolerances, the SDE to where the data is."""
    x = sde.prior_sample(jax.random.key(0), (64, 2))
    solver = solvers.dpm_adaptive(sde, rtol=1e-3, atol=3e-4, prediction="x0")
    ode = run(solver, sde, gaussian(sde), x)
    stochastic = run(solvers.gotta_go_fast(sde), sde, gaussian(sde), x)
    assert ode.x.dtype == stochastic.x.dtype == jnp.float32
    assert rms(ode.x - flow(sde, x, sde.t_max, sde.t_min)) < 5e-3
    z = (np.asarray(stochastic.x) - MEAN) / np.sqrt(VAR)
    # 128 squares of N(0, 1) have a mean of 1 and a standard error of 1/8
    assert abs(np.mean(z**2) - 1) < 4 / 8


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="order is 4: one of 2, 3"):
        solvers.dpm_adaptive(VP(), order=4)
    with pytest.raises(ValueError, match="unknown prediction 'noise': one of x0, eps, v"):
        solvers.dpm_adaptive(VP(), prediction="noise")
