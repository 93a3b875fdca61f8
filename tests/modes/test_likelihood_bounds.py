"""Bounds of likelihoods of a model that is known, by their names in a config.

A network whose output is zero is, in EDM's parametrization, the exact denoiser of N(0, STD^2 I).
So pixels are independent, and a bound is a sum over pixels.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import score_sde
from configs import signals
from score_sde.errors import ConfigError
from score_sde.experiment import likelihoods, workdirs
from score_sde.experiment.build import build_experiment
from score_sde.modes.likelihood import likelihood
from score_sde.processes import VP
from score_sde.processes.exact import Gaussian
from score_sde.sampling import variational
from score_sde.sampling.quadrature import Rule
from score_sde.types import Levels
from tests.modes.test_train import small, untrained

STD = 0.4
STEP = 2 / 17
VALUES = STEP * (np.arange(17) - 8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("gaussian")
    config = small(parametrization=f"edm(sigma_data={STD})", c_noise="log_snr(scale=0.1)")
    workdirs.store_config(config, workdir)
    untrained(config, workdir)
    return config, workdir, score_sde.load(workdir)


def off(model, bound, nats_of_values):
    """How far the bits of the test images are from those of their pixels' nats: mean and error."""
    raw = np.stack([model.data.test[i]["image"] for i in range(297)])
    found = model.log_likelihood(jax.random.key(0), raw, bound=bound, rtol=1e-4, atol=1e-4)
    truth = -np.asarray(nats_of_values)[raw].mean(axis=(1, 2, 3)) / np.log(2)
    away = np.asarray(found.bits_per_dim) - truth
    return away.mean(), away.std(ddof=1) / np.sqrt(297), found


def test_the_information_bound_of_dequantised_images(model):
    """E over u of ln N(x; 0, STD^2), in the volume of a cell."""
    square = VALUES**2 + STEP**2 / 12
    nats = -square / (2 * STD**2) - np.log(STD * np.sqrt(2 * np.pi)) + np.log(STEP)
    away, error, found = off(model[2], "information(draws=16)", nats)
    assert abs(away) < 4 * error + 1e-4
    assert error < 0.02
    assert found.kind == "lower bound"
    np.testing.assert_array_equal(found.nfe, 16)


def test_the_variational_bound_of_images(model):
    levels = Levels(VALUES[0], STEP, 17)
    process = variational.ended(VP(), levels, 1.5)
    law = Gaussian(jnp.zeros(1), jnp.full((1, 1), STD**2))
    nats = variational.by_quadrature(
        process, levels, law.denoiser(process), jnp.asarray(VALUES, jnp.float32)[:, None], Rule(20)
    )
    away, error, found = off(model[2], "variational(draws=32, tau=1.5)", nats)
    assert abs(away) < 4 * error + 1e-4
    assert error < 0.02
    # a probability: bits are those of the nats alone
    np.testing.assert_allclose(found.bits_per_dim, -found.nats / (64 * np.log(2)), rtol=1e-6)
    assert np.sum(np.exp(nats)) < 1  # below the law of the model, which sums to 1


def test_truncated_normal_dequantisation_of_images(model):
    """E ln p(x + u) + the entropy of q. The Jacobian is diagonal, so one probe is exact."""
    rho = STEP / 4  # tau = 2
    q = stats.truncnorm(-2, 2, scale=rho)
    variance = STD**2 + rho**2
    nats = -(VALUES**2 + q.var()) / (2 * variance) - np.log(2 * np.pi * variance) / 2 + q.entropy()
    away, error, _ = off(model[2], "dequantised(tau=2.0, rtol=1e-4, atol=1e-4)", nats)
    assert abs(away) < 4 * error + 1e-3  # of the ODE


def test_the_mode_says_what_its_number_is(model):
    config, workdir, _ = model
    config = config.copy_and_resolve_references()
    config.likelihood.update(bound="information(draws=2)", batch_size=304)
    result = likelihood(config, workdir)
    assert result["kind"] == "lower bound"
    assert result["nfe"] == 2


@pytest.mark.parametrize(
    ("probes", "bound", "kind"),
    [(0, None, "exact"), (1, None, "estimate"), (1, "information", "lower bound")],
)
def test_densities_of_real_numbers_are_exact_to_the_tolerance(probes, bound, kind):
    config = signals.get_config()
    config.likelihood.update(probes=probes, bound=bound)
    assert likelihoods.kind(config, build_experiment(config)) == kind


def test_a_bound_of_levels_needs_them():
    config = signals.get_config()
    config.likelihood.bound = "variational"
    with pytest.raises(ConfigError, match="the codec's x has none"):
        likelihoods.build_likelihood(config, build_experiment(config))
