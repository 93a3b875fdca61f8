"""The identities of flow maps: exact maps, and a map whose residuals have a closed form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.evaluation import flow_identities
from score_sde.evaluation.flow_identities import eulerian, lagrangian, part_of_tau, semigroup
from score_sde.models.flow_map import tau
from score_sde.processes import EDM, VP, Flow, SubVP
from score_sde.processes.exact import Gaussian, Mixture

MEASURES = {"eulerian": eulerian, "lagrangian": lagrangian, "semigroup": semigroup}
KEY = jax.random.key(0)
VARIANCE = 0.3
LEVELS = (-4.0, 0.0, 3.0)


def measured(sde, flow_map, x, levels=LEVELS, **options):
    """By name what each measure says at these levels of log-SNR."""
    times = sde.t_of_log_snr(jnp.array(levels))

    @jax.jit
    def all_of_them(x):
        return {
            name: measure(KEY, sde, flow_map, x, times, **options)
            for name, measure in MEASURES.items()
        }

    return all_of_them(x)


def of_steps(log_snr, part=0.5, variance=VARIANCE):
    """The residuals of a denoiser in the place of a flow map, on N(0, variance): a step of DDIM. On
    the rectified flow D = g(t) x with g = (1 - t) l/m and m = (1 - t)^2 l + t^2, all that is
    measured is a multiple of x, and the velocity is m'/(2 m) x."""

    def g(t):
        return (1 - t) * variance / ((1 - t) ** 2 * variance + t**2)

    t = 1 / (1 + np.exp(np.asarray(log_snr) / 2))
    s, u = part * t, (1 + part) / 2 * t
    m, m_rate = (1 - t) ** 2 * variance + t**2, 2 * (t - (1 - t) * variance)
    velocity = m_rate / (2 * m)
    g_rate = -variance / m - g(t) * m_rate / m
    # a step to a part p of t ends at p x + (1 - p) D
    of_end = g(s) * (part + (1 - part) * g(t)) - g(t)
    p = u / t
    of_middle = g(u) * (p + (1 - p) * g(t)) - g(t)
    residuals = {
        "eulerian": (1 - part) * (g_rate + g(t) * velocity),
        "lagrangian": of_end / s,
        "semigroup": (1 - s / u) * of_middle / (t - s),
    }
    return {name: np.abs(value / velocity) for name, value in residuals.items()}


def test_an_exact_flow_map_has_no_residual(x64):
    """To rounding: of jumps down, up and to t_min, and of a mixture."""
    sde = VP()
    law = Gaussian(jnp.array([0.4, -1.0]), jnp.array([[0.5, 0.2], [0.2, 0.3]]))
    for end in (part_of_tau, partial(part_of_tau, part=1.1)):
        for name, levels in measured(sde, law.flow_map(sde), law.sample(KEY, 8), end=end).items():
            np.testing.assert_allclose(levels.value, 0, atol=1e-9, err_msg=name)
    times = sde.t_of_log_snr(jnp.array(LEVELS))
    run = partial(eulerian, KEY, sde, law.flow_map(sde), end=flow_identities.to_t_min)
    found = jax.jit(lambda x: run(x, times).value)(law.sample(KEY, 8))
    np.testing.assert_allclose(found, 0, atol=1e-9)

    sde = Flow()
    law = Mixture(jnp.array([0.4, 0.6]), jnp.array([[-1.0], [0.7]]), 0.1 * jnp.ones((2, 1, 1)))
    for name, levels in measured(sde, law.flow_map(sde), law.sample(KEY, 8)).items():
        np.testing.assert_allclose(levels.value, 0, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("sde", [SubVP(), EDM(), Flow()], ids=lambda s: type(s).__name__)
def test_steps_of_ddim_have_their_known_residuals(sde, x64):
    """The same on every process; no chance is in them, since all is linear in x."""
    denoiser = Gaussian(jnp.zeros(2), VARIANCE * jnp.eye(2)).denoiser(sde)
    x = jax.random.normal(KEY, (4, 2))
    found = measured(sde, lambda x_t, t, s: denoiser(x_t, t), x, mask=jnp.arange(4) < 3)
    for name, truth in of_steps(LEVELS).items():
        np.testing.assert_allclose(found[name].value, truth, rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(found[name].standard_error, 0, atol=1e-9)
        np.testing.assert_allclose(found[name].log_snr, LEVELS, rtol=1e-9, atol=1e-9)


def test_steps_of_ddim_have_an_error_of_first_order(x64):
    """In the length of the flow: a fourth of it, a fourth of the residual."""
    sde = VP()
    denoiser = Gaussian(jnp.zeros(2), VARIANCE * jnp.eye(2)).denoiser(sde)
    x = jax.random.normal(KEY, (4, 2))
    far, near = (
        measured(sde, lambda x_t, t, s: denoiser(x_t, t), x, end=partial(part_of_tau, part=part))
        for part in (0.98, 0.995)
    )
    for name in MEASURES:
        np.testing.assert_allclose(far[name].value / near[name].value, 4, rtol=0.05, err_msg=name)


@pytest.mark.parametrize("sde", [VP(), EDM(), Flow()], ids=lambda s: type(s).__name__)
def test_a_part_of_tau(sde, x64):
    t = sde.t_of_log_snr(jnp.array([-6.0, 0.0, 6.0]))
    np.testing.assert_allclose(tau(sde, part_of_tau(sde, t)), tau(sde, t) / 2, rtol=1e-9)
    at_end = jnp.full(3, sde.t_min)
    np.testing.assert_array_equal(part_of_tau(sde, at_end), at_end)
