"""Conditions, the networks that take them, and classifiers of noisy data."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from score_sde.conditioning import conditions
from score_sde.conditioning.conditioner import null, unknown
from score_sde.conditioning.labels import Labels, labels, log_prob
from score_sde.models import parametrization
from score_sde.models.model import Model
from score_sde.nets.classifier import Classifier
from score_sde.nets.mlp import MLP
from score_sde.nets.ncsnpp import NCSNpp
from score_sde.processes import VP
from score_sde.training import time_law, weighting
from score_sde.training.objective import Training
from score_sde.training.objectives.classification import classification
from score_sde.training.objectives.denoising import denoising
from score_sde.types import Feature

TRAINING = Training()


NOISE = jnp.array([0.3, 7.0])
TINY = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (), "dropout": 0.0}


def array(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def parameters(net, x, cond=None):
    """Random parameters, none of which are zero."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, NOISE, cond)["params"]

    def draw(spec):
        fan_in = np.prod(spec.shape[:-1]) if len(spec.shape) > 1 else 100
        return jnp.asarray(rng.normal(size=spec.shape) / np.sqrt(fan_in), spec.dtype)

    return jax.tree.map(draw, shapes)


@partial(jax.jit, static_argnums=0)
def apply(net, params, x, cond=None):
    return net.apply({"params": params}, x, NOISE, cond)


# --- values that say nothing -----------------------------------------------------------------


def everything(n=4000):
    numbers = jnp.arange(1, n + 1)
    return {
        "label": numbers,
        "vector": numbers[:, None].astype(float) * jnp.array([[1.0, 2.0]]),
        "image": jnp.broadcast_to(numbers[:, None, None, None], (n, 2, 2, 1)).astype(float),
    }


def empty(cond):
    return {name: jnp.full_like(a, -1 if name == "label" else 0) for name, a in cond.items()}


def test_labels_are_told_asked_for_and_checked():
    data = {"image": Feature((8, 8, 1), 17), "label": Feature((), 3)}
    conditioner = labels(data)
    assert conditioner == Labels(3)
    raw = {"image": np.zeros((4, 8, 8, 1)), "label": np.array([0, 2, 1, -1], np.int32)}
    cond = conditioner.encode(raw)
    assert cond.keys() == {"label"}
    np.testing.assert_array_equal(cond["label"], raw["label"])
    for nothing in (null(conditioner, cond), unknown(conditioner, 4)):
        np.testing.assert_array_equal(nothing["label"], [-1] * 4)
        assert nothing["label"].dtype == jnp.int32
    keys, numbers = jax.random.split(jax.random.key(0), 9000), jnp.arange(9000)
    asked = conditioner.request((2, -1))(keys, numbers)["label"]
    np.testing.assert_array_equal(asked, np.where(np.arange(9000) % 2, -1, 2))
    any_class = np.asarray(conditioner.request(())(keys, numbers)["label"])
    assert stats.chisquare(np.bincount(any_class, minlength=3)).pvalue > 1e-3
    alone = conditioner.request(())(keys[7:8], numbers[7:8])["label"]
    assert alone[0] == any_class[7]  # by its key, whatever the batch
    assert labels({"image": data["image"]}) == Labels(1)  # a single class
    assert null(conditioner, {})["label"].shape == (0,)
    for wrong in (3, -2, 1.0, "cat"):
        with pytest.raises(ValueError, match="none of the 3 classes 0 to 2, nor -1 for no class"):
            conditioner.request((0, wrong))


def test_an_example_loses_all_conditions_or_none():
    cond, n = everything(), 4000
    nothing = empty(cond)
    kept = conditions.drop(jax.random.key(0), cond, nothing, 0.3)
    lost = np.asarray(kept["label"]) < 0
    assert stats.binomtest(int(lost.sum()), n, 0.3).pvalue > 0.001
    for name in cond:
        np.testing.assert_array_equal(kept[name][lost], nothing[name][lost])
        np.testing.assert_array_equal(kept[name][~lost], cond[name][~lost])
    for rate, whole in ((0.0, cond), (1.0, nothing)):
        every = conditions.drop(jax.random.key(1), cond, nothing, rate)
        chex.assert_trees_all_equal(every, whole, strict=True)


def test_interleaved_conditions_are_neighbours():
    cond = everything(3)
    both = conditions.interleave(cond, empty(cond))
    np.testing.assert_array_equal(both["label"], [1, -1, 2, -1, 3, -1])
    np.testing.assert_array_equal(both["vector"][:, 1], [2, 0, 4, 0, 6, 0])
    np.testing.assert_array_equal(both["image"][::2], cond["image"])


def test_log_prob_of_labels():
    logits, label = array(3, 5) * 4, jnp.array([4, -1, 0])
    truth = special.log_softmax(np.asarray(logits, float), axis=1)
    expected = [truth[0, 4], 0, truth[2, 0]]
    np.testing.assert_allclose(log_prob(logits, label), expected, rtol=1e-5)


# --- networks --------------------------------------------------------------------------------


def test_a_vector_shifts_the_embedding():
    """W v beside the bias of the embedding; with the label -1 and a vector of zeros, nothing."""
    net = MLP(features=(8,), embedding_dim=4, num_classes=3, cond_features=2)
    x = array(2, 5)
    v = jnp.tile(jnp.array([[0.3, -2.0]]), (2, 1))
    cond = {"label": jnp.array([-1, -7]), "vector": v}
    params = parameters(net, x, cond)
    plain = {key: p for key, p in params.items() if key not in ("embed_label", "embed_vector")}
    bias = plain["embed_1"]["bias"] + v[0] @ params["embed_vector"]["kernel"]
    shifted = {**plain, "embed_1": {**plain["embed_1"], "bias": bias}}
    without = net.clone(num_classes=0, cond_features=0)
    ours, nothing = (apply(net, params, x, c) for c in (cond, empty(cond)))
    np.testing.assert_allclose(ours, apply(without, shifted, x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(nothing, apply(without, plain, x), rtol=1e-4, atol=1e-5)
    assert np.abs(ours - nothing).max() > 0.01


def test_an_image_joins_the_channels_of_the_input():
    """As in the network of all channels, of whose output the first are taken."""
    net = NCSNpp(**{**TINY, "ch_mult": (1,)}, cond_channels=2)
    x, image = array(2, 4, 4, 1), array(2, 4, 4, 2, seed=2)
    params = parameters(net, x, {"image": image})
    head = params["out_conv"]
    wide = {"kernel": jnp.tile(head["kernel"], (1, 1, 1, 3)), "bias": jnp.tile(head["bias"], 3)}
    whole = apply(
        net.clone(cond_channels=0), {**params, "out_conv": wide}, jnp.concatenate([x, image], -1)
    )
    ours = apply(net, params, x, {"image": image})
    assert ours.shape == x.shape
    np.testing.assert_allclose(ours, whole[..., :1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        (None, r"needs cond\['label'\] of shape \(2,\), which is missing"),
        ({"label": jnp.zeros(3, int)}, r"needs cond\['label'\] of shape \(2,\), not \(3,\)"),
        ({"label": jnp.zeros(2)}, r"cond\['label'\] must be integers, not float32"),
        ({"label": jnp.zeros(2, int)}, r"needs cond\['vector'\] of shape \(2, 4\), which is"),
        (
            {
                "label": jnp.zeros(2, int),
                "vector": jnp.zeros((2, 4)),
                "image": jnp.zeros((2, 4, 4)),
            },
            r"needs cond\['image'\] of shape \(2, 4, 4, 2\), not \(2, 4, 4\)",
        ),
    ],
)
def test_conditions_that_do_not_fit(cond, message):
    net = NCSNpp(**TINY, num_classes=3, cond_features=4, cond_channels=2)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(net.init, jax.random.key(0), array(2, 4, 4, 1), NOISE, cond)


def model(net):
    return Model(net, VP(), parametrization.eps(c_noise=parametrization.time(1.0)))


def test_a_model_initialises_what_its_network_takes():
    net = NCSNpp(**TINY, num_classes=3, cond_features=5, cond_channels=2)
    x = jax.ShapeDtypeStruct((7, 4, 4, 1), jnp.float32)
    cond = {"label": jnp.zeros(7, int), "vector": jnp.zeros((7, 5))}
    cond["image"] = jnp.zeros((7, 4, 4, 2))
    made, plain = (
        jax.eval_shape(lambda n=n: model(n).init(jax.random.key(0), x, cond))
        for n in (net, NCSNpp(**TINY))
    )
    assert made.keys() - plain.keys() == {"embed_label", "embed_vector"}
    assert made["embed_vector"]["kernel"].shape == (5, 32)
    assert made["conv_in"]["kernel"].shape == (3, 3, 3, 8)
    assert plain["conv_in"]["kernel"].shape == (3, 3, 1, 8)


# --- training --------------------------------------------------------------------------------


def test_losses_with_dropped_conditions_are_those_with_or_without():
    net = MLP(features=(8,), embedding_dim=4, num_classes=3)
    n = 200
    batch = {"x": array(n, 2), "cond": {"label": jnp.arange(n) % 3}}
    params = parameters(net, array(2, 2), {"label": jnp.zeros(2, int)})

    def losses(rate, key, batch, training=TRAINING):
        options = {"time_law": time_law.uniform(), "weighting": weighting.simple()}
        objective = denoising(model(net), Labels(3), drop_cond=rate, **options)
        return objective.losses(params, key, batch, training).value

    key = jax.random.key(2)
    key_losses = jax.random.split(key)[1]
    nothing = {**batch, "cond": empty(batch["cond"])}
    ours = losses(0.4, key, batch)
    with_label, without = (losses(0.0, key_losses, b) for b in (batch, nothing))
    dropped = np.asarray(ours == without)
    np.testing.assert_array_equal(ours, np.where(dropped, without, with_label))
    assert not np.any(with_label == without)
    assert stats.binomtest(int(dropped.sum()), n, 0.4).pvalue > 0.001
    # nothing is dropped when training is over, and then the key is used up as without dropping
    np.testing.assert_array_equal(losses(0.4, key, batch, None), losses(0.0, key, batch, None))
    for wrong in (-1.0, 1.5):
        with pytest.raises(ValueError, match=f"drop_cond={wrong} is not between 0 and 1"):
            losses(wrong, key, batch)


MEANS = np.array([-0.7, 0.4])
SHARES = np.array([0.25, 0.75])
STD = 0.3


class Bayes(nn.Module):
    """The exact log-posterior of the component of a mixture in one dimension, times a parameter."""

    num_classes: int = 2

    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        sde = VP()
        alpha, sigma = sde.alpha(noise)[:, None], sde.sigma(noise)[:, None]
        variance = (alpha * STD) ** 2 + sigma**2
        square = (x - alpha * jnp.asarray(MEANS, x.dtype)[None]) ** 2
        scale = self.param("scale", nn.initializers.ones, ())
        return scale * (jnp.log(jnp.asarray(SHARES, x.dtype))[None] - square / (2 * variance))


def entropy_of_class():
    """The mean over t of the entropy of the component given x_t, by quadrature."""
    u = np.linspace(-8, 8, 2001)[:, None]
    values = []
    t = jnp.asarray((np.arange(200) + 0.5) / 200 * (1 - 1e-5) + 1e-5)
    alphas, sigmas = np.asarray(VP().alpha(t), float), np.asarray(VP().sigma(t), float)
    for alpha, sigma in zip(alphas, sigmas, strict=True):
        std = np.hypot(alpha * STD, sigma)
        x = alpha * MEANS.mean() + u * std
        joint = SHARES * stats.norm.pdf(x, alpha * MEANS, std)
        posterior = joint / joint.sum(axis=1, keepdims=True)
        density = special.xlogy(joint, posterior).sum(axis=1)
        values.append(-np.trapezoid(density, x[:, 0]))
    return np.mean(values)


def test_cross_entropy_of_the_exact_posterior_is_the_entropy():
    n = 100_000
    rng = np.random.default_rng(0)
    label = rng.choice(2, n, p=SHARES)
    x = MEANS[label] + STD * rng.normal(size=n)
    batch = {"x": jnp.asarray(x[:, None], jnp.float32), "cond": {"label": jnp.asarray(label)}}

    uniform, other_law = (
        jax.jit(
            partial(
                classification(model(Bayes()), Labels(2), time_law=law).losses, training=TRAINING
            )
        )
        for law in (time_law.uniform(stratified=True), time_law.log_snr_uniform(stratified=True))
    )

    def run(scale, losses):
        return np.asarray(losses({"scale": jnp.float32(scale)}, jax.random.key(0), batch).value)

    exact = run(1.0, uniform)
    error = exact.std() / np.sqrt(n)
    assert abs(exact.mean() - entropy_of_class()) < 4 * error
    for scale in (0.7, 1.4):  # of the same draws, so that the difference is sharp
        worse = run(scale, uniform) - exact
        assert worse.mean() > 4 * worse.std() / np.sqrt(n)
    # another law of t has the same mean
    other = run(1.0, other_law)
    assert abs(other.mean() - exact.mean()) < 4 * np.hypot(error, other.std() / np.sqrt(n))


def test_the_share_of_wrong_classes_is_bayes_error():
    n, t = 100_000, jnp.asarray(0.3)
    label = np.random.default_rng(1).choice(2, n, p=SHARES)
    x = MEANS[label] + STD * np.random.default_rng(2).normal(size=n)
    batch = {"x": jnp.asarray(x[:, None], jnp.float32), "cond": {"label": jnp.asarray(label)}}
    params = {"scale": jnp.float32(1)}
    objective = classification(model(Bayes()), Labels(2), time_law=time_law.uniform())
    wrong = objective.error_at(params, jax.random.key(0), batch, t)
    alpha, sigma = float(VP().alpha(t)), float(VP().sigma(t))
    std = np.hypot(alpha * STD, sigma)
    low, high = alpha * MEANS
    edge = (low + high) / 2 - std**2 * np.log(SHARES[1] / SHARES[0]) / (high - low)
    bayes = SHARES[0] * stats.norm.sf(edge, low, std) + SHARES[1] * stats.norm.cdf(edge, high, std)
    assert abs(float(wrong.mean()) - bayes) < 4 * np.sqrt(bayes * (1 - bayes) / n)


def test_the_result_of_classification_is_the_log_posterior():
    objective = classification(model(Bayes()), Labels(2), time_law=time_law.uniform())
    assert not objective.denoises
    x, label = np.array([-0.9, 0.1, 0.6]), np.array([0, 1, -1])
    log_posterior = objective.result({"scale": jnp.float32(1)}, {"label": jnp.asarray(label)})
    for t in (0.1, 0.7):
        alpha, sigma = (float(f(jnp.asarray(t))) for f in (VP().alpha, VP().sigma))
        joint = SHARES * stats.norm.pdf(x[:, None], alpha * MEANS, np.hypot(alpha * STD, sigma))
        posterior = joint / joint.sum(axis=1, keepdims=True)
        truth = [np.log(posterior[0, 0]), np.log(posterior[1, 1]), 0]
        found = log_posterior(jnp.asarray(x[:, None], jnp.float32), jnp.asarray(t))
        np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"net\.num_classes is 2: a classifier needs 3"):
        classification(model(Bayes()), Labels(3), time_law=time_law.uniform())


class Dropping(nn.Module):
    """Half of the logits of `Bayes` are 0 where there is dropout."""

    num_classes: int = 2

    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        return nn.Dropout(0.5, deterministic=not train)(Bayes()(x, noise))


def test_a_classifier_has_dropout_in_training_alone():
    batch = {"x": array(50, 1), "cond": {"label": jnp.arange(50) % 2}}
    params = {"Bayes_0": {"scale": jnp.float32(1)}}

    def losses(net, params, training):
        objective = classification(model(net), Labels(2), time_law=time_law.uniform())
        return np.asarray(objective.losses(params, jax.random.key(0), batch, training).value)

    without = losses(Bayes(), params["Bayes_0"], TRAINING)
    np.testing.assert_array_equal(losses(Dropping(), params, None), without)
    assert np.mean(losses(Dropping(), params, TRAINING) != without) > 0.5


def test_a_classifier_is_the_way_down():
    """The U-Net's parameters; logits that know no transposition."""
    fields = {**TINY, "progressive_input": "residual"}
    net, x = Classifier(**fields, num_classes=3), array(2, 4, 4, 2)
    params = parameters(net, x)
    unet = jax.eval_shape(NCSNpp(**fields).init, jax.random.key(0), x, NOISE)["params"]
    own = {"out_norm", "out"}
    shared = {name for name in unet if not name.startswith(("up_", "out_"))}
    assert set(params) == shared | own
    chex.assert_trees_all_equal_shapes_and_dtypes(
        *({name: tree[name] for name in shared} for tree in (params, unet))
    )
    logits = apply(net, params, x)
    # the mean over pixels of swish of what is normalised, and a dense layer; of each noise level
    _, inside = net.apply(
        {"params": params}, x, NOISE, capture_intermediates=lambda m, _: m.name == "out_norm"
    )
    (h,) = inside["intermediates"]["out_norm"]["__call__"]
    h = np.asarray(h, float)
    pooled = np.mean(h / (1 + np.exp(-h)), axis=(1, 2))
    truth = pooled @ np.asarray(params["out"]["kernel"]) + np.asarray(params["out"]["bias"])
    np.testing.assert_allclose(logits, truth, rtol=1e-4, atol=1e-5)
    other = net.apply({"params": params}, x, NOISE[::-1])
    start = jax.jit(net.init)(jax.random.key(0, impl="unsafe_rbg"), x, NOISE)["params"]["out"]
    assert not np.any(start["kernel"]), "all classes are as likely at the start"
    assert np.abs(other - logits).max() > 1e-4  # a hundred times what rounding leaves
    swapped = jax.tree.map(lambda p: jnp.swapaxes(p, 0, 1) if p.ndim == 4 else p, params)
    again = apply(net, swapped, jnp.swapaxes(x, 1, 2))
    assert logits.shape == (2, 3)
    assert np.std(logits) > 0.05
    np.testing.assert_allclose(again, logits, rtol=1e-4, atol=1e-5)
