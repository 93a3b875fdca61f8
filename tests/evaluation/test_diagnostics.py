"""Diagnostics against closed forms: fields that are exact, and fields that are wrong by a known
amount."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from score_sde.evaluation.diagnostics import (
    Nearest,
    fokker_planck_residual,
    jacobian_asymmetry,
    memorisation,
    nearest,
    score_error,
)
from score_sde.processes import EDM, VP, Flow, SubVP
from score_sde.processes.exact import Gaussian, three_gaussians
from score_sde.types import expand

D, STD = 4, 0.7
ROTATION = np.zeros((D, D))
ROTATION[np.triu_indices(D, 1)] = [0.3, -1.1, 0.4, 0.8, -0.5, 0.2]
ROTATION -= ROTATION.T
KEY = jax.random.key(0)


def at(sde, log_snr=(-4.0, 0.0, 3.0)):
    return sde.t_of_log_snr(jnp.array(log_snr))


def draw(n, std=STD):
    return jnp.asarray(std * np.random.default_rng(1).normal(size=(n, D)))


def normal(std=STD):
    return Gaussian(jnp.zeros(D), std**2 * jnp.eye(D))


def of_score(sde, score):
    """The denoiser that has this score."""

    def denoiser(x, t):
        alpha, sigma = expand(sde.alpha(t), x), expand(sde.sigma(t), x)
        return (x + sigma**2 * score(x, t)) / alpha

    return denoiser


def scaled(sde, factor=1.25):
    return of_score(sde, lambda x, t: factor * normal().score(sde, x, t))


def rotated(sde):
    def score(x, t):
        return normal().score(sde, x, t) + x @ jnp.asarray(ROTATION.T)

    return of_score(sde, score)


def within(levels, truth, errors=4):
    """A root has errors of its square; they are equal but where it is near 0."""
    assert np.all(np.abs(levels.value - truth) < errors * levels.standard_error + 1e-9 * truth)


@pytest.mark.parametrize("sde", [VP(), Flow()], ids=lambda s: type(s).__name__)
def test_an_exact_field_has_no_fault(x64, sde):
    data, times = three_gaussians(), at(sde, (-6.0, -2.0, 2.0, 6.0))
    x, denoiser = data.sample(KEY, 16), data.denoiser(sde)

    @jax.jit
    def faults(x):
        return (
            jacobian_asymmetry(KEY, sde, denoiser, x, times),
            fokker_planck_residual(KEY, sde, denoiser, x, times),
            score_error(KEY, sde, denoiser, denoiser, x, times),
        )

    asymmetry, residual, error = faults(x)
    np.testing.assert_allclose(asymmetry.value, 0, atol=1e-11)
    np.testing.assert_allclose(residual.value, 0, atol=1e-9)  # a second derivative, over sigma^2
    # alpha/sigma, up to e^3, times what rounding leaves of D - D if XLA computes it twice
    np.testing.assert_allclose(error.value, 0, atol=1e-13)
    np.testing.assert_allclose(error.log_snr, [-6, -2, 2, 6], rtol=1e-9)


def test_score_error_of_a_wrong_variance(x64):
    """Of N(0, a^2) and N(0, b^2) the denoisers are linear, and so is their difference."""
    sde, n, wrong = SubVP(), 4000, 0.9
    times = at(sde)
    found = jax.jit(
        lambda x: score_error(
            KEY, sde, normal(wrong).denoiser(sde), normal().denoiser(sde), x, times
        )
    )(draw(n))
    alpha, sigma = np.asarray(sde.alpha(times)), np.asarray(sde.sigma(times))
    gains = [alpha * s**2 / (alpha**2 * s**2 + sigma**2) for s in (STD, wrong)]
    truth = alpha / sigma * (gains[1] - gains[0]) * np.sqrt(alpha**2 * STD**2 + sigma**2)
    within(found, truth)
    # the root of a mean of n D squares of normal numbers
    np.testing.assert_allclose(found.standard_error, truth / np.sqrt(2 * n * D), rtol=0.1)


def test_a_rotation(x64):
    """s + A x has J = -I / v + A, so J - J^T = 2 A, and the two parts of J are orthogonal. It
    leaves -g^2 A^T A x of the Fokker-Planck equation."""
    sde, x, norm = VP(), draw(400), np.sum(ROTATION**2)
    times = at(sde)
    sigma2 = np.asarray(sde.sigma(times) ** 2)
    v = np.asarray(sde.alpha(times) ** 2 * STD**2) + sigma2

    @jax.jit
    def run(x):
        return (
            jacobian_asymmetry(KEY, sde, rotated(sde), x, times),
            jacobian_asymmetry(KEY, sde, rotated(sde), x, times, probes=2),
            fokker_planck_residual(KEY, sde, rotated(sde), x, times),
        )

    exact, probed, residual = run(x)
    truth = 2 * np.sqrt(norm / (D / v**2 + norm))
    np.testing.assert_allclose(exact.value, truth, rtol=1e-8)
    np.testing.assert_allclose(exact.standard_error, 0, atol=1e-8)
    within(probed, truth)
    assert np.all(probed.standard_error < 0.1)
    square = ROTATION.T @ ROTATION
    within(residual, sigma2**1.5 * np.sqrt(v * np.trace(square @ square) / D))


def test_asymmetry_of_the_denoiser_itself(x64):
    """D = B x with the entries of B known: the ratio is that of B."""
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(D, D)))
    found = jacobian_asymmetry(
        KEY,
        VP(),
        lambda x, t: x @ matrix.T,
        jnp.ones((3, D)),
        at(VP()),
        view=lambda x_t, t, x_0: x_0,
    )
    truth = np.linalg.norm(matrix - matrix.T) / np.linalg.norm(matrix)
    np.testing.assert_allclose(found.value, np.full(3, truth), rtol=1e-10)
    # of a pure rotation 2, which every probe says, however long J v is
    found = jacobian_asymmetry(
        KEY,
        VP(),
        lambda x, t: x @ jnp.asarray(ROTATION.T),
        jnp.ones((30, D)),
        at(VP()),
        probes=1,
        view=lambda x_t, t, x_0: x_0,
    )
    np.testing.assert_allclose(found.value, np.full(3, 2.0), rtol=1e-10)
    np.testing.assert_allclose(found.standard_error, 0, atol=1e-10)


def test_residual_of_a_scaled_score(x64):
    """c s leaves -g^2/2 c (c - 1) grad |s|^2 = -g^2 c (c - 1) x / v^2, and g^2 is
    sigma^2 |d log_snr/dt|: in units of the noise prediction, for any process,
    c (c - 1) (sigma^2 / v)^(3/2)."""
    sde, x = EDM(), draw(400)
    times = at(sde)
    sigma2 = np.asarray(sde.sigma(times) ** 2)
    v = np.asarray(sde.alpha(times) ** 2 * STD**2) + sigma2
    truth = 1.25 * 0.25 * (sigma2 / v) ** 1.5

    @jax.jit
    def run(x):
        return [
            fokker_planck_residual(KEY, sde, scaled(sde), x, times, probes=probes)
            for probes in (None, 2)
        ]

    for found in run(x):
        within(found, truth)
        assert np.all(found.standard_error < 0.1 * truth)


def test_another_distribution_has_no_residual(x64):
    """The exact score of wrong data is still the score of a process."""
    sde, x = VP(), draw(10)
    other = normal(std=2.0).denoiser(sde)
    found = jax.jit(lambda x: fokker_planck_residual(KEY, sde, other, x, at(sde)))(x)
    np.testing.assert_allclose(found.value, 0, atol=1e-10)


def test_probes_of_the_residual_are_no_bias(x64):
    """A curved field, whose divergence has a gradient: two probes against every direction."""
    sde, data = VP(), three_gaussians()
    times, x = at(sde, (-1.0,)), data.sample(KEY, 2000)
    denoiser = of_score(sde, lambda x, t: 1.2 * data.score(sde, x, t))

    @jax.jit
    def run(x):
        return [
            fokker_planck_residual(KEY, sde, denoiser, x, times, probes=probes)
            for probes in (None, 2)
        ]

    exact, probed = run(x)
    assert np.all(np.abs(probed.value - exact.value) < 4 * probed.standard_error)
    assert np.all(probed.standard_error < 0.05 * exact.value)


def test_a_negative_mean_of_products_is_zero(x64):
    """Of an exact field the products of two probes are as often negative as not; then the value is
    0, and its error is not."""
    sde, data = VP(), three_gaussians()
    times = at(sde, np.linspace(-3, 3, 32))
    found = jax.jit(
        lambda x: fokker_planck_residual(KEY, sde, data.denoiser(sde), x, times, probes=2)
    )(data.sample(KEY, 8))
    value, error = np.asarray(found.value), np.asarray(found.standard_error)
    assert stats.binomtest(int(np.sum(value == 0)), 32, 0.5).pvalue > 1e-3
    assert np.all(error > 0)
    assert np.all(value**2 < 5 * ((value + error) ** 2 - value**2))


def test_noise_and_probes_are_drawn_for_each_example(x64):
    """Equal examples at many noise levels: their mean squares spread as the standard errors say,
    and what is drawn at one level says nothing of another."""
    sde, n = VP(), 400
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(D, D)))
    times = at(sde, np.zeros(n))

    @jax.jit
    def run(x):
        def half(x_t, t):
            return x_t / 2

        asymmetry = jacobian_asymmetry(
            KEY,
            sde,
            lambda x_t, t: x_t @ matrix.T,
            x,
            times,
            probes=1,
            view=lambda x_t, t, x_0: x_0,
        )
        return score_error(KEY, sde, half, lambda x_t, t: 0 * x_t, x, times), asymmetry

    for levels in run(jnp.ones((50, D))):
        spread, error = np.std(levels.value, ddof=1), np.sqrt(np.mean(levels.standard_error**2))
        # a deviation of n values is known to 1/sqrt(2 n) of it; the rest is that roots are skew
        assert spread == pytest.approx(error, rel=4 / np.sqrt(2 * n) + 0.05)


def test_what_only_fills_a_batch_changes_nothing(x64):
    """Whatever it is; and what is drawn for the others is the same."""
    sde = VP()
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(D, D)))

    @jax.jit
    def run(x, mask):
        def denoiser(x_t, t):
            return jnp.tanh(x_t @ matrix)

        return (
            score_error(KEY, sde, denoiser, lambda x_t, t: x_t, x, at(sde), mask=mask),
            jacobian_asymmetry(KEY, sde, denoiser, x, at(sde), mask=mask, probes=1),
            fokker_planck_residual(KEY, sde, denoiser, x, at(sde), mask=mask, probes=2),
        )

    few = draw(6)
    many = jnp.concatenate([few, jnp.full((2, D), jnp.nan)])
    found, truth = run(many, np.arange(8) < 6), run(few, np.ones(6, bool))
    for levels, exact in zip(found, truth, strict=True):
        assert np.all(exact.value > 0)
        np.testing.assert_allclose(levels, exact, rtol=1e-9)


@pytest.mark.parametrize(
    ("function", "least"), [(jacobian_asymmetry, 1), (fokker_planck_residual, 2)]
)
def test_wrong_number_of_probes(function, least):
    with pytest.raises(ValueError, match=f"at least {least}, not {least - 1}"):
        function(KEY, VP(), scaled(VP()), jnp.ones((2, D)), jnp.ones(1), probes=least - 1)


# Copies


def test_nearest_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    x, points = rng.normal(size=(23, 2, 3)), 0.3 + rng.normal(size=(40, 2, 3))
    x[5], x[11] = points[17], points[39]
    found = nearest(jnp.asarray(x, jnp.float32), jnp.asarray(points, jnp.float32), block=7)
    x, points = np.float32(x), np.float32(points)
    for i, one in enumerate(x):
        distances = np.sqrt(((one - points).astype(float) ** 2).sum(axis=(1, 2)))
        order = np.argsort(distances)
        assert found.index[i] == order[0]
        assert found.distance[i] == pytest.approx(distances[order[0]], rel=1e-6)
        assert found.ratio[i] == pytest.approx(distances[order[0]] / distances[order[1]], rel=1e-6)
    assert found.distance[5] == found.distance[11] == found.ratio[5] == 0


def test_copies_of_bytes_are_at_distance_zero():
    """Also of an image that the training data has twice, and far from the origin."""
    images = np.random.default_rng(1).integers(200, 256, (50, 4, 4, 3), dtype=np.uint8)
    images[9] = images[3]
    found = nearest(jnp.asarray(images[:5]), jnp.asarray(images), block=16)
    np.testing.assert_array_equal(found.distance, 0)
    np.testing.assert_array_equal(found.ratio, 0)
    assert set(found.index.tolist()) <= {0, 1, 2, 3, 4, 9}
    with pytest.raises(ValueError, match="at least 2 points, not 1"):
        nearest(jnp.asarray(images), jnp.asarray(images[:1]))


def neighbours(distance, ratio=1.0):
    distance = np.asarray(distance, np.float32)
    return Nearest(distance, np.zeros(len(distance), np.int32), np.full(len(distance), ratio))


def test_memorisation_is_the_statistic_of_mann_and_whitney():
    rng = np.random.default_rng(2)
    # of whole numbers, so that there are ties
    ours, theirs = rng.integers(0, 12, 300), rng.integers(2, 14, 200)
    # copies are less than a third as far from the nearest as from the next (Yoon et al. 2023)
    found = memorisation(neighbours(ours, 0.33), neighbours(theirs, 0.34))
    u = stats.mannwhitneyu(theirs, ours).statistic
    assert found.closer.value == pytest.approx(u / (300 * 200), rel=1e-9)
    assert found.copied.value == 1
    assert found.copied_held_out.value == 0


def test_memorisation_knows_its_error():
    """P(a < b) of N(0, 1) and N(1, 1) is Phi(1 / sqrt 2), over 400 repetitions."""
    rng = np.random.default_rng(3)
    ours, theirs = rng.normal(size=(400, 60)), 1 + rng.normal(size=(400, 40))
    found = [
        memorisation(neighbours(a), neighbours(b)).closer for a, b in zip(ours, theirs, strict=True)
    ]
    truth = stats.norm.cdf(1 / np.sqrt(2))
    z = np.array([(value - truth) / error for value, error in found])
    assert abs(z.mean()) < 4 / np.sqrt(400) + 0.1  # the ratio of two estimates is a little skew
    assert z.std() == pytest.approx(1, rel=4 / np.sqrt(800) + 0.05)
