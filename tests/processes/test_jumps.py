"""One step of DDIM and its inverse."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling, solvers
from score_sde.processes import EDM, VE, VP, Cosine, Flow, SubVP, flow, jump, jump_value
from score_sde.processes.exact import three_gaussians
from score_sde.processes.jumps import coefficients

SDES = [VP(), SubVP(), Cosine(), VE(), EDM(), Flow()]
KEY = jax.random.key(0)


def normal(seed, dtype=jnp.float64):
    return jax.random.normal(jax.random.key(seed), (5, 2), dtype)


def times(sde, dtype=jnp.float64):
    """Five pairs, down and up."""
    start = jnp.array([-5.0, -1.0, 0.0, 3.0, 5.0], dtype)
    end = jnp.array([4.0, 0.5, -2.0, 3.1, -5.0], dtype)
    return sde.t_of_log_snr(start), sde.t_of_log_snr(end)


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
def test_a_jump_is_a_step_of_ddim(sde, x64):
    """alpha_s D + sigma_s (x_t - alpha_t D)/sigma_t, written out, and its inverse."""
    x, value, (t, s) = normal(1), normal(2), times(sde)
    a_t, b_t, a_s, b_s = (f(u)[:, None] for u in (t, s) for f in (sde.alpha, sde.sigma))
    x_s = jump(sde, x, t, s, value)
    by_hand = a_s * value + b_s * (x - a_t * value) / b_t
    np.testing.assert_allclose(x_s, by_hand, rtol=1e-12, atol=1e-12 * np.abs(x).max())
    back = jump_value(sde, x, t, s, x_s)
    # k of a jump that is short, or that goes up at little noise, is small beside r x
    r, k = coefficients(sde, t, s)
    lost = np.asarray(1e-14 * (1 + jnp.abs(r / k) + jnp.abs(1 / k)))[:, None]
    assert np.all(np.abs(back - value) < lost * (10 + np.abs(x)))
    np.testing.assert_array_equal(flow(sde, lambda x_t, t, s: value)(x, t, s), x_s)


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
def test_no_jump_changes_nothing(sde):
    """To the last bit, whatever D is."""
    x, (t, _) = normal(1, jnp.float32), times(sde, jnp.float32)
    np.testing.assert_array_equal(jump(sde, x, t, t, 1e6 * normal(2, jnp.float32)), x)


@pytest.mark.parametrize("sde", [VP(), EDM(), Flow()], ids=lambda s: type(s).__name__)
def test_a_short_jump_is_right_to_the_rounding_of_its_log_snr(sde):
    """In float32."""
    with jax.enable_x64(True):
        t = sde.t_of_log_snr(jnp.array([-3.0, 0.0, 3.0])).astype(jnp.float32)
        s = t * (1 - jnp.float32(2.0**-12))  # a number of float32
        wide = [u.astype(jnp.float64) for u in (t, s)]
        a_t, b_t, a_s, b_s = (f(u) for u in wide for f in (sde.alpha, sde.sigma))
        truth = np.asarray(a_s - b_s / b_t * a_t)
        length = np.asarray(sde.log_snr(wide[1]) - sde.log_snr(wide[0]))
        _, k = coefficients(sde, t, s)
    assert k.dtype == jnp.float32
    # the log-SNR is at most 3: a logarithm, and its double, round it
    np.testing.assert_allclose(k, truth, rtol=8 * 2.0**-23 / length.min())


def test_a_jump_from_nothing_but_noise(x64):
    """Where alpha is 0 the value is E[x_0], and sigma_s x_t is what is left of the noise; where
    sigma is 0 the end is the value."""
    sde, x, value = Flow(t_min=0.0, t_max=1.0), normal(1), normal(2)
    start, middle, end = (jnp.asarray(t) for t in (1.0, 0.25, 0.0))
    found = jump(sde, x, start, middle, value)
    np.testing.assert_allclose(found, 0.75 * value + 0.25 * x, rtol=1e-12)
    np.testing.assert_allclose(jump_value(sde, x, start, middle, found), value, rtol=1e-12)
    np.testing.assert_allclose(jump(sde, x, middle, end, value), value, rtol=1e-12)


def test_two_jumps_with_one_value_are_one_jump(x64):
    """The line on which D and the noise stay what they are."""
    for sde in SDES:
        x, value, (t, s) = normal(1), normal(2), times(sde)
        u = sde.t_of_log_snr(jnp.zeros_like(t))
        two = jump(sde, jump(sde, x, t, u, value), u, s, value)
        once = jump(sde, x, t, s, value)
        np.testing.assert_allclose(two, once, rtol=1e-11, atol=1e-11 * np.abs(x).max())


def test_jumps_of_a_denoiser_are_what_the_solver_takes(x64):
    """A denoiser in the place of a flow map: n jumps are n steps of DDIM."""
    sde, law = Flow(), three_gaussians()
    denoiser, grid = law.denoiser(sde), jnp.linspace(0.9, 0.1, 9)
    x = normal(3)
    drawn = jax.jit(lambda x: sampling.sample(KEY, solvers.ddim(sde), denoiser, x, grid).x)(x)
    end = flow(sde, lambda x_t, t, s: denoiser(x_t, t))
    end = jax.jit(end)
    for t, s in itertools.pairwise(grid):
        x = end(x, t, s)
    np.testing.assert_allclose(x, drawn, rtol=1e-11)
