"""Rewards against formulas written out, by their names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.config import build
from score_sde.errors import ConfigError
from score_sde.models.model import Model
from score_sde.models.parametrization import eps, time
from score_sde.nets.classifier import Classifier
from score_sde.processes import VP
from score_sde.types import Frozen


def test_closed_forms():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2, 2)), jnp.float32)
    flat = np.asarray(x).reshape(5, 4)
    c = (1.0, -2.0, 0.5, 0.0)
    found = build("models.rewards", f"linear(direction={c})")(x)
    np.testing.assert_allclose(found, flat @ np.array(c), rtol=1e-5)
    found = build("models.rewards", "quadratic(centre=(0.5,), std=2.0)")(x)
    np.testing.assert_allclose(found, -((flat - 0.5) ** 2).sum(axis=1) / 8, rtol=1e-5)
    points = jnp.asarray([[1.0, 0.0], [0.0, 0.0], [0.3, -0.8]])
    found = build("models.rewards", "ring(components=4, radius=1.0, std=0.5, log_mass=2.0)")(points)
    means = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
    squares = ((np.asarray(points)[:, None] - means) ** 2).sum(axis=2)
    truth = np.log(np.exp(-squares / 0.5).mean(axis=1) / (2 * np.pi * 0.25)) + 2
    np.testing.assert_allclose(found, truth, rtol=1e-5)
    with pytest.raises(ConfigError, match="std must be above 0"):
        build("models.rewards", "quadratic(centre=(0.0,), std=0.0)")


def test_the_log_probability_of_a_class():
    """It is that of the network's logits, at the least noise, times the scale; the parameters are
    leaves, so that a compiled program takes them as arguments."""
    net = Classifier(num_classes=3, nf=8, ch_mult=(1,), num_res_blocks=1, attn_resolutions=())
    model = Model(net, VP(), eps(time()))
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    params = model.init(jax.random.key(1), x)

    def moved(a):  # so that the logits of the classes differ
        return a + 0.1 * jnp.sin(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape)

    params = jax.tree.map(moved, params)
    needs = build("models.rewards", "log_class(workdir='runs/classifier', label=2, scale=0.5)")
    assert needs.folders == ("runs/classifier",)
    reward = needs.make(Frozen(net, params, "", {"model": model, "gives": "log_prob"}))
    logits = model.network(params, x, jnp.asarray(model.sde.t_min))
    assert float(jnp.ptp(logits)) > 0.01
    np.testing.assert_allclose(reward(x), 0.5 * jax.nn.log_softmax(logits)[:, 2], rtol=1e-5)
    assert len(jax.tree.leaves(reward)) == len(jax.tree.leaves(params))
    with pytest.raises(ValueError, match="it is no classifier"):
        needs.make(Frozen(net, params, "", {"model": model, "gives": "denoiser"}))
    two = Model(Classifier(num_classes=2), VP(), eps(time()))
    with pytest.raises(ValueError, match="label 2 is none of its 2 classes"):
        needs.make(Frozen(two.net, params, "", {"model": two, "gives": "log_prob"}))
