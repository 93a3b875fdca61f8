"""EDM2's loss, with an uncertainty that the network learns."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning.labels import Labels
from score_sde.models import parametrization
from score_sde.models.model import Model
from score_sde.nets.edm2 import EDM2UNet
from score_sde.processes import EDM
from score_sde.training import time_law, weighting
from score_sde.training.objective import Training
from score_sde.training.objectives.denoising import denoising
from score_sde.training.objectives.uncertainty import uncertainty

LAW, WEIGHTING = time_law.log_normal(-0.4, 1.0), weighting.edm(-0.4, 1.0)


class Linear(nn.Module):
    """F = a x, and u = b + c noise."""

    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        return self.param("a", nn.initializers.ones, ()) * x

    def log_variance(self, noise):
        params = self.variables["params"]
        return params["b"] + params["c"] * noise


def model():
    return Model(Linear(), EDM(), parametrization.edm(parametrization.quarter_log_sigma()))


def losses(objective, params, seed=0):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 4)) / 2, jnp.float32)
    batch = {"x": x, "cond": {"label": jnp.zeros(64, jnp.int32)}}
    return objective.losses(params, jax.random.key(seed), batch, Training())


def test_the_loss_is_that_of_denoising_over_its_estimate():
    """L / e^u + u, with the same draws; u is told c_noise."""
    options = {"time_law": LAW, "weighting": WEIGHTING}
    plain = denoising(model(), Labels(1), **options)
    whole = uncertainty(model(), Labels(1), **options)
    params = {"a": jnp.float32(0.3), "b": jnp.float32(-0.4), "c": jnp.float32(0.8)}
    expected, found = losses(plain, params), losses(whole, params)
    u = -0.4 + 0.8 * np.log(expected.t) / 4
    np.testing.assert_allclose(found.value, expected.value / np.exp(u) + u, rtol=1e-5)
    np.testing.assert_array_equal(found.t, expected.t)
    # without an estimate it is the loss of EDM: 1 on the error of F where its law draws
    none = {**params, "b": jnp.float32(0), "c": jnp.float32(0)}
    np.testing.assert_allclose(losses(whole, none).value, expected.value, rtol=1e-5)


def test_the_best_estimate_is_the_log_of_the_loss():
    """The gradient in u is 1 - L / e^u: 0 at u = ln of the mean loss, for a u of all levels."""
    objective = uncertainty(model(), Labels(1), time_law=LAW, weighting=WEIGHTING)
    plain = denoising(model(), Labels(1), time_law=LAW, weighting=WEIGHTING)
    params = {"a": jnp.float32(0.3), "b": jnp.float32(0), "c": jnp.float32(0)}
    best = jnp.log(jnp.mean(losses(plain, params).value))

    def mean(b):
        return jnp.mean(losses(objective, {**params, "b": b}).value)

    assert abs(float(jax.grad(mean)(best))) < 1e-5
    assert float(mean(best)) < min(float(mean(best - 0.1)), float(mean(best + 0.1)))


def test_a_network_without_an_estimate_is_refused():
    with pytest.raises(ValueError, match="does not estimate its error"):
        uncertainty(model()._replace(net=nn.Dense(1)), Labels(1), time_law=LAW, weighting=WEIGHTING)


def test_edm2_has_gradients_in_all_that_it_learns():
    """The gains that start at 0 as well; its fixed frequencies have none."""
    sizes = {"model_channels": 8, "num_classes": 3, "channels_per_head": 8, "logvar_channels": 8}
    net = EDM2UNet(**sizes, channel_mult=(1, 2), num_blocks=1, attn_resolutions=())
    whole = model()._replace(net=net)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)) / 2, jnp.float32)
    batch = {"x": x, "cond": {"label": jnp.array([0, 1, 2, -1])}}
    objective = uncertainty(whole, Labels(3), time_law=LAW, weighting=WEIGHTING)
    params = jax.jit(whole.init)(jax.random.key(0), x, batch["cond"])
    assert params["out_gain"] == params["enc_0_block0"]["emb_gain"] == 0
    params = jax.tree.map(lambda a: a + 0.3 if a.ndim == 0 else a, params)

    @jax.jit
    def slope(params):
        return jax.grad(
            lambda params: jnp.mean(
                objective.losses(params, jax.random.key(1), batch, Training()).value
            )
        )(params)

    for path, leaf in jax.tree_util.tree_leaves_with_path(slope(params)):
        name = jax.tree_util.keystr(path)
        assert (np.abs(leaf).max() > 0) == ("fourier" not in name), name
