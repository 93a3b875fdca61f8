"""Exact flow maps against the probability-flow ODE, solved by SciPy, and against the identities
that only an exact one fulfils."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from score_sde.models.guidance import guide, of_two
from score_sde.processes import EDM, VP, Cosine, Flow, SubVP, flow
from score_sde.processes.exact import Gaussian, Mixture, three_gaussians
from score_sde.processes.exact_flow import guided_pair, in_one_dimension

pytestmark = pytest.mark.usefixtures("x64")
DOWN, UP = (-4.0, 5.0), (2.0, -3.0)  # in log-SNR: towards the data, and back to the noise
WEIGHT = 2.5  # of guidance


def gaussian():
    root = np.random.default_rng(0).normal(size=(3, 3))
    return Gaussian(jnp.array([0.5, -1.0, 0.2]), jnp.asarray(root @ root.T / 3 + 0.05 * np.eye(3)))


def mixture():
    weights, means, variances = [0.2, 0.5, 0.3], [-1.5, 0.1, 1.0], [0.3, 0.02, 0.1]
    return Mixture(
        jnp.array(weights), jnp.array(means)[:, None], jnp.array(variances)[:, None, None]
    )


def pair(sde):
    """The guided denoiser of two Gaussians in two dimensions, and its flow map."""
    means = jnp.array([0.3, -0.2]), jnp.array([1.0, 0.5])
    variances = 1.2, 0.2
    laws = [
        Gaussian(mean, variance * jnp.eye(2))
        for mean, variance in zip(means, variances, strict=True)
    ]
    without, given = (law.denoiser(sde) for law in laws)
    denoiser = guide(of_two(given, without), WEIGHT)
    return denoiser, guided_pair(sde, means, variances, WEIGHT, denoiser)


def laws(sde):
    """By name a denoiser, its flow map, and the number of dimensions."""
    return {
        "gaussian": (gaussian().denoiser(sde), gaussian().flow_map(sde), 3),
        "mixture": (mixture().denoiser(sde), mixture().flow_map(sde), 1),
        "guided": (*pair(sde), 2),
    }


CASES = [
    ("gaussian", VP()),
    ("gaussian", Cosine()),
    ("gaussian", EDM()),
    ("mixture", VP()),
    ("mixture", Flow()),
    ("guided", SubVP()),
    ("guided", EDM()),
]
NAMES = [f"{name}-{type(sde).__name__}" for name, sde in CASES]


def points(sde, d, log_snr, n=6):
    """x_t of the size of the process there, and t [n]."""
    t = sde.t_of_log_snr(jnp.full(n, log_snr))
    x = jax.random.normal(jax.random.key(1), (n, d))
    return jnp.hypot(sde.alpha(t), sde.sigma(t))[:, None] * x, t


def by_ode(sde, denoiser, x, t, s):
    """The end of the probability-flow ODE from t to s, numbers."""

    @jax.jit
    def velocity(t, flat):
        x_t = flat.reshape(x.shape)
        return sde.velocity(x_t, t, denoiser(x_t, t)).ravel()

    span, start = (float(t), float(s)), np.asarray(x).ravel()
    out = solve_ivp(velocity, span, start, method="DOP853", rtol=2.3e-14, atol=1e-14)
    return out.y[:, -1].reshape(x.shape)


@pytest.mark.parametrize(("name", "sde"), CASES, ids=NAMES)
def test_a_flow_map_ends_on_the_ode(name, sde):
    denoiser, flow_map, d = laws(sde)[name]
    run = jax.jit(flow(sde, flow_map))
    for start, end in (DOWN, UP):
        x, t = points(sde, d, start)
        s = sde.t_of_log_snr(jnp.full(len(x), end))
        truth = by_ode(sde, denoiser, x, t[0], s[0])
        np.testing.assert_allclose(run(x, t, s), truth, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "sde"), CASES, ids=NAMES)
def test_the_three_identities(name, sde):
    """d_t X + v . grad X = 0, d_s X = v_s(X), and X(X(x, t, u), u, s) = X(x, t, s), each beside the
    velocity. At s = t the flow map is the denoiser, and without s too."""
    denoiser, flow_map, d = laws(sde)[name]
    end = flow(sde, flow_map)
    x, t = points(sde, d, -2.0)
    u, s = (sde.t_of_log_snr(jnp.full(len(x), level)) for level in (0.0, 3.0))

    @jax.jit
    def sides(x):
        one = jnp.ones_like(t)
        v = sde.velocity(x, t, denoiser(x, t))
        x_s, eulerian = jax.jvp(lambda x, t: end(x, t, s), (x, t), (v, one))
        _, lagrangian = jax.jvp(lambda s: end(x, t, s), (s,), (one,))
        v_s = sde.velocity(x_s, s, denoiser(x_s, s))
        two = end(end(x, t, u), u, s)
        here = denoiser(x, t), flow_map(x, t, t), flow_map(x, t)
        return v, eulerian, lagrangian, v_s, x_s, two, *here

    v, eulerian, lagrangian, v_s, x_s, two, here, same, without = map(np.asarray, sides(x))
    np.testing.assert_allclose(eulerian, 0, atol=1e-10 * np.abs(v).max())
    np.testing.assert_allclose(lagrangian, v_s, rtol=1e-10, atol=1e-10 * np.abs(v_s).max())
    np.testing.assert_allclose(two, x_s, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(same, here, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(without, here, rtol=1e-12, atol=1e-12)


def test_the_derivative_of_a_map_of_numbers():
    """F_s(X) = F_t(x), so dX/dx = p_t(x)/p_s(X): in the tails too, and by reverse mode."""
    sde, law = VP(), mixture()
    x = jnp.linspace(-6, 6, 41)[:, None]
    t, s = (sde.t_of_log_snr(jnp.full(len(x), level)) for level in (-3.0, 6.0))
    end = flow(sde, law.flow_map(sde))

    @jax.jit
    def both(x):
        x_s, slope = jax.jvp(lambda x: end(x, t, s), (x,), (jnp.ones_like(x),))
        back = jax.grad(lambda x: jnp.sum(end(x, t, s)))(x)
        return x_s, slope, back, law.log_prob(sde, x, t) - law.log_prob(sde, x_s, s)

    x_s, slope, back, truth = both(x)
    assert np.all(np.diff(x_s[:, 0]) > 0)
    np.testing.assert_allclose(jnp.log(slope[:, 0]), truth, atol=1e-9)
    np.testing.assert_allclose(back, slope, rtol=1e-12)


@pytest.mark.parametrize("sde", [SubVP(), EDM()], ids=lambda s: type(s).__name__)
def test_short_jumps_keep_their_digits(sde):
    """A mixture of one component against the form of a Gaussian, which loses no digits, on both
    sides of the length where the form of a mixture changes. A long jump has an error of
    eps x/length; a short one of length^2."""
    law = Gaussian(jnp.array([0.4]), jnp.array([[0.3]]))
    numbers = jnp.ones(1), law.means, law.covs
    as_mixture = jax.jit(in_one_dimension(sde, *numbers, law.denoiser(sde)))
    truth = jax.jit(law.flow_map(sde))
    for level in (-3.0, 0.0, 4.0):
        x, t = points(sde, 1, level)
        for length in (0.0, 1e-9, -1e-6, 0.99e-5, 1.01e-5, -1.01e-5, 9e-4, 1e-2):
            s = sde.t_of_log_snr(jnp.full(len(x), level + length))
            size = float(jnp.max(jnp.abs(x)) / sde.alpha(t[0]))
            allowed = 1e-9 + 1e-15 * size / max(abs(length), 1e-5)
            np.testing.assert_allclose(as_mixture(x, t, s), truth(x, t, s), atol=allowed)


def test_a_mixture_is_continuous_where_its_form_changes():
    """D(s) is smooth, so four ends around the threshold lie on a line."""
    sde = VP()
    flow_map = jax.jit(mixture().flow_map(sde))
    x, t = points(sde, 1, 1.0)
    lengths = np.array([0.9e-5, 0.97e-5, 1.03e-5, 1.1e-5])
    found = np.stack(
        [flow_map(x, t, sde.t_of_log_snr(jnp.full(len(x), 1.0 + h)))[:, 0] for h in lengths]
    )
    line = np.polynomial.polynomial.polyfit(lengths - 1e-5, found, 1)
    np.testing.assert_allclose(found, line[0] + np.outer(lengths - 1e-5, line[1]), atol=1e-10)


def test_times_of_one_number_are_those_of_every_example():
    sde = EDM()
    for law, d in ((gaussian(), 3), (mixture(), 1)):
        flow_map = jax.jit(law.flow_map(sde))
        x, t = points(sde, d, -1.0)
        s = jnp.full_like(t, 0.3)
        np.testing.assert_array_equal(flow_map(x, t[0], s[0]), flow_map(x, t, s))


def test_more_dimensions_have_no_closed_form():
    with pytest.raises(ValueError, match="known in 1 dimension, not 2"):
        three_gaussians().flow_map(VP())
