"""Laws of t: quantile and density belong together, whatever the process."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from score_sde.processes import DDPM, EDM, VE, VP, Cosine, Flow, SubVP
from score_sde.training import time_law

pytestmark = pytest.mark.usefixtures("x64")
SDES = [VP(), SubVP(), VE(), Cosine(), EDM(), Flow()]
LAWS = {
    "uniform": time_law.uniform(),
    "log_snr_uniform": time_law.log_snr_uniform(),
    "log_normal": time_law.log_normal(-0.8, 1.6),
    "logit_normal": time_law.logit_normal(0.3, 1.2),
}


@pytest.mark.parametrize("law", LAWS)
def test_density_is_the_derivative_of_the_quantile(law):
    law = LAWS[law]

    @jax.jit
    def of_every_process(u):
        out = []
        for sde in SDES:
            quantile = functools.partial(law.quantile, sde)
            t, rate = jax.jvp(quantile, (u,), (jnp.ones_like(u),))
            out.append((t, rate, law.density(sde, t)))
        return out

    found = of_every_process(jnp.linspace(0.02, 0.98, 97))
    for sde, (t, rate, density) in zip(SDES, found, strict=True):
        relative = (sde.t_max - sde.t_min) / np.abs(rate)
        np.testing.assert_allclose(density, relative, rtol=1e-6, err_msg=str(sde))
        assert np.all((t >= sde.t_min) & (t <= sde.t_max)), sde


def test_log_normal_draws_the_stated_noise_levels():
    sde = EDM(t_min=1e-6, t_max=1e6)
    t = jax.jit(lambda key: time_law.log_normal().sample(key, sde, 2000, float))(jax.random.key(0))
    assert stats.kstest(np.log(np.asarray(t)), stats.norm(-1.2, 1.2).cdf).pvalue > 0.01


def test_stratified_draws_fill_every_cell():
    t = time_law.uniform(stratified=True).sample(jax.random.key(1), VP(t_min=0.0), 64, float)
    cells = np.floor(np.asarray(t) * 64).astype(int)
    assert sorted(cells) == list(range(64))


def test_grid_points_are_those_of_the_chain():
    sde = DDPM(num_steps=10, beta_max=5.0)
    t = time_law.grid_points(10).sample(jax.random.key(2), sde, 5000, float)
    index = np.asarray(t) * 9
    np.testing.assert_allclose(index, np.round(index), atol=1e-12)
    counts = np.bincount(np.round(index).astype(int), minlength=10)
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("law", LAWS)
def test_a_law_integrates_to_one(law):
    sde = VP(t_min=1e-3)
    density = jax.jit(functools.partial(LAWS[law].density, sde))
    total, _ = integrate.quad(
        lambda t: float(density(jnp.asarray(t))),
        sde.t_min,
        sde.t_max,
        limit=200,
        points=[0.002, 0.01, 0.1],
    )
    np.testing.assert_allclose(total / (sde.t_max - sde.t_min), 1, rtol=1e-4)
