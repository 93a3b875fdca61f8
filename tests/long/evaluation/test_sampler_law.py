"""The law of a sampler's output on Gaussian data: closed forms, and draws."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling, solvers
from score_sde.evaluation.sampler_law import Budget, Normal, affine, budget, law_after
from score_sde.processes import EDM, VP
from score_sde.sampling import grids

pytestmark = pytest.mark.usefixtures("x64")

EDM_ = EDM(t_min=0.002, t_max=80.0)


def karras(n):
    return jnp.asarray(grids.karras(EDM_, n), float)


def data(d=1):
    return Normal(jnp.linspace(-1.0, 1.0, d) if d > 1 else jnp.zeros(1), jnp.full(d, 0.25))


def std_over_truth(name, n):
    law = data()
    start = law.noised(EDM_, karras(n)[0])
    found = law_after(getattr(solvers, name)(EDM_), law.denoiser(EDM_), karras(n), start)
    return float(jnp.sqrt(found.variance[0] / 0.25))


@pytest.mark.parametrize(("n", "std"), [(5, 0.443), (10, 0.623), (20, 0.766), (50, 0.891)])
def test_ancestral_sampling_loses_variance_by_the_product_of_its_steps(n, std):
    """Each step is x_s = a x + b D + noise; the recursion of the variance, written out."""
    times = np.asarray(karras(n))
    variance = 0.25 + times[0] ** 2
    for t, s in itertools.pairwise(times):
        gain = 0.25 / (0.25 + t**2)  # D = gain x
        kept = s**2 / t**2 + (1 - s**2 / t**2) * gain
        variance = kept**2 * variance + s**2 * (1 - s**2 / t**2)
    found = std_over_truth("ancestral", n)
    assert found == pytest.approx(np.sqrt(variance / 0.25), rel=1e-9)
    assert found == pytest.approx(std, abs=6e-4)


def test_the_last_x_is_kept_unless_its_denoised_value_is_asked_for():
    """One step of DDIM from noise level a to b on N(0, l): x becomes x (b/a) + (1 - b/a) D, where
    D = x l / (l + a^2)."""
    law, (a, b) = data(), (3.0, 1.0)
    run = affine(solvers.ddim(EDM_), law.denoiser(EDM_), jnp.array([a, b]), 1)
    gain = b / a + (1 - b / a) * 0.25 / (0.25 + a**2)
    assert float(run.gain[0]) == pytest.approx(gain, rel=1e-6)


@pytest.mark.parametrize("name", ["ddim", "dpmpp", "heun", "unipc", "sa_solver", "dpmpp_sde"])
def test_the_law_is_that_of_draws(name):
    """Mean and variance of 40,000 samples of each dimension, within five standard errors."""
    law, n = Normal(jnp.array([0.5, -1.0]), jnp.array([0.1, 2.0])), 40_000
    sde = VP(t_min=1e-3)
    times, solver = jnp.asarray(grids.log_snr(sde, 6), float), getattr(solvers, name)(sde)
    start = Normal(jnp.zeros(2), jnp.ones(2))
    found = law_after(solver, law.denoiser(sde), times, start, denoise=True)
    x = sde.prior_sample(jax.random.key(0), (n, 2), float)
    drawn = sampling.sample(jax.random.key(1), solver, law.denoiser(sde), x, times, denoise=True).x
    error = np.sqrt(np.asarray(found.variance) / n)
    assert np.all(np.abs(np.mean(drawn, axis=0) - found.mean) < 5 * error)
    spread = np.asarray(found.variance) * np.sqrt(2 / n)
    assert np.all(np.abs(np.var(drawn, axis=0) - found.variance) < 5 * spread)


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("heun", 2), ("dpmpp", 2)])
def test_the_error_of_the_law_has_the_order_of_the_solver(name, order):
    """Of the standard deviation, from the exact law at t_max, without a draw."""
    sde, law = VP(t_min=1e-2), Normal(jnp.zeros(1), jnp.full(1, 0.25))
    errors = []
    for n in (64, 128):
        times = jnp.asarray(grids.log_snr(sde, n), float)
        found = law_after(
            getattr(solvers, name)(sde), law.denoiser(sde), times, law.noised(sde, times[0])
        )
        wanted = law.noised(sde, times[-1])
        errors.append(abs(float(jnp.sqrt(found.variance[0]) - jnp.sqrt(wanted.variance[0]))))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def test_distances_of_normal_laws():
    """By their formulas, and the relative entropy by Gauss's rule."""
    a, b = Normal(jnp.array([0.3]), jnp.array([0.5])), Normal(jnp.array([-0.2]), jnp.array([1.7]))
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    x = -0.2 + np.sqrt(1.7) * nodes
    log_b = -((x + 0.2) ** 2) / 3.4 - np.log(1.7) / 2
    log_a = -((x - 0.3) ** 2) / 1.0 - np.log(0.5) / 2
    kl = np.sum(weights * (log_b - log_a)) / np.sqrt(2 * np.pi)
    assert float(a.kl(b)[0]) == pytest.approx(kl, rel=1e-10)
    assert float(a.frechet(b)[0]) == pytest.approx(0.5**2 + (0.5**0.5 - 1.7**0.5) ** 2, rel=1e-12)
    assert float(a.kl(a)[0]) == 0


def test_the_parts_of_an_error():
    """With tiny steps the error is that of prior and truncation; with few it is discretisation."""
    law = Normal(jnp.full(1, 1.0), jnp.full(1, 0.25))
    short = EDM(t_min=0.1, t_max=4.0)

    def parts(n) -> Budget:
        times = jnp.asarray(grids.karras(short, n), float)
        return Budget(*(float(a[0]) for a in budget(solvers.heun(short), short, times, law)))

    fine, coarse = parts(200), parts(3)
    assert fine.discretisation < 1e-6
    assert fine.truncation == pytest.approx((np.sqrt(0.26) - 0.5) ** 2, rel=1e-6)
    # the flow keeps (x - mean)/std: from N(0, 16) where N(1, 16.25) would be right
    shift = (0 - 1) * np.sqrt(0.26 / 16.25)
    spread = np.sqrt(0.26) * (np.sqrt(16 / 16.25) - 1)
    assert fine.prior == pytest.approx(shift**2 + spread**2, rel=1e-6)
    assert coarse.discretisation > 100 * fine.discretisation
    assert coarse.prior == fine.prior


def test_solvers_without_such_a_law_are_refused():
    law = data()
    with pytest.raises(ValueError, match="own steps"):
        law_after(solvers.probability_flow(EDM_), law.denoiser(EDM_), karras(4), law)
    found = law_after(solvers.langevin(EDM_), law.denoiser(EDM_), karras(4), law)
    assert np.all(np.isnan(found.mean))
    assert np.all(np.isnan(found.variance))
