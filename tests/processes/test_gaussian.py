"""Processes against the formulas of their papers, written out by hand in NumPy float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.processes import DDPM, EDM, SMLD, VE, VP, Cosine, Flow, SubVP, coefficients

ALL = [VP(), SubVP(), VE(), Cosine(), EDM(), Flow(), DDPM(), SMLD()]
PRESERVING = [
    VP(),
    Cosine(),
    DDPM(),
    DDPM(schedule="cosine", t_max=0.99),
    DDPM(num_steps=50),
    DDPM(zero_terminal_snr=True, t_max=0.9999),  # into the last interval
    DDPM(zero_terminal_snr=True, num_steps=5, beta_max=3.0, t_max=0.9999),
]


def name(sde):
    return f"{type(sde).__name__}-{getattr(sde, 'schedule', '')}"


def times(sde, n=200):
    return np.linspace(sde.t_min, sde.t_max, n + 2)[1:-1]


def beta(t, low=0.1, high=20.0):
    return low + t * (high - low)


def vp_alpha(t):
    return np.exp(-(t**2) * 19.9 / 4 - t * 0.05)


FORMULAS = {  # alpha, sigma, f, g^2 as the papers print them
    VP(): (
        vp_alpha,
        lambda t: np.sqrt(1 - vp_alpha(t) ** 2),
        lambda t: -beta(t) / 2,
        beta,
    ),
    SubVP(): (
        vp_alpha,
        lambda t: 1 - vp_alpha(t) ** 2,
        lambda t: -beta(t) / 2,
        lambda t: beta(t) * (1 - np.exp(-2 * (0.1 * t + 19.9 * t**2 / 2))),
    ),
    VE(): (
        np.ones_like,
        lambda t: 0.01 * 5000**t,
        np.zeros_like,
        lambda t: (0.01 * 5000**t) ** 2 * 2 * np.log(5000),
    ),
    EDM(): (np.ones_like, lambda t: t, np.zeros_like, lambda t: 2 * t),
    Flow(): (lambda t: 1 - t, lambda t: t, lambda t: -1 / (1 - t), lambda t: 2 * t / (1 - t)),
    Cosine(): (
        lambda t: np.cos((t + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2),
        lambda t: np.sqrt(
            1
            - np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
        ),
        lambda t: -np.pi / 2 / 1.008 * np.tan((t + 0.008) / 1.008 * np.pi / 2),
        lambda t: np.pi / 1.008 * np.tan((t + 0.008) / 1.008 * np.pi / 2),
    ),
}


@functools.partial(jax.jit, static_argnums=0)
def all_of(sde, t):
    """alpha, sigma, f and g^2."""
    return sde.alpha(t), sde.sigma(t), *coefficients(sde, t)


@pytest.mark.parametrize("sde", FORMULAS, ids=name)
def test_formulas_of_the_papers(x64, sde):
    t = times(sde)
    for value, formula in zip(all_of(sde, jnp.asarray(t)), FORMULAS[sde], strict=True):
        np.testing.assert_allclose(value, formula(t), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("sde", [*ALL, DDPM(zero_terminal_snr=True, t_max=0.9999)], ids=name)
def test_float32_keeps_its_digits_from_t_min_on(sde):
    # The original's `1 - exp` is off by several per cent at t = 1e-5 in float32.
    t = np.geomspace(max(sde.t_min, 1e-5), sde.t_max, 300)
    with jax.enable_x64(True):
        t = jnp.asarray(t).astype(jnp.float32)  # the same times for both
        exact = jax.device_get(all_of(sde, t.astype(jnp.float64)))
    for value, truth in zip(all_of(sde, t), exact, strict=True):
        assert value.dtype == jnp.float32
        # alpha and the rates of a process that is about to forget its data are ill-conditioned
        # in t itself: t rounded to float32 moves them by up to t f'/f ~ 20 roundings.
        np.testing.assert_allclose(value, truth, rtol=1e-4 if "DDPM" in name(sde) else 2e-5)


@pytest.mark.parametrize("sde", [*ALL, *PRESERVING], ids=name)
def test_log_snr_and_its_inverse(x64, sde):
    t = times(sde)

    @jax.jit
    def there_and_back(t):
        log_snr = sde.log_snr(t)
        return log_snr, sde.alpha(t), sde.sigma(t), sde.t_of_log_snr(log_snr)

    log_snr, alpha, sigma, again = jax.device_get(there_and_back(jnp.asarray(t)))
    assert np.all(np.diff(log_snr) < 0)
    np.testing.assert_allclose(log_snr, 2 * np.log(alpha / sigma), rtol=1e-12)
    np.testing.assert_allclose(again, t, rtol=1e-9, atol=1e-12)
    ends = sde.log_snr(jnp.asarray([sde.t_min, sde.t_max]))
    assert np.all(np.isfinite(ends))


@pytest.mark.parametrize("sde", PRESERVING, ids=name)
def test_variance_is_preserved(x64, sde):
    t = jnp.asarray(times(sde))
    np.testing.assert_allclose(sde.alpha(t) ** 2 + sde.sigma(t) ** 2, np.ones(len(t)), rtol=1e-14)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
def test_ddpm_stands_on_its_chain(x64, schedule):
    n = 200
    if schedule == "linear":
        betas = np.linspace(0.1 / n, 20 / n, n)
    elif schedule == "scaled_linear":
        betas = np.linspace(np.sqrt(0.1 / n), np.sqrt(20 / n), n) ** 2
    else:
        bar = np.cos((np.linspace(0, 1, n + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.array([min(1 - bar[i + 1] / bar[i], 0.999) for i in range(n)])
    alpha_bar = np.cumprod(1 - betas)
    sde = DDPM(num_steps=n, schedule=schedule)
    t = jnp.arange(n) / (n - 1)
    np.testing.assert_allclose(sde.alpha(t) ** 2, alpha_bar, rtol=1e-10)
    np.testing.assert_allclose(sde.sigma(t), np.sqrt(1 - alpha_bar), rtol=1e-10)


def zero_terminal_alphas(n, schedule):
    """Lin et al. 2023 (arXiv:2305.08891), algorithm 1, on the alphas of the chain."""
    alphas = np.cumprod(1 - DDPM(num_steps=n, schedule=schedule).betas) ** 0.5
    return (alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1])


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
def test_zero_terminal_snr_is_the_published_rescaling(x64, schedule):
    n = 200
    alphas = zero_terminal_alphas(n, schedule)
    sde = DDPM(num_steps=n, schedule=schedule, zero_terminal_snr=True)
    t = jnp.arange(n) / (n - 1)
    np.testing.assert_allclose(sde.alpha(t), alphas, rtol=1e-10)
    np.testing.assert_allclose(sde.sigma(t), np.sqrt(1 - alphas**2), rtol=1e-10)
    assert sde.alpha(t)[-1] == 0
    assert sde.sigma(t)[-1] == 1
    # the published result is a list of beta, the last of them 1
    np.testing.assert_allclose(np.cumprod(1 - sde.betas), alphas**2, rtol=1e-10)
    assert sde.betas[-1] == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zero_terminal_snr_at_and_near_its_end(dtype):
    n = 1000
    sde = DDPM(zero_terminal_snr=True)
    last = zero_terminal_alphas(n, "linear")[-2]
    with jax.enable_x64(dtype is np.float64):
        # alpha is linear in the last interval, [998/999, 1]
        w = np.array([0.0, 1e-3, 0.25, 0.5, 0.99])
        t = jnp.asarray(1 - w / (n - 1), dtype)
        rounding = np.finfo(dtype).eps
        # 1 - t, which is w/999, is known to half a rounding of 1
        atol = 2 * rounding * last * (n - 1)
        x_0, x = (jnp.asarray([a], dtype) for a in (0.7, -1.3))
        gradient = jax.grad(lambda t: sde.alpha(t) + sde.sigma(t))

        @jax.jit
        def run(t, end, middle):
            log_snr = sde.log_snr(t)
            there = sde.alpha(t), log_snr, sde.t_of_log_snr(log_snr), sde.t_of_log_snr(end)
            return there, sde.velocity(x, t[0], x_0), gradient(t[0]), gradient(middle)

        there, velocity, at_end, inside = run(t, *(jnp.asarray(a, dtype) for a in (-np.inf, 0.5)))
        alpha, log_snr, again, end = there
        np.testing.assert_allclose(alpha, w * last, rtol=1e-5, atol=atol)
        np.testing.assert_allclose(again, t, rtol=2 * rounding)
        assert log_snr[0] == -np.inf
        assert end == 1
        # dx/dt = alpha' x_0 + sigma' z, and sigma' = -alpha alpha'/sigma is 0 at the end
        np.testing.assert_allclose(velocity, [-0.7 * last * (n - 1)], rtol=1e-4)
        np.testing.assert_allclose(at_end, -last * (n - 1), rtol=1e-4)
        assert np.isfinite(inside)


def test_ddpm_tends_to_vp(x64):
    t = jnp.linspace(0.01, 1.0, 50)
    gaps = [
        float(np.max(np.abs(np.log(DDPM(num_steps=n).alpha(t) / VP().alpha(t)))))
        for n in (1000, 2000, 4000)
    ]
    # first order in the length of a step
    np.testing.assert_allclose([gaps[0] / gaps[1], gaps[1] / gaps[2]], [2, 2], rtol=0.05)


def test_smld_levels_are_geometric(x64):
    sigma = np.asarray(SMLD(num_steps=10).sigma(jnp.arange(10) / 9))
    np.testing.assert_allclose(sigma, np.geomspace(0.01, 50, 10), rtol=1e-12)


@pytest.mark.parametrize("sde", ALL, ids=name)
def test_views_agree(x64, sde):
    """velocity = f x - g^2 score / 2, and x = alpha x_0 + sigma eps."""
    keys = jax.random.split(jax.random.key(0), 2)
    x, x_0 = (jax.random.normal(k, (5, 3)) for k in keys)
    t = jnp.asarray(times(sde, 5))

    @jax.jit
    def both(x, t, x_0):
        f, g2 = coefficients(sde, t)
        drift = f[:, None] * x - g2[:, None] * sde.score(x, t, x_0) / 2
        rebuilt = sde.alpha(t)[:, None] * x_0 + sde.sigma(t)[:, None] * sde.eps(x, t, x_0)
        return sde.velocity(x, t, x_0), drift, rebuilt

    velocity, drift, rebuilt = both(x, t, x_0)
    np.testing.assert_allclose(velocity, drift, rtol=1e-8)
    np.testing.assert_allclose(rebuilt, x, rtol=1e-12)


@pytest.mark.parametrize("sde", [VP(), VE(), VE(t_max=0.5), EDM(t_max=10.0)], ids=name)
def test_prior_density(x64, sde):
    x = np.random.default_rng(0).normal(size=(4, 2, 3)) * sde.prior_std
    truth = np.sum(
        -(x**2) / 2 / sde.prior_std**2 - np.log(sde.prior_std * np.sqrt(2 * np.pi)), axis=(1, 2)
    )
    np.testing.assert_allclose(sde.prior_log_prob(jnp.asarray(x)), truth, rtol=1e-12)
    if isinstance(sde, VE | EDM):
        assert sde.prior_std == pytest.approx(float(sde.sigma(jnp.asarray(sde.t_max))))
    draws = sde.prior_sample(jax.random.key(1), (20_000,))
    assert abs(float(jnp.std(draws)) / sde.prior_std - 1) < 4 / np.sqrt(2 * 20_000)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="t_min must be below t_max"):
        VP(t_min=2.0)
    with pytest.raises(ValueError, match="unknown schedule 'quadratic': one of linear"):
        DDPM(schedule="quadratic")
    with pytest.raises(ValueError, match=r"beta_max=20.0 must be above 0 and below num_steps=20"):
        DDPM(num_steps=20)


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_drift_at_a_step_of_the_chain_is_that_of_the_interval_before_it(
    x64, zero_terminal_snr, dtype
):
    """alpha_i = sqrt(1 - beta_i) alpha_{i-1}: f = (num_steps - 1) ln(1 - beta_i)/2 at step i, which
    a sampler that comes from later times leaves by that interval; and g^2 = -2 f. The first step
    has the interval after it."""
    n = 50
    sde = DDPM(num_steps=n, zero_terminal_snr=zero_terminal_snr)
    t = jnp.asarray(np.linspace(0, 1, n)[:-1], dtype)
    f, g2 = jax.jit(lambda t: coefficients(sde, t))(t)
    rate = (n - 1) * np.log1p(-sde.betas[:-1]) / 2
    rate[0] = rate[1]
    # ln alpha falls by 1e-3 to 3e-1 in an interval, from up to 5
    rtol = 5 / 1e-3 * jnp.finfo(dtype).eps
    np.testing.assert_allclose(f, rate, rtol=rtol)
    np.testing.assert_allclose(g2, -2 * rate, rtol=rtol)


def test_noise_is_added_by_the_formula(x64):
    """Each example at its own time, and with its own key whatever the others; the draws have mean
    alpha x_0 and standard deviation sigma within 4 standard errors."""
    sde, n = VP(), 40_000
    x_0, t = jnp.asarray([[1.0, -2.0], [0.5, 3.0]]), jnp.asarray([0.1, 0.6])
    z = jnp.asarray([[0.3, 0.1], [-1.0, 2.0]])
    alpha = np.exp(-(np.asarray(t) ** 2) * 19.9 / 4 - np.asarray(t) * 0.1 / 2)[:, None]
    sigma = np.sqrt(1 - alpha**2)
    np.testing.assert_allclose(sde.noised(x_0, z, t), alpha * x_0 + sigma * z, rtol=1e-12)

    keys = jax.random.split(jax.random.key(0), 2)
    both = sde.perturb(keys, x_0, t)
    for i in range(2):
        alone = sde.perturb(keys[i : i + 1], x_0[i : i + 1], t[i])
        np.testing.assert_allclose(both[i : i + 1], alone, rtol=1e-14)

    many = jnp.broadcast_to(x_0[0], (n, 2))
    drawn = np.asarray(sde.perturb(jax.random.key(1), many, t[1]))
    away = (drawn - alpha[1] * np.asarray(x_0[0])) / sigma[1]
    assert np.all(np.abs(np.mean(away, axis=0)) <= 4 / np.sqrt(n))
    assert np.all(np.abs(np.mean(away**2, axis=0) - 1) <= 4 * np.sqrt(2 / n))
