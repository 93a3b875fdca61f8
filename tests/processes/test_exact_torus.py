"""The torus: heat kernel by two sums, denoisers of periodic laws, and what solvers make of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling
from score_sde.config import build
from score_sde.processes import EDM, VP
from score_sde.processes.exact_torus import WrappedMixture, wrap
from score_sde.sampling import grids

pytestmark = pytest.mark.usefixtures("x64")
SDE = EDM(t_min=1e-3, t_max=2.0)
PERIOD = 2.0
WEIGHTS, MEANS = np.array([0.3, 0.7]), np.array([[0.2, 1.9], [1.1, 0.6]])
STDS = np.array([[0.15, 0.3], [0.4, 0.1]])
WAVES = np.array([[1, 0], [0, 1], [1, 1], [2, -1], [1, -2]])


def law():
    return WrappedMixture(*map(jnp.asarray, (WEIGHTS, MEANS, STDS)), period=PERIOD)


def fourier(waves, sigma):
    """E e^(-i w.x) of the law with noise, w = 2 pi waves/L: each wave falls by the heat kernel's
    e^(-|w|^2 sigma^2/2)."""
    w = 2 * np.pi * waves / PERIOD
    decay = np.exp(-(w[:, None] ** 2 * (STDS[None] ** 2 + sigma**2)).sum(axis=2) / 2)
    return (WEIGHTS * decay * np.exp(-1j * w @ MEANS.T)).sum(axis=1)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 2.0])
def test_density_and_denoiser_are_those_of_the_fourier_series(sigma):
    """p(x) = L^-d sum_w E[e^(-i w.x_0)] e^(i w.x), another sum than that over images, and D = x +
    sigma^2 grad p/p by its own derivative."""
    sides = np.arange(-60, 61)
    waves = np.stack(np.meshgrid(sides, sides), axis=-1).reshape(-1, 2)
    w, found = 2 * np.pi * waves / PERIOD, fourier(waves, sigma) / PERIOD**2
    x = np.random.default_rng(0).uniform(-3, 5, size=(6, 2))
    phase = found[None] * np.exp(1j * x @ w.T)
    p, slope = phase.sum(axis=1).real, (1j * phase @ w).real
    ours = law().log_prob(SDE, jnp.asarray(x), jnp.asarray(sigma))
    np.testing.assert_allclose(np.exp(ours), p, rtol=1e-10, atol=1e-12)
    denoised = law().denoiser(SDE)(jnp.asarray(x), jnp.asarray(sigma))
    np.testing.assert_allclose(denoised, x + sigma**2 * slope / p[:, None], rtol=1e-8, atol=1e-9)
    # a whole period away all is the same, and a time for each example is allowed
    moved = jnp.asarray(x) + PERIOD * jnp.array([[3.0, -2.0]])
    there = law().denoiser(SDE)(moved, jnp.full(6, sigma))
    np.testing.assert_allclose(there - moved, denoised - x, atol=1e-11)


def test_the_prior_is_uniform():
    """But for e^(-2 (pi sigma/L)^2) in each wave."""
    noised = law().log_prob(SDE, jax.random.uniform(jax.random.key(0), (50, 2)), SDE.t_max)
    np.testing.assert_allclose(np.exp(noised), PERIOD**-2, rtol=4 * np.exp(-2 * np.pi**2))


@pytest.mark.parametrize("solver", ["dpmpp", "ancestral", "sra1"])
def test_solvers_draw_the_law(solver):
    """The waves of 5,000 samples are those of the law within 4 standard errors, although no solver
    knows the period; and they go the same way from a start that is whole periods away."""
    n, made, times = 5000, build("solvers", solver, SDE), grids.karras(SDE, 30)
    x = SDE.prior_sample(jax.random.key(0), (n, 2))
    denoiser = law().denoiser(SDE)

    @jax.jit
    def draw(x):
        return sampling.sample(jax.random.key(1), made, denoiser, x, times).x

    out, away = draw(x), PERIOD * jnp.array([[-1.0, 4.0]])
    found = np.exp(-2j * np.pi * np.asarray(out) @ WAVES.T / PERIOD).mean(axis=0)
    # the mean of a wave has a variance of (1 - |E|^2)/n
    assert np.abs(found - fourier(WAVES, SDE.t_min)).max() < 4 / np.sqrt(n)
    np.testing.assert_allclose(draw(x + away) - away, out, atol=1e-7)


def test_draws_are_of_the_law_and_within_a_period():
    x = np.asarray(law().sample(jax.random.key(3), 20_000))
    assert 0 <= x.min() < x.max() < PERIOD
    found = np.exp(-2j * np.pi * x @ WAVES.T / PERIOD).mean(axis=0)
    assert np.abs(found - fourier(WAVES, 0.0)).max() < 4 / np.sqrt(20_000)
    np.testing.assert_allclose(wrap(jnp.array([-0.5, 2.5]), PERIOD), [1.5, 0.5])


def test_a_process_that_scales_is_refused():
    with pytest.raises(ValueError, match="take EDM or VE"):
        law().denoiser(VP())
