"""What the loop carries: the times of a flow map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling
from score_sde.processes import VP
from score_sde.types import Solver


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_a_flow_map_is_exact_on_any_grid(x64, steps):
    """The flow of N(m, v) keeps (x - alpha m) / sqrt(alpha^2 v + sigma^2)."""
    sde, m, v = VP(), 0.7, 0.3

    def flow(x, t, s):
        std_t, std_s = (jnp.sqrt(sde.alpha(r) ** 2 * v + sde.sigma(r) ** 2) for r in (t, s))
        return sde.alpha(s) * m + std_s / std_t * (x - sde.alpha(t) * m)

    def flow_map(x, t, s):
        shrink = sde.sigma(s) / sde.sigma(t)
        return (flow(x, t, s) - shrink * x) / (sde.alpha(s) - shrink * sde.alpha(t))

    def ddim(noise, denoiser, x, t, s, state):
        value = denoiser(x, t, s)
        return sde.alpha(s) * value + sde.sigma(s) * sde.eps(x, t, value), state

    key = jax.random.key(0)
    x = sde.prior_sample(key, (5, 3))
    times = jnp.linspace(0.95, 0.1, steps + 1)
    solver = Solver(lambda x, times: (), ddim)
    out = jax.jit(lambda x: sampling.sample(key, solver, flow_map, x, times))(x)
    # Tens of operations a step on numbers of order 1. ddim multiplies by what flow_map divided by.
    truth = flow(x, times[0], times[-1])
    np.testing.assert_allclose(out.x, truth, atol=100 * steps * np.finfo(float).eps)
    assert out.nfe == steps
