"""Log-likelihoods against closed form, in nats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.processes import EDM, VE, VP, Cosine, Flow, SubVP
from score_sde.processes.exact import Gaussian, Mixture
from score_sde.sampling.likelihood import generate, interpolate, invert, log_likelihood
from score_sde.types import expand
from tests.solvers.test_solvers import MIXTURE

pytestmark = pytest.mark.usefixtures("x64")
SDES = [VP(), SubVP(), VE(), EDM()]


def gaussian(mean=0.0, d=3):
    root = np.random.default_rng(0).normal(size=(d, d)) / np.sqrt(d)
    return Gaussian(mean * jnp.ones(d), jnp.asarray(root @ root.T + 0.1 * np.eye(d)))


def mixture():
    """Centred as data scaled to [-1, 1] is, so that N(0, I) is its prior."""
    weights, means, covs = MIXTURE
    return Mixture(jnp.asarray(weights), jnp.asarray(means - weights @ means), jnp.asarray(covs))


def draw(distribution, seed, n):
    return jax.jit(lambda key: distribution.sample(key, n))(jax.random.key(seed))


def at_end(distribution, sde, x):
    """The log-density at t_min, and that of the data themselves."""

    @jax.jit
    def both(x):
        noisy = distribution.log_prob(sde, x, jnp.asarray(sde.t_min))
        return noisy, distribution.log_density(x)

    return both(x)


def run(distribution, sde, x, **options):
    return jax.jit(
        lambda x: log_likelihood(jax.random.key(0), sde, distribution.denoiser(sde), x, **options)
    )(x)


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("distribution", [gaussian, mixture])
def test_exact_trace_is_right_to_a_hundredth_of_a_nat(distribution, sde):
    distribution = distribution()
    x = draw(distribution, 1, 16)
    out = run(distribution, sde, x)
    noisy, clean = at_end(distribution, sde, x)
    np.testing.assert_allclose(out.log_prob, noisy, atol=0.01)
    np.testing.assert_array_equal(out.standard_error, np.zeros(16))
    if float(sde.sigma(jnp.asarray(sde.t_min))) < 0.003:  # then t_min is as good as the data
        np.testing.assert_allclose(out.log_prob, clean, atol=0.01)


@pytest.mark.parametrize("sde", [Cosine(), Flow(), VE()], ids=lambda s: type(s).__name__)
def test_with_the_exact_prior_only_the_solver_errs(sde):
    """Data far from centred, whose trace in x_T the standard prior would leave out."""
    distribution = gaussian(mean=3.0)
    x = draw(distribution, 1, 8)
    t_max = jnp.asarray(sde.t_max)
    out = run(
        distribution,
        sde,
        x,
        prior=lambda z: distribution.log_prob(sde, z, t_max),
        rtol=1e-8,
        atol=1e-8,
    )
    np.testing.assert_allclose(out.log_prob, at_end(distribution, sde, x)[0], atol=1e-5)


def test_hutchinson_is_unbiased_and_knows_its_error():
    distribution, sde = gaussian(), VP()
    x = draw(distribution, 1, 200)
    out = run(distribution, sde, x, probes=4)
    truth, _ = at_end(distribution, sde, x)
    z = np.asarray((out.log_prob - truth) / out.standard_error)
    # Student's t with 3 degrees of freedom: half of all draws lie within 0.765; four errors
    assert abs(np.mean(np.abs(z) < 0.765) - 0.5) < 4 * np.sqrt(0.25 / 200)
    error = np.asarray(out.log_prob - truth)
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(200)
    # The mean square of the errors is that of the standard errors. A sum of n squares is known to
    # sqrt(2/n) of it, the other to sqrt(2/(n (k - 1))) with k probes.
    ratio = np.mean(error**2) / np.mean(out.standard_error**2)
    assert abs(ratio - 1) < 4 * np.sqrt(2 / 200 * (1 + 1 / 3))


def test_the_rest_of_the_batch_changes_rounding_alone():
    """Each sample has its own steps and probes, or more would change."""
    distribution, sde = mixture(), VP()
    x, keys = draw(distribution, 1, 12), jax.random.split(jax.random.key(5), 12)

    @jax.jit
    def of(keys, x):
        denoiser = distribution.denoiser(sde)
        return log_likelihood(keys, sde, denoiser, x, probes=1, rtol=1e-4, atol=1e-4)

    whole = of(keys, x)
    assert len(np.unique(whole.nfe)) > 1
    parts = [of(keys[i : i + 4], x[i : i + 4]) for i in range(0, 12, 4)]
    log_prob, nfe = (np.concatenate([getattr(p, a) for p in parts]) for a in ("log_prob", "nfe"))
    # rounding is 1e-16 and is amplified by the sizes of steps; other probes or steps are 1e-4
    np.testing.assert_allclose(log_prob, whole.log_prob, rtol=1e-9)
    np.testing.assert_array_equal(nfe, whole.nfe)


def test_old_keys_serve_too():
    distribution = gaussian()
    x = draw(distribution, 1, 3)
    out = jax.jit(
        lambda x: log_likelihood(
            jax.random.PRNGKey(0), VP(), distribution.denoiser(VP()), x, probes=2
        )
    )(x)
    # the trace is within five of its own standard errors
    error = np.abs(out.log_prob - at_end(distribution, VP(), x)[1])
    assert np.all(error < 5 * np.asarray(out.standard_error) + 0.01)


def test_one_probe_does_not_claim_to_know_its_error():
    distribution = gaussian()
    out = run(distribution, VP(), draw(distribution, 1, 2), probes=1)
    assert np.all(np.isnan(out.standard_error))
    assert np.all(np.isfinite(out.log_prob))


def test_a_diagonal_gaussian_needs_no_luck():
    """Rademacher probes are exact where the Jacobian is diagonal: no spread at all."""
    diagonal = Gaussian(jnp.zeros(3), jnp.diag(jnp.array([0.5, 1.0, 2.0])))
    x = draw(diagonal, 2, 5)
    out = run(diagonal, VP(), x, probes=3)
    np.testing.assert_allclose(out.standard_error, np.zeros(5), atol=1e-9)
    np.testing.assert_allclose(out.log_prob, at_end(diagonal, VP(), x)[1], atol=0.01)


@pytest.mark.parametrize("sde", [VP(), EDM()], ids=lambda s: type(s).__name__)
def test_inversion_and_back(sde):
    distribution = mixture()
    denoiser = distribution.denoiser(sde)
    x = draw(distribution, 3, 12)
    options = {"rtol": 1e-8, "atol": 1e-8}
    noise = jax.jit(lambda x: invert(sde, denoiser, x, **options))(x)
    np.testing.assert_allclose(
        jax.jit(lambda z: generate(sde, denoiser, z, **options))(noise), x, atol=1e-5
    )
    np.testing.assert_allclose(noise, run(distribution, sde, x, **options).noise, atol=1e-5)


def test_the_noise_of_a_gaussian():
    """Along the ODE of a Gaussian the standardised x stays."""
    sde = SubVP()
    mean, std = np.array([0.5, -1.0, 0.2]), np.array([0.3, 1.0, 2.0])
    distribution = Gaussian(jnp.asarray(mean), jnp.diag(jnp.asarray(std**2)))
    x = draw(distribution, 3, 6)
    (a0, a1), (s0, s1) = (
        [float(f(jnp.asarray(t))) for t in (sde.t_min, sde.t_max)] for f in (sde.alpha, sde.sigma)
    )
    z = (np.asarray(x) - a0 * mean) / np.sqrt(a0**2 * std**2 + s0**2)
    truth = a1 * mean + np.sqrt(a1**2 * std**2 + s1**2) * z
    noise = jax.jit(lambda x: invert(sde, distribution.denoiser(sde), x, rtol=1e-9, atol=1e-9))(x)
    np.testing.assert_allclose(noise, truth, rtol=1e-6, atol=1e-6)


def test_interpolation_goes_round_the_sphere_at_one_speed():
    a, b = jax.random.normal(jax.random.key(0), (2, 5, 2, 3))
    b = b * (jnp.linalg.norm(a, axis=(1, 2)) / jnp.linalg.norm(b, axis=(1, 2)))[:, None, None]
    weights = jnp.linspace(0, 1, 5)
    path = np.asarray(jax.jit(interpolate)(a, b, weights)).reshape(5, 5, 6)
    np.testing.assert_allclose(path[0], np.asarray(a).reshape(5, 6), atol=1e-12)
    np.testing.assert_allclose(path[-1], np.asarray(b).reshape(5, 6), atol=1e-12)
    norms = np.linalg.norm(path, axis=2)
    np.testing.assert_allclose(norms, np.broadcast_to(norms[0], norms.shape), rtol=1e-12)
    unit = path / norms[..., None]
    angles = np.arccos(np.sum(unit[1:] * unit[:-1], axis=2))
    np.testing.assert_allclose(angles, np.broadcast_to(angles[0], angles.shape), rtol=1e-9)
    # along the shorter arc
    whole = np.arccos(np.sum(unit[0] * unit[-1], axis=1))
    np.testing.assert_allclose(angles.sum(axis=0), whole, rtol=1e-9)
    np.testing.assert_allclose(
        jax.jit(interpolate)(a, a, weights), np.tile(a, (5, 1, 1, 1)), rtol=1e-7
    )


def test_wrong_number_of_probes():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        run(gaussian(), VP(), jnp.ones((1, 3)), probes=0)


def test_conditions_stay_with_their_samples():
    """A denoiser that has closed over conditions [b]: every sample is told its own."""
    sde, means = VP(), jnp.array([-1.0, 0.5, 2.0])

    def denoiser(x, t):  # of N(mean_b, 1/4)
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        gain = alpha / 4 / (alpha**2 / 4 + sigma**2)
        center = expand(means, x)
        return center + expand(gain, x) * (x - expand(alpha, x) * center)

    x = jnp.array([[-0.8], [0.1], [2.3]])
    tight = {"rtol": 1e-8, "atol": 1e-8}

    @jax.jit
    def every(x):
        out = log_likelihood(jax.random.key(0), sde, denoiser, x)
        noise = invert(sde, denoiser, x, **tight)
        return out, noise, generate(sde, denoiser, noise, **tight)

    out, noise, again = every(x)
    variance = 0.25 + float(sde.sigma(jnp.asarray(sde.t_min))) ** 2
    truth = -((x[:, 0] - means) ** 2) / (2 * variance) - np.log(2 * np.pi * variance) / 2
    np.testing.assert_allclose(out.log_prob, truth, atol=0.03)  # of the prior, see its docstring
    np.testing.assert_allclose(out.noise, noise, atol=1e-3)  # at the default tolerance
    np.testing.assert_allclose(again, x, atol=1e-5)
