"""Weightings and the numbers that networks see, against the published formulas, in numpy."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from score_sde.models import parametrization
from score_sde.processes import EDM, VE, VP, Flow
from score_sde.training import weighting

pytestmark = pytest.mark.usefixtures("x64")
T = np.linspace(0.03, 0.97, 12)  # the SNR goes from 300 to 1e-4 on VP
SIGMA = np.geomspace(0.01, 50.0, 12)


def vp(t):
    """alpha and sigma of VP with beta from 0.1 to 20, and beta (Song et al. 2021, eq. 33)."""
    log_alpha = -(t**2) * 19.9 / 4 - t * 0.1 / 2
    return np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha)), 0.1 + 19.9 * t


def of_output(weight, prediction, sde, t):
    """The weight of the squared error of what the network predicts."""
    return weighting.network_weight(
        weight, prediction(parametrization.time()), sde, jnp.asarray(t, float)
    )


def equal(ours, truth):
    """All of these are a few exponentials, whose arguments are below 10 in size."""
    np.testing.assert_allclose(ours, truth, rtol=1e-12)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr(gamma):
    """min(SNR, gamma) |x_0 - D|^2 (Hang et al. 2023, sec. 3.4), and min(SNR, gamma) / SNR of the
    noise error."""
    alpha, sigma, _ = vp(T)
    snr = alpha**2 / sigma**2
    assert snr.min() < gamma < snr.max()
    weight = weighting.min_snr(gamma)
    equal(of_output(weight, parametrization.x0, VP(), T), np.minimum(snr, gamma))
    equal(of_output(weight, parametrization.eps, VP(), T), np.minimum(snr, gamma) / snr)


@pytest.mark.parametrize(("k", "gamma"), [(1.0, 1.0), (0.5, 0.5), (2.0, 1.5)])
def test_p2(k, gamma):
    """1 / (k + SNR)^gamma of the noise error (Choi et al. 2022, eq. 8)."""
    alpha, sigma, _ = vp(T)
    truth = 1 / (k + alpha**2 / sigma**2) ** gamma
    equal(of_output(weighting.p2(k, gamma), parametrization.eps, VP(), T), truth)


@pytest.mark.parametrize("bias", [2.0, -1.0])
def test_sigmoid(bias):
    """sigmoid(b - Lambda) in the integral over Lambda = ln(alpha^2/sigma^2) (Kingma & Gao 2023,
    tab. 1), and -dLambda/dt = beta / sigma^2 on VP."""
    alpha, sigma, beta = vp(T)
    truth = special.expit(bias - np.log(alpha**2 / sigma**2)) * beta / sigma**2
    equal(of_output(weighting.sigmoid(bias), parametrization.eps, VP(t_min=0.25), T), 0.75 * truth)


def test_likelihood():
    """g^2 / sigma^2 of the noise error, g^2 = beta on VP (Song et al. 2021b, eq. 7); times the
    length of the interval, for t is uniform on it."""
    _, sigma, beta = vp(T)
    truth = 0.75 * beta / sigma**2
    equal(of_output(weighting.likelihood(), parametrization.eps, VP(t_min=0.25), T), truth)


def test_simple():
    """1 of the noise error (Ho et al. 2020, eq. 14); |v - v^| = |z - z^| / alpha where
    alpha^2 + sigma^2 = 1."""
    alpha, _, _ = vp(T)
    equal(of_output(weighting.simple(), parametrization.eps, VP(), T), np.ones(12))
    equal(of_output(weighting.simple(), parametrization.v, VP(), T), alpha**2)


def test_v_and_truncated_snr():
    """(SNR + 1) |x_0 - D|^2, which is |v - v^|^2 where alpha^2 + sigma^2 = 1, and
    max(SNR, 1) |x_0 - D|^2 (Salimans & Ho 2022, sec. 4)."""
    alpha, sigma, _ = vp(T)
    snr = alpha**2 / sigma**2
    assert snr.min() < 1 < snr.max()
    equal(of_output(weighting.v(), parametrization.x0, VP(), T), snr + 1)
    equal(of_output(weighting.v(), parametrization.v, VP(), T), np.ones(12))
    equal(of_output(weighting.truncated_snr(), parametrization.x0, VP(), T), np.maximum(snr, 1))


def test_edm():
    """lambda(sigma) = (sigma^2 + sd^2) / (sigma sd)^2 of the data error, and 1 of the network's, at
    the density of ln(sigma) ~ N(m, s^2) (Karras et al. 2022, tab. 1)."""
    mean, std, data = -0.8, 1.4, 0.3
    sde = EDM(t_min=1e-8, t_max=1e8)
    density = stats.norm.pdf(np.log(SIGMA), mean, std) / SIGMA * (sde.t_max - sde.t_min)
    weight = weighting.edm(mean, std, data)
    by_data = (SIGMA**2 + data**2) / (SIGMA * data) ** 2
    equal(of_output(weight, parametrization.x0, sde, SIGMA), density * by_data)

    def network(c_noise):
        return parametrization.edm(c_noise, data)

    equal(of_output(weight, network, sde, SIGMA), density)


def test_flow():
    """1 of the velocity error on x_t = (1 - t) x_0 + t z (Lipman et al. 2022)."""
    equal(of_output(weighting.flow(), parametrization.flow, Flow(), T), np.ones(12))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.6)])
def test_sd3(mean, std):
    """pi(t; m, s) of the velocity error (Esser et al. 2024, eq. 19), tau for t where the process
    does not run from 0 to 1."""
    sde = Flow(t_min=0.01, t_max=0.99)
    tau = (T - 0.01) / 0.98
    logit = np.log(tau / (1 - tau))
    pi = np.exp(-((logit - mean) ** 2) / (2 * std**2)) / (tau * (1 - tau))
    pi /= std * np.sqrt(2 * np.pi)
    equal(of_output(weighting.sd3(mean, std), parametrization.flow, sde, T), pi)


def test_what_a_network_sees_for_the_noise():
    """c_noise of the published networks."""
    alpha, sigma, _ = vp(T)
    t = jnp.asarray(T)
    for conditioning, sde, times, truth in (
        (parametrization.quarter_log_sigma(), EDM(), SIGMA, np.log(SIGMA) / 4),
        (parametrization.quarter_log_sigma(), VP(), t, np.log(sigma / alpha) / 4),
        (parametrization.log_snr(0.5), VP(), t, np.log(alpha / sigma)),
        (parametrization.noise_level(), VE(), t, 0.01 * 5000**T),
        (parametrization.noise_level(), VP(), t, sigma),
        (parametrization.time(), VP(), t, 999 * T),
        # of SMLD's label 0 is the most noise; it is rounded
        (parametrization.reversed_time(), Flow(), t, 1 - T),
        (parametrization.reversed_time(3.0), Flow(), t, 3 - 3 * T),
        (parametrization.reversed_label(), VE(), t, np.round(999 * (1 - T))),
        (parametrization.reversed_label(11), VE(), jnp.asarray([1.0, 0.3, 0.0]), [0, 7, 10]),
    ):
        equal(conditioning(sde, jnp.asarray(times)), truth)
