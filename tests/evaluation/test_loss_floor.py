"""The floor of the loss: closed forms of a Gaussian, and the identity of Pythagoras."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.evaluation.loss_floor import loss_floor
from score_sde.processes import EDM, VP, Flow
from score_sde.processes.exact import Dataset, Gaussian

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(0)
VARIANCE = np.array([2.0, 0.5, 0.03])
LOG_SNR = np.array([-3.0, 0.0, 4.0])


@pytest.mark.parametrize("sde", [VP(), EDM(), Flow()])
def test_of_a_gaussian(sde):
    """The floor is the mean of SNR l/(SNR l + 1). That of c D* has SNR (1 - c)^2 E|D*|^2 more,
    with E|D*|^2 = sum of SNR l^2/(SNR l + 1)."""
    law, n = Gaussian(jnp.zeros(3), jnp.diag(jnp.asarray(VARIANCE))), 20_000
    x, exact = law.sample(jax.random.key(1), n), law.denoiser(sde)
    times = sde.t_of_log_snr(jnp.asarray(LOG_SNR))
    run = jax.jit(lambda c: loss_floor(KEY, sde, lambda x, t: c * exact(x, t), exact, x, times))
    snr = np.exp(LOG_SNR)[:, None]
    floor = (snr * VARIANCE / (snr * VARIANCE + 1)).mean(axis=1)
    size = (snr * VARIANCE**2 / (snr * VARIANCE + 1)).mean(axis=1) * snr[:, 0]
    found, ideal = run(0.7), run(1.0)
    np.testing.assert_array_equal(ideal.above, 0)
    np.testing.assert_allclose(found.log_snr, LOG_SNR, atol=1e-9)
    for value, error, truth in (
        (found.floor, found.floor_error, floor),
        (found.above, found.above_error, 0.09 * size),
    ):
        assert np.all(np.abs(value - truth) < 4 * error)
        assert np.all(error < 0.05 * truth)


def test_of_a_data_set():
    """E|x_0 - D|^2 is the floor and what is above it, and the floor E|x_0|^2 - E|D*|^2."""
    sde, points = VP(), jax.random.normal(jax.random.key(2), (5, 2))
    exact, n = Dataset(points).denoiser(sde), 40_000
    x = jnp.tile(points, (n // 5, 1))
    times = sde.t_of_log_snr(jnp.asarray(LOG_SNR))

    def wrong(x, t):
        return 0.5 * exact(x, t) + 0.1

    found = jax.jit(lambda: loss_floor(KEY, sde, wrong, exact, x, times))()
    for i, t in enumerate(times):
        x_t = sde.perturb(jax.random.key(3 + i), x, t)
        snr = np.exp(LOG_SNR[i])
        best = np.sum(np.asarray(exact(x_t, t)) ** 2, axis=1)
        floor = snr * (np.sum(np.asarray(x) ** 2, axis=1) - best) / 2
        loss = snr * np.sum(np.asarray(x - wrong(x_t, t)) ** 2, axis=1) / 2
        spread = floor.std() / np.sqrt(n) + float(found.floor_error[i])
        assert abs(floor.mean() - float(found.floor[i])) < 4 * spread
        spread = loss.std() / np.sqrt(n) + float(found.floor_error[i] + found.above_error[i])
        assert abs(loss.mean() - float(found.floor[i] + found.above[i])) < 4 * spread
    # half of them do not count, and then their values do not matter
    mask = jnp.arange(n) < n // 2
    other = jnp.where(mask[:, None], x, 7.0)
    halves = [loss_floor(KEY, sde, wrong, exact, a, times[:1], mask=mask) for a in (x, other)]
    np.testing.assert_array_equal(halves[0].floor, halves[1].floor)
