"""Flow maps in the words of the papers, against Gaussians whose flow is known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.models import flow_map as flow_maps
from score_sde.models import guidance, parametrization, thresholding
from score_sde.models.model import Model
from score_sde.nets.mlp import MLP
from score_sde.processes import EDM, SMLD, VE, VP, Cosine, Flow, SubVP, flow, jump
from score_sde.processes.exact import Gaussian
from tests.training.test_losses import PARAMETRIZATIONS

pytestmark = pytest.mark.usefixtures("x64")
SDES = [VP(), SubVP(), Cosine(), VE(), EDM(), Flow(), SMLD()]
each_sde = pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)


def gaussian():
    return Gaussian(jnp.array([0.4, -1.0]), jnp.array([[0.5, 0.2], [0.2, 0.3]]))


def pairs(sde, n=5):
    """x_t, t, and an earlier s."""
    t = sde.t_of_log_snr(jnp.linspace(-4.0, 3.0, n))
    s = sde.t_of_log_snr(jnp.linspace(-3.5, 5.0, n))
    return jax.random.normal(jax.random.key(1), (n, 2)) * (1 + sde.sigma(t))[:, None], t, s


class Fixed(nn.Module):
    """A smooth network without parameters that reads how far it goes."""

    numbers = ("jump",)

    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        return jnp.sin(x + noise[:, None]) + x[:, ::-1] * jnp.cos(cond["jump"])[:, None]


def fixed(sde, name="flow"):
    return Model(Fixed(), sde, PARAMETRIZATIONS[name](parametrization.quarter_log_sigma()))


@each_sde
def test_the_slope_is_noise_less_data(sde):
    """U = E - D with E = (x - alpha D)/sigma, whatever the network predicts."""
    x, t, s = pairs(sde)
    for name in PARAMETRIZATIONS:
        model = fixed(sde, name)
        value = model.flow_map({})(x, t, s)
        truth = sde.eps(x, t, value) - value
        found = flow_maps.slope(model, {})(x, t, s)
        np.testing.assert_allclose(found, truth, rtol=1e-8, atol=1e-9, err_msg=name)
        here = flow_maps.slope(model, {})(x, t)
        own = model.denoiser({})(x, t)
        np.testing.assert_allclose(here, sde.eps(x, t, own) - own, rtol=1e-8, atol=1e-9)


@each_sde
def test_a_jump_is_a_straight_line(sde):
    """y_s = y_t - (tau_t - tau_s) U with y = x/(alpha + sigma)."""
    x, t, s = pairs(sde)
    model = fixed(sde)
    x_s = flow(sde, model.flow_map({}))(x, t, s)
    size_t, size_s = ((sde.alpha(u) + sde.sigma(u))[:, None] for u in (t, s))
    length = (flow_maps.tau(sde, t) - flow_maps.tau(sde, s))[:, None]
    by_line = size_s * (x / size_t - length * flow_maps.slope(model, {})(x, t, s))
    np.testing.assert_allclose(by_line, x_s, rtol=1e-9, atol=1e-10)


def test_the_slope_is_the_mean_velocity_on_the_rectified_flow():
    """There y = x and tau = t."""
    sde = Flow()
    x, t, s = pairs(sde)
    model = fixed(sde)
    truth = flow_maps.mean_velocity(sde, model.flow_map({}))(x, t, s)
    np.testing.assert_allclose(flow_maps.slope(model, {})(x, t, s), truth, rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(flow_maps.tau(sde, t), t / (1 - t + t))
    # a network of F = z - x_0 is the mean velocity itself
    network = model.network({}, x, t, s=s)
    np.testing.assert_allclose(network, truth, rtol=1e-9, atol=1e-11)


def test_the_slope_keeps_its_digits_at_little_noise():
    """In float32 at sigma of 1e-4: by D itself an error of eps/sigma is left."""
    sde = Flow(t_min=1e-5)
    model = fixed(sde)
    t = jnp.full(3, 1e-4)
    x = jax.random.normal(jax.random.key(2), (3, 2))
    truth = flow_maps.slope(model, {})(x, t, t / 2)
    single = [a.astype(jnp.float32) for a in (x, t, t / 2)]
    found = flow_maps.slope(model, {})(*single)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, truth, rtol=1e-5)


@each_sde
def test_mean_velocity_and_back(sde):
    """Of a Gaussian, whose end is known: alpha_s mu + sqrt(m_s/m_t) (x - alpha_t mu)."""
    x, t, s = pairs(sde)
    law = gaussian()
    values, basis = np.linalg.eigh(law.covs[0])
    mean = law.means[0]
    a_t, b_t, a_s, b_s = (f(u)[:, None] for u in (t, s) for f in (sde.alpha, sde.sigma))
    ratio = jnp.sqrt((a_s**2 * values[None] + b_s**2) / (a_t**2 * values[None] + b_t**2))
    x_s = a_s * mean[None] + (ratio * ((x - a_t * mean[None]) @ basis)) @ basis.T
    exact = gaussian().flow_map(sde)
    velocity = flow_maps.mean_velocity(sde, exact)
    truth = (x - x_s) / (t - s)[:, None]
    np.testing.assert_allclose(velocity(x, t, s), truth, rtol=1e-9, atol=1e-9)
    back = flow_maps.of_mean_velocity(sde, velocity)(x, t, s)
    np.testing.assert_allclose(back, exact(x, t, s), rtol=1e-9, atol=1e-9)
    near = t - 1e-6 * (t - s)  # the limit is the velocity of the ODE
    limit = sde.velocity(x, t, law.denoiser(sde)(x, t))
    size = float(jnp.abs(limit).max())
    np.testing.assert_allclose(velocity(x, t, near), limit, rtol=1e-4, atol=1e-5 * size)


@each_sde
def test_consistency_function_and_back(sde):
    """At t_min it is x itself, it does not change along the flow, and its D is that of the jump to
    t_min."""
    x, t, s = pairs(sde)
    exact = gaussian().flow_map(sde)
    function = flow_maps.consistency(sde, exact)
    first = jnp.full_like(t, sde.t_min)
    np.testing.assert_array_equal(function(x, first), x)
    along = flow(sde, exact)(x, t, s)
    np.testing.assert_allclose(function(along, s), function(x, t), rtol=1e-9, atol=1e-10)
    back = flow_maps.of_consistency(sde, function)
    np.testing.assert_allclose(back(x, t, s), exact(x, t, first), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(jump(sde, x, t, first, back(x, t)), function(x, t), rtol=1e-10)


@pytest.mark.parametrize("sde", [VP(), SubVP(), EDM(), Flow()], ids=lambda s: type(s).__name__)
def test_trig_flow(sde):
    """F is minus the output of a network of edm(sigma_data). On N(0, sigma_data^2) the angle phi
    turns x without changing its size, so F of the jump from phi to phi_s is
    tan((phi_s - phi)/2) x/sigma_data, and 0 at s = t."""
    std = 0.6
    x, t, s = pairs(sde)
    c_noise = parametrization.quarter_log_sigma()
    model = Model(Fixed(), sde, parametrization.edm(c_noise, sigma_data=std))
    found = flow_maps.trig_flow(sde, model.flow_map({}), std)(x, t, s)
    np.testing.assert_allclose(found, -model.network({}, x, t, s=s), rtol=1e-8, atol=1e-10)

    law = Gaussian(jnp.zeros(2), std**2 * jnp.eye(2))
    of_law = flow_maps.trig_flow(sde, law.flow_map(sde), std)
    phi, phi_s = (jnp.arctan2(sde.sigma(u), sde.alpha(u) * std) for u in (t, s))
    size = jnp.hypot(sde.alpha(t) * std, sde.sigma(t))[:, None]
    truth = jnp.tan((phi_s - phi) / 2)[:, None] * x / size  # x of TrigFlow over sigma_data
    np.testing.assert_allclose(of_law(x, t, s), truth, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(of_law(x, t, t), 0, atol=1e-9)


def test_a_model_of_two_times_tells_its_network_how_far():
    """c_noise(t) - c_noise(s), 0 without s; a network that reads no such number gives the same
    whatever s is."""
    sde = VP()
    x, t, s = pairs(sde)
    c_noise = parametrization.log_snr(scale=0.1)
    model = Model(Fixed(), sde, parametrization.flow(c_noise))
    _, _, c_in = model.parametrization.scales(sde.alpha(t), sde.sigma(t))
    for end in (s, t, None):
        jumps = 0 * t if end is None else 0.1 * (sde.log_snr(t) - sde.log_snr(end))
        noise = 0.1 * sde.log_snr(t)
        truth = Fixed().apply({}, c_in[:, None] * x, noise, {"jump": jumps})
        ends = {} if end is None else {"s": end}
        np.testing.assert_allclose(model.network({}, x, t, **ends), truth, rtol=1e-12)
    one_time = Model(MLP((8,), embedding_dim=8), sde, parametrization.flow(c_noise))
    params = one_time.init(jax.random.key(0), x)
    params = jax.tree.map(lambda a: a + 0.1, params)
    value = one_time.flow_map(params)
    np.testing.assert_array_equal(value(x, t, s), value(x, t))
    np.testing.assert_array_equal(value(x, t), one_time.denoiser(params)(x, t))


def test_guidance_and_thresholds_pass_the_second_time():
    """The jumps of both are combined, each at (t, s); without s they are denoisers."""
    sde, w = VP(), 2.5
    x, t, s = pairs(sde)
    first, second = (fixed(sde, name).flow_map({}) for name in ("flow", "v"))
    guided = guidance.guide(guidance.of_two(first, second), w)
    for times in ((t, s), (t,)):
        truth = second(x, *times) + w * (first(x, *times) - second(x, *times))
        np.testing.assert_allclose(guided(x, *times), truth, rtol=1e-12)
        clipped = thresholding.static(-1.5, 1.2)(guided)(x, *times)
        np.testing.assert_allclose(clipped, jnp.clip(truth, -1.5, 1.2), rtol=1e-12)
        dynamic = thresholding.dynamic(-1.0, 1.0, percentile=1.0)(guided)(x, *times)
        largest = jnp.maximum(jnp.abs(truth).max(axis=1), 1)[:, None]
        np.testing.assert_allclose(dynamic, truth / largest, rtol=1e-12)
    # in one batch: each condition is asked at both times
    label = jnp.array([0, 1, 2, 3, 4])

    def of_cond(cond):
        return lambda x, t, s: first(x, t, s) + cond["label"].astype(x.dtype)[:, None]

    pair = guidance.in_one_batch(of_cond, {"label": label}, {"label": -jnp.ones_like(label)})
    for end in (s, s[0]):
        positive, negative = pair(x, t, end)
        truth = first(x, t, end)
        np.testing.assert_allclose(
            positive, np.asarray(truth) + np.asarray(label)[:, None], rtol=1e-12
        )
        np.testing.assert_allclose(negative, truth - 1, rtol=1e-12)
    towards = guidance.with_classifier(sde, first, lambda x, t: -jnp.sum(x**2, axis=1) / 2, 3.0)
    gain = (sde.sigma(t) ** 2 / sde.alpha(t))[:, None]
    np.testing.assert_allclose(towards(x, t, s), first(x, t, s) - 3 * gain * x, rtol=1e-12)
