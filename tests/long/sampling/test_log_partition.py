"""Bounds of ln Z against mixtures whose Z is known."""

import jax
import jax.numpy as jnp
import pytest

from score_sde.processes import VE, VP, Flow, exact
from score_sde.sampling import grids, log_partition

pytestmark = pytest.mark.usefixtures("x64")

LOG_Z = 1.7
N = 4096


def weights(sde, denoiser, law, n, key=0):
    """Log-weights of paths of the sampler and of noised samples."""
    keys = jax.random.split(jax.random.key(key), 3)
    times = grids.log_snr(sde, n)

    def log_density(x):  # of x at t_min
        return law.log_prob(sde, x, jnp.asarray(sde.t_min)) + LOG_Z

    x = sde.perturb(keys[0], law.sample(keys[1], N), jnp.asarray(sde.t_min))
    up = log_partition.of_samples(keys[2], sde, denoiser, log_density, times, x)
    down = log_partition.of_sampler(keys[2], sde, denoiser, log_density, times, x.shape)
    return down.log_weight, up.log_weight


@pytest.mark.parametrize(
    "sde",
    [VP(t_min=1e-3), VE(sigma_max=20.0), Flow(t_min=1e-2)],
    ids=lambda sde: type(sde).__name__,
)
def test_ln_z_is_between_the_bounds_and_their_gap_closes(sde):
    """With the exact denoiser of a mixture what is left of the gap is due to the steps: of order 1
    in their length."""
    law = exact.three_gaussians()
    gaps = []
    for n in (32, 64):
        down, up = map(log_partition.mean, weights(sde, law.denoiser(sde), law, n))
        assert down.value - 3 * down.standard_error < LOG_Z < up.value + 3 * up.standard_error
        gaps.append(up.value - down.value)
    assert 1.7 < gaps[0] / gaps[1] < 2.4


def test_with_a_wrong_denoiser_the_mean_weight_is_z():
    """The bounds are loose, and the estimate is right. Without the terms of the steps it would be
    off by many standard errors."""
    sde, law = VP(t_min=1e-3), exact.three_gaussians()
    exactly = law.denoiser(sde)

    def wrong(x, t):
        return exactly(x, t) + 0.1 * sde.sigma(t) / sde.alpha(t)

    down, up = weights(sde, wrong, law, 128)
    estimate = log_partition.log_mean(down)
    assert abs(estimate.value - LOG_Z) < 4 * estimate.standard_error < 0.4
    assert log_partition.mean(down).value < LOG_Z - 0.1
    assert log_partition.mean(up).value > LOG_Z + 0.1
    # the weights of noised samples are those of the same law: E_p[e^-w] = 1/Z
    inverse = log_partition.log_mean(-up)
    assert abs(inverse.value + LOG_Z) < 4 * inverse.standard_error < 0.4
