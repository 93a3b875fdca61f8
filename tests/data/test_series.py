"""Series: their covariances and the law of a forecast are those of the equations of Yule and
Walker, of Lyapunov and of conditional normal laws."""

import numpy as np
import pytest
from scipy.linalg import solve_discrete_lyapunov

from score_sde.config import build
from score_sde.data.series import AR2
from score_sde.errors import DataError

CASES = [(1.6, -0.8), (0.3, 0.5), (-0.9, -0.2), (0.0, 0.0)]


def joint(a, b, length):
    """The covariance of so many numbers by the state (x_t, x_{t-1}): its own solves Lyapunov's
    equation, and that with the state k steps before is a power of the transition."""
    step = np.array([[a, b], [1.0, 0.0]])
    state = solve_discrete_lyapunov(step, np.diag([AR2(a, b).noise ** 2, 0.0]))
    lags = [(np.linalg.matrix_power(step, k) @ state)[0, 0] for k in range(length)]
    i = np.arange(length)
    return np.array(lags)[np.abs(i[:, None] - i)]


@pytest.mark.parametrize("process", CASES)
def test_the_covariance_is_that_of_lyapunov(process):
    np.testing.assert_allclose(AR2(*process).covariance(12), joint(*process, 12), atol=1e-12)


@pytest.mark.parametrize("process", CASES)
def test_the_forecast_is_the_conditional_law(process):
    """Of the joint normal law, given eight numbers: S21 S11^-1 x and S22 - S21 S11^-1 S12."""
    cov, past = joint(*process, 13), np.random.default_rng(0).normal(size=(3, 8))
    gain = np.linalg.solve(cov[:8, :8], cov[:8, 8:]).T
    mean, spread = AR2(*process).forecast(past, 5)
    np.testing.assert_allclose(mean, past @ gain.T, atol=1e-9)
    np.testing.assert_allclose(spread, cov[8:, 8:] - gain @ cov[:8, 8:], atol=1e-9)


def test_channels_are_independent_and_of_their_process():
    """Covariances of n = 20,000 series, each within five standard errors, sqrt((1 + r^2) / n)."""
    data = build("data", "series(length=6)")
    flat = data.train.parts["series"].reshape(20_000, 12).astype(float)
    truth = np.zeros((6, 2, 6, 2))
    for i, process in enumerate(((1.6, -0.8), (0.3, 0.5))):
        truth[:, i, :, i] = joint(*process, 6)
    truth = truth.reshape(12, 12)
    error = np.sqrt((1 + truth**2) / 20_000)
    assert np.all(np.abs(np.cov(flat.T) - truth) < 5 * error)
    assert np.all(np.abs(flat.mean(axis=0)) < 5 / np.sqrt(20_000))
    assert data.features["series"].shape == data.train[0]["series"].shape == (6, 2)


def test_the_seed_decides():
    one, same, other = (build("data", f"series(train=5, seed={s})").train[0] for s in (0, 0, 1))
    np.testing.assert_array_equal(one["series"], same["series"])
    assert not np.any(one["series"] == other["series"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("coefficients=((0.6, 0.5),)", r"\(0\.6, 0\.5\) are of no stationary process"),
        ("coefficients=((0.0, -1.0),)", "no stationary process"),
        ("coefficients=()", "got 64, 20000, 1000 and 0"),
        ("length=1", "length must be at least 2"),
    ],
)
def test_wrong_numbers_are_named(options, message):
    with pytest.raises(DataError, match=message):
        build("data", f"series({options})")
