"""Objectives of tokens, over all states: their minimum, and their value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning.labels import Labels
from score_sde.config import build
from score_sde.models import parametrization
from score_sde.models.model import Model
from score_sde.nets.dit import DiT
from score_sde.processes import MASK, VP, Masking, Uniform
from score_sde.training import time_law
from score_sde.training.objectives.cross_entropy import plain_loss
from score_sde.training.objectives.discrete_flow_matching import flow_loss
from score_sde.training.objectives.masked import masked_loss
from score_sde.training.objectives.masked_count import count_loss
from score_sde.training.objectives.score_entropy import entropy_loss
from tests.tables import VALUES, forward, sequences, states, table

pytestmark = pytest.mark.usefixtures("x64")

LOSSES = {
    "masked": masked_loss,
    "masked_count": count_loss,
    "score_entropy": entropy_loss,
    "discrete_flow_matching": flow_loss,
    "cross_entropy": plain_loss,
}
BOTH = ("score_entropy", "discrete_flow_matching", "cross_entropy")
CASES = [(name, Masking(schedule="cosine")) for name in LOSSES] + [
    (name, Uniform(values=VALUES)) for name in BOTH
]


def expected(process, loss, probabilities, t=0.4):
    """The mean of a loss over the law of x_0 and of x_t given it: every pair, exactly.

    probabilities: [n states, 3, 3]."""
    joint = np.asarray(table().probs).reshape(-1)[:, None] * forward(process, t)
    x_0, x_t = (
        a.reshape(-1, 3) for a in np.broadcast_arrays(sequences()[:, None], states(process)[None])
    )
    found = jnp.tile(probabilities, (len(sequences()), 1, 1))
    each = loss(process, jnp.asarray(x_0), jnp.asarray(x_t), jnp.full(len(x_0), t), found)
    weight = jnp.asarray(joint.reshape(-1))
    possible = weight > 0  # a known token has no other x_0
    return jnp.sum(jnp.where(possible, weight * jnp.sum(each, axis=1), 0))


@pytest.mark.parametrize(("name", "process"), CASES)
def test_the_minimum_is_the_exact_posterior(name, process):
    """The gradient by the logits of every state vanishes there, and elsewhere it does not."""
    x_t, t = jnp.asarray(states(process)), jnp.asarray(0.4)
    exact = table().denoiser(process)(x_t, t)
    exact = jnp.where(jnp.isfinite(exact), exact, 1 / 3)  # of states that do not come

    def loss(logits):
        return expected(process, LOSSES[name], jax.nn.softmax(logits))

    logits = jnp.log(jnp.maximum(exact, 1e-12))
    assert float(jnp.abs(jax.grad(loss)(logits)).max()) < 1e-9
    moved = logits.at[..., 0].add(0.3)
    assert float(jnp.abs(jax.grad(loss)(moved)).max()) > 1e-4
    assert loss(logits) < loss(moved)


def test_of_masks_three_objectives_are_one():
    """The value of each token of each state is the same."""
    process = Masking(schedule="cosine")
    x_t, t = jnp.asarray(states(process)), jnp.full(64, 0.4)
    x_0 = jnp.where(x_t == MASK, 1, x_t)
    probs = jax.random.dirichlet(jax.random.key(0), jnp.ones(3), (64, 3))
    found = jnp.where((x_t == MASK)[..., None], probs, jax.nn.one_hot(x_t, 3, dtype=probs.dtype))
    masked, entropy, flow = (
        LOSSES[name](process, x_0, x_t, t, found)
        for name in ("masked", "score_entropy", "discrete_flow_matching")
    )
    np.testing.assert_allclose(entropy, masked, atol=1e-12)
    np.testing.assert_allclose(flow, masked, atol=1e-12)


def test_the_network_of_uniform_noise_is_another_law_with_each_parametrization():
    """At the posterior of x_0^i given x_t without x_t^i the plug-in bound is at its minimum, where
    the network's output is multiplied by the evidence of x_t^i; with the posterior itself in its
    place it is not. (The plug-in of published losses, arXiv:2412.10193.)"""
    process, x_t, t = Uniform(values=3), jnp.asarray(states(Uniform(values=3))), jnp.asarray(0.4)
    posterior = table().denoiser(process)(x_t, t)
    without = posterior / process.evidence(x_t, t, 3)
    without = without / without.sum(axis=-1, keepdims=True)
    kinds = {
        name: getattr(parametrization, name)(parametrization.time(), values=3)
        for name in ("posterior", "without_itself")
    }

    def gradient(kind, logits):
        def loss(logits):
            return expected(process, entropy_loss, kinds[kind].value(process, x_t, t, logits))

        return float(jnp.abs(jax.grad(loss)(logits)).max())

    assert gradient("posterior", jnp.log(posterior)) < 1e-12
    assert gradient("without_itself", jnp.log(without)) < 1e-12
    assert gradient("without_itself", jnp.log(posterior)) > 1e-3
    assert gradient("posterior", jnp.log(without)) > 1e-3


def test_known_tokens_are_copied_and_masks_are_of_the_network():
    """SUBS, whatever the network says of known tokens."""
    process, x_t = Masking(), jnp.asarray([[MASK, 2, 0]])
    output = jax.random.normal(jax.random.key(0), (1, 3, 3))
    kind = parametrization.without_itself(parametrization.time(), values=3)
    found = kind.value(process, x_t, jnp.asarray(0.5), output)
    np.testing.assert_allclose(found[0, 0], jax.nn.softmax(output[0, 0]), rtol=1e-12)
    np.testing.assert_allclose(found[0, 1:], [[0, 0, 1], [1, 0, 0]], atol=1e-15)


def model_of(process):
    """A small transformer of three tokens."""
    net = DiT(patch_size=1, width=16, depth=1, num_heads=2, out_channels=VALUES)
    smooth = parametrization.time(scale=1.0)  # so that Gauss's rule is exact
    kind = parametrization.without_itself(smooth, values=VALUES)
    return Model(net, process, kind)


def objective_of(name, process):
    options = {"name": name, "time_law": time_law.uniform(stratified=True)}
    return build("training.objectives", options, model_of(process), Labels(0))


@pytest.mark.parametrize("name", ["masked", "masked_count", "score_entropy"])
def test_the_mean_of_draws_is_the_integral(name):
    """Of a network with random parameters: each objective's mean of 40,000 draws, and the integral
    over t by all states, within five standard errors. They are one number."""
    process = Masking(schedule="cosine")
    model, objective = model_of(process), objective_of(name, process)
    x = table().sample(jax.random.key(0), 40_000)
    params = model.init(jax.random.key(1), x, {})
    noise = jax.random.normal(jax.random.key(2), (200_000,), jnp.float32)
    params = jax.tree.map(lambda a: a + 0.3 * noise[: a.size].reshape(a.shape), params)
    losses = jax.jit(lambda x: objective.losses(params, jax.random.key(3), {"x": x}, None))
    found = np.asarray(losses(x).value)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    integral, denoiser = 0.0, model.denoiser(params, {})
    for t, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        probs = denoiser(jnp.asarray(states(process)), jnp.asarray(t))
        integral += weight * float(expected(process, masked_loss, probs.astype(float), t)) / 3
    assert abs(found.mean() - integral) < 5 * found.std() / 40_000**0.5


def test_losses_of_published_code_by_hand():
    """MDLM's and MD4's loss of the log-linear schedule, -(1/t) sum ln p of masks, and UDLM's
    integrand of uniform noise as its paper writes it (arXiv:2412.10193, eq. 18), with x = its
    network's law of a token: N = v x, alpha, z = x_t, j its value, i another:

        alpha'/(v alpha) [ v/xb_j(x_0) - v/xb_j(f) - sum_i xb_i(x_0)/xb_j(x_0)
                           ln( xb_j(f) xb_i(x_0) / (xb_i(f) xb_j(x_0)) ) ]
        xb = v alpha x + 1 - alpha
    """
    rng = np.random.default_rng(0)
    x_0, x_t, t = rng.integers(0, 3, (5, 4)), rng.integers(0, 3, (5, 4)), rng.uniform(0.2, 0.9, 5)
    law = rng.dirichlet(np.ones(3), (5, 4))
    masks = rng.random((5, 4)) < 0.5
    found = jnp.asarray(np.where(masks[..., None], law, np.eye(3)[x_0]))
    masked = masked_loss(
        Masking(), jnp.asarray(x_0), jnp.where(jnp.asarray(masks), MASK, x_0), jnp.asarray(t), found
    )
    log_prob = np.log(np.take_along_axis(law, x_0[..., None], 2))[..., 0]
    np.testing.assert_allclose(masked, np.where(masks, -log_prob / t[:, None], 0), rtol=1e-12)

    process = Uniform(values=3)
    kind = parametrization.without_itself(parametrization.time(), values=3)
    value = kind.value(process, jnp.asarray(x_t), jnp.asarray(t), jnp.log(jnp.asarray(law)))
    entropy = entropy_loss(process, jnp.asarray(x_0), jnp.asarray(x_t), jnp.asarray(t), value)
    wanted = np.zeros((5, 4))
    for b, i in np.ndindex(5, 4):
        alpha = 1 - t[b]
        known, guess = (3 * alpha * a + 1 - alpha for a in (np.eye(3)[x_0[b, i]], law[b, i]))
        j = x_t[b, i]
        ratio = np.log(guess[j] * known / (guess * known[j]))
        inner = 3 / known[j] - 3 / guess[j] - np.sum(known / known[j] * ratio)
        wanted[b, i] = -1 / (3 * alpha) * inner
    np.testing.assert_allclose(entropy, wanted, rtol=1e-10)


def test_the_error_of_a_network_that_knows_nothing_is_one():
    """Equal logits, and nothing but masks; and none of tokens that are all known."""
    process = Masking()
    model, objective = model_of(process), objective_of("masked", process)
    batch = {"x": table().sample(jax.random.key(0), 8), "cond": {}}
    params = model.init(jax.random.key(1), batch["x"], {})  # whose output is 0
    at = [objective.error_at(params, jax.random.key(2), batch, jnp.asarray(t)) for t in (1.0, 0.0)]
    np.testing.assert_allclose(at[0], 1, rtol=1e-6)
    np.testing.assert_allclose(at[1], 0, atol=1e-12)


def test_mistakes_are_told():
    for name in ("masked", "masked_count"):
        with pytest.raises(ValueError, match="sde='Masking'"):
            objective_of(name, Uniform(values=3))
    with pytest.raises(ValueError, match="sde='Masking'"):
        objective_of("score_entropy", VP())
    with pytest.raises(ValueError, match="values=3"):
        model_of(Uniform(values=5)).parametrization.check(Uniform(values=5))
    with pytest.raises(ValueError, match="of tokens"):
        model_of(VP()).parametrization.check(VP())
    with pytest.raises(ValueError, match="without_itself"):
        parametrization.eps(parametrization.time()).check(Masking())


def test_no_noise_is_no_loss():
    """At t = 0, which a stratified law draws once in many batches, for both processes."""
    x_0, t = jnp.asarray(sequences()), jnp.zeros(27)
    for process in (Masking(), Uniform(values=3), Uniform(values=3, schedule="polynomial")):

        def loss(logits, process=process):
            found = jax.nn.softmax(logits)
            return jnp.sum(entropy_loss(process, x_0, x_0, t, found))

        value, gradient = jax.value_and_grad(loss)(jax.random.normal(jax.random.key(0), (27, 3, 3)))
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


def test_logits_far_apart_keep_known_tokens():
    """In float32, 200 against what is known: D is one-hot, and the gradient is finite."""
    kind = parametrization.without_itself(parametrization.time(), values=3)
    x_t, t = jnp.asarray([[2, MASK]]), jnp.ones(1, jnp.float32) / 2
    logits = jnp.asarray([[[200.0, 0.0, 0.0]] * 2], jnp.float32)

    def loss(logits):
        found = kind.value(Masking(), x_t, t, logits)
        return jnp.sum(masked_loss(Masking(), jnp.asarray([[2, 0]]), x_t, t, found)), found

    gradient, found = jax.grad(loss, has_aux=True)(logits)
    np.testing.assert_array_equal(found[0, 0], [0, 0, 1])
    assert np.all(np.isfinite(gradient))
