"""The autoencoding objective: the optimum of a linear one is known; turns; perceptual features."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.codecs import moments
from score_sde.conditioning.labels import Labels
from score_sde.models import parametrization
from score_sde.models.model import Model
from score_sde.nets.classifier import Classifier
from score_sde.processes import VP
from score_sde.training import perceptual, time_law
from score_sde.training.objective import Training
from score_sde.training.objectives.autoencoding import autoencoding, turned
from score_sde.types import Frozen
from tests.latents import Blocks

VARIANCES = np.array([3.0, 1.5, 0.8, 0.4])  # of Gaussian data along each axis


class Linear(nn.Module):
    """mean = x m, decode(z) = z w; a variance for each latent."""

    def setup(self):
        self.m = self.param("m", nn.initializers.normal(), (4, 3))
        self.log_variance = self.param("log_variance", nn.initializers.normal(), (3,))
        self.w = self.param("w", nn.initializers.normal(), (3, 4))

    def encode(self, x):
        mean = x @ self.m
        return jnp.concatenate([mean, jnp.broadcast_to(self.log_variance, mean.shape)], axis=-1)

    def decode(self, z):
        return z @ self.w


def objective(net, **options):
    c_noise = parametrization.time(scale=999.0)
    model = Model(net, VP(), parametrization.eps(c_noise))
    return autoencoding(model, Labels(1), time_law=time_law.uniform(), **options)


def optimum(beta):
    """Of a beta-VAE whose decoder has the variance 1: an axis with l > beta is kept, with
    |w|^2 = l - beta, mean x w / l and the variance beta / l; the others are collapsed. The loss is
    a sum over axes, beta/2 (1 + ln(l/beta)) of one that is kept and l/2 of one that is not."""
    kept = VARIANCES[:3] > beta
    size = np.sqrt(np.where(kept, VARIANCES[:3] - beta, 0.0))
    params = {
        "m": np.eye(4)[:, :3] * size / VARIANCES[:3],
        "log_variance": np.where(kept, np.log(beta / VARIANCES[:3]), 0.0),
        "w": np.eye(4)[:3] * size[:, None],
    }
    kept = np.append(kept, False)  # there are three latents
    with np.errstate(invalid="ignore"):
        terms = np.where(kept, beta / 2 * (1 + np.log(VARIANCES / beta)), VARIANCES / 2)
    return jax.tree.map(jnp.asarray, params), float(np.sum(terms))


@pytest.fixture
def expected(x64, monkeypatch):
    """The exact expectation of the loss, over Gaussian data and noise: it has no more than squares
    of both, so points with their mean and covariance do, 8 of the data, with 6 of the noise for
    each."""
    data = np.concatenate([s * np.diag(np.sqrt(4 * VARIANCES)) for s in (1, -1)])
    noise = np.concatenate([s * np.sqrt(3) * np.eye(3) for s in (1, -1)])
    x, z = jnp.asarray(np.repeat(data, 6, axis=0)), jnp.asarray(np.tile(noise, (8, 1)))

    def sample(key, found):
        mean, std = moments.mean_and_std(found)
        return mean + std * z

    monkeypatch.setattr("score_sde.training.objectives.autoencoding.moments.sample", sample)

    def loss(params, **options):
        losses = objective(Linear(), **options).losses
        return jnp.mean(losses(params, jax.random.key(0), {"x": x}, None).value)

    return loss


@pytest.mark.parametrize("beta", [0.3, 1.0, 2.0])
def test_the_optimum_of_a_linear_autoencoder(expected, beta):
    """There the loss is the closed form, its gradient is 0, and in no direction it falls."""
    params, truth = optimum(beta)
    value, slope = jax.value_and_grad(expected)(params, kl_weight=beta)
    assert float(value) == pytest.approx(truth, abs=1e-10)
    for leaf in jax.tree.leaves(slope):
        np.testing.assert_allclose(leaf, 0, atol=1e-10)
    rng = np.random.default_rng(0)
    for _ in range(10):
        away = jax.tree.map(lambda a: a + 0.05 * rng.normal(size=a.shape), params)
        assert expected(away, kl_weight=beta) > truth + 1e-5
    # the slope tells others apart: column norms of l, and of l - 2 beta
    for wrong in (0.0, 2.0):
        size = np.sqrt(np.maximum(VARIANCES[:3] - wrong * beta, 0.0))
        other = {**params, "w": jnp.asarray(np.eye(4)[:3] * size[:, None])}
        assert np.abs(jax.grad(expected)(other, kl_weight=beta)["w"]).max() > 1e-2


def test_the_bound_is_the_evidence_of_the_optimal_model(expected):
    """With beta = 1 and all axes kept, the loss and d/2 ln 2 pi are the entropy of N(0, l): the
    model is w^T w + 1 = diag(l)."""
    params, _ = optimum(1.0)
    loss = expected(params, kl_weight=1.0)
    kept = VARIANCES > 1
    entropy = np.sum(np.log(2 * np.pi * np.e * VARIANCES[kept]) / 2)
    # of a collapsed axis the model has the variance 1
    entropy += np.sum((np.log(2 * np.pi) + VARIANCES[~kept]) / 2)
    assert float(loss + 4 / 2 * np.log(2 * np.pi)) == pytest.approx(entropy, abs=1e-10)


def test_the_absolute_error(x64):
    net, x = Linear(), jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)))
    params = net.init(jax.random.key(0), x, method="encode")["params"]
    params = {**params, "w": params["m"].T + 0.3}
    batch, key = {"x": x}, jax.random.key(2)
    ours = objective(net, error="l1", kl_weight=0.2).losses(params, key, batch, None).value
    found = net.apply({"params": params}, x, method="encode")
    z = moments.sample(jax.random.split(key, 3)[1], found)
    truth = np.abs(x - z @ params["w"]).sum(axis=1) + 0.2 * moments.kl(found)
    np.testing.assert_allclose(ours, truth, rtol=1e-12)


def test_turns_of_images_and_latents(x64):
    """A decoder of squares of one pixel commutes with turns: its loss stays. One whose latents have
    a place for each pixel of a square does not. What `turned` gives are quarter turns, of the right
    share."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 4, 4, 1)))
    batch, key = {"x": x}, jax.random.key(1)

    def losses(n, equivariance):
        net = Blocks(n)
        params = jax.tree.map(lambda a: a * 1.5, net.init(jax.random.key(0), x)["params"])
        options = {"kl_weight": 0.1, "equivariance": equivariance}
        made = objective(net, **options).losses
        return tuple(np.asarray(made(params, key, batch, t).value) for t in (Training(), None))

    plain, _ = losses(1, 0.0)
    for found in losses(1, 0.7):
        np.testing.assert_allclose(found, plain, rtol=1e-9)
    trained, evaluated = losses(2, 0.7)
    np.testing.assert_allclose(evaluated, losses(2, 0.0)[0], rtol=1e-9)
    changed = trained > evaluated + 1
    assert abs(changed.mean() - 0.7) < 4 * np.sqrt(0.21 / 64)

    a, b = (np.asarray(a) for a in turned(jax.random.split(key, 3)[2], 0.7, x, 2 * x))
    np.testing.assert_array_equal(b, 2 * a)
    turns = [
        [np.array_equal(np.rot90(u, k), v) for k in range(4)] for u, v in zip(x, a, strict=True)
    ]
    assert np.sum(turns, axis=1).tolist() == [1] * 64
    np.testing.assert_array_equal(np.argmax(turns, axis=1) > 0, changed)
    assert set(np.argmax(turns, axis=1)) == {0, 1, 2, 3}


def test_random_convolutions(x64):
    """Squares times the filters that a key draws, rectified; their mean square is that of x."""
    x = np.random.default_rng(0).normal(size=(3, 20, 20, 2))
    (found,) = perceptual.random_convolutions(patch=8, stride=4, channels=256, seed=7)(
        jnp.asarray(x)
    )
    filters = np.asarray(jax.random.normal(jax.random.key(7), (8, 8, 2, 256), float)) / 8
    for i, j in ((0, 0), (2, 3)):
        square = x[:, 4 * i : 4 * i + 8, 4 * j : 4 * j + 8]
        truth = np.maximum(np.einsum("bhwc,hwcd->bd", square, filters), 0)
        np.testing.assert_allclose(found[:, i, j], truth, atol=1e-12)
    assert found.shape[1:3] == (4, 4)
    # 2/n times n squares, and half of them are cut
    assert float(jnp.mean(found**2)) == pytest.approx(np.mean(x**2), rel=0.05)


def test_a_perceptual_term(x64):
    """weight n times the mean square of the difference of features."""

    class Half(Blocks):
        def decode(self, z):
            return super().decode(z) / 2

    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4, 4, 1)))
    params = Half().init(jax.random.key(0), x)["params"]
    batch, key, training = {"x": x}, jax.random.key(2), Training()

    def features(x):
        return [x[:, :2] ** 2, x]

    def value(**options):
        made = objective(Half(), kl_weight=0.2, **options)
        return made.losses(params, key, batch, training).value

    added = value(perceptual=features, perceptual_weight=0.5) - value()
    y = np.asarray(x) / 2  # but for noise of e^-15
    means = [
        np.mean((a - b) ** 2, axis=(1, 2, 3)) for a, b in zip(features(x), features(y), strict=True)
    ]
    np.testing.assert_allclose(added, 0.5 * 16 * sum(means), rtol=1e-5)


def test_features_of_a_classifier():
    """What comes out of its residual blocks, at the least noise; its parameters are leaves of the
    objective's losses."""
    net = Classifier(nf=4, ch_mult=(1,), num_res_blocks=1, attn_resolutions=(), dropout=0.0)
    c_noise = parametrization.time(scale=999.0)
    model = Model(net, VP(), parametrization.eps(c_noise))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 1)), jnp.float32)
    params = net.init(jax.random.key(0), x, jnp.ones(2))["params"]
    rng = np.random.default_rng(1)  # what the last layer of a block starts with is nearly 0
    params = jax.tree.map(
        lambda a: a + jnp.asarray(0.2 * rng.normal(size=a.shape), a.dtype), params
    )
    part = perceptual.classifier("runs/classifier")
    assert part.folders == ("runs/classifier",)
    features = part.make(Frozen(net, params, "", {"model": model}))
    found = features(x)
    noise = jnp.full(2, 999 * model.sde.t_min)
    _, truth = net.apply({"params": params}, x, noise, capture_intermediates=True)
    names = ("down_0_0", "mid_0", "mid_1")
    for ours, name in zip(found, names, strict=True):  # alpha is 1 - 5e-7 at t_min
        np.testing.assert_allclose(ours, truth["intermediates"][name]["__call__"][0], atol=1e-5)
    assert min(float(jnp.std(a)) for a in found) > 0.1
    trained = objective(Blocks(), perceptual=features)
    assert {a.shape for a in jax.tree.leaves(trained.losses)} == {
        a.shape for a in jax.tree.leaves(params)
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"error": "l3"}, "unknown error 'l3': one of l1, l2"),
        ({"kl_weight": -1.0}, "must be 0 or more"),
        ({"equivariance": 1.5}, "from 0 to 1"),
        ({"net": nn.Dense(1)}, "Dense is no autoencoder"),
    ],
)
def test_what_is_no_objective(options, message):
    with pytest.raises(ValueError, match=message):
        objective(**{"net": Linear(), **options})
