"""A network that holds its text encoders: what it reads, and LoRA of both."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from score_sde.models.adapters import lora
from score_sde.nets.clip_text import CLIPText
from score_sde.nets.text_reading import TextReading, joined, parted

ENCODERS = tuple(
    CLIPText(vocabulary=20, width=width, depth=1, num_heads=2, hidden=8, positions=5, eos=19)
    for width in (8, 4)
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 20, (3, 10)), jnp.int32)
COND = {"tokens": TOKENS, "sizes": jnp.ones((3, 2))}
X, NOISE = jnp.linspace(-1, 1, 6).reshape(3, 2), jnp.ones(3)


class Reader(nn.Module):
    """Says something of x, the noise and all that it reads of a text."""

    @nn.compact
    def __call__(self, x, noise, cond, train=False):
        read = jnp.concatenate([cond["context"].mean(1), cond["vector"], cond["sizes"]], axis=1)
        return nn.Dense(x.shape[1])(read) * x + noise[:, None]


NET = TextReading(Reader(), ENCODERS, (5, 5), pooled=1)


@pytest.fixture(scope="module")
def params():
    """None at a value at which its part would not matter."""
    shapes = jax.eval_shape(NET.init, jax.random.key(0), X, NOISE, COND)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(0.2, 0.4, a.shape), a.dtype), shapes)


@jax.jit
def output(params, cond=COND):
    return NET.apply({"params": params}, X, NOISE, cond)


@jax.jit
def outside(params, share):
    """The network alone, given a share of what the encoders alone make of the tokens."""
    net, encoders = parted(params)
    one, two = (
        module.apply({"params": p}, ids)
        for module, p, ids in zip(ENCODERS, encoders, jnp.split(TOKENS, 2, axis=1), strict=True)
    )
    read = {"context": jnp.concatenate([one.last, two.last], axis=-1), "vector": two.pooled}
    cond = {**jax.tree.map(lambda a: share * a, read), "sizes": COND["sizes"]}
    return NET.net.apply({"params": net}, X, NOISE, cond)


def test_it_reads_what_its_encoders_make_of_the_tokens(params):
    jax.tree.map(np.testing.assert_array_equal, joined(*parted(params)), params)
    truth = outside(params, 1.0)
    np.testing.assert_allclose(output(params), truth, rtol=1e-5, atol=1e-6)
    # one example has no text
    mixed = output(params, {**COND, "tokens": TOKENS.at[1].set(-1)})
    truth = truth.at[1].set(outside(params, 0.0)[1])
    np.testing.assert_allclose(mixed, truth, rtol=1e-5, atol=1e-6)


ADAPTER = lora("base", rank=2, alpha=3.0)


@jax.jit
def slopes(params, delta):
    """Of a loss, by the parameters of all, and by the small tree."""

    def loss(params):
        return jnp.sum(output(params) ** 2)

    return jax.grad(loss)(params), jax.grad(lambda d: loss(ADAPTER.merge(params, d)))(delta)


def test_a_lora_is_its_base_at_first_and_its_gradient_is_known(params):
    """Of W + s A B at B = 0: dL/dB = s A^T dL/dW, and dL/dA = 0."""
    delta = ADAPTER.init(jax.random.key(2), params)
    merged = ADAPTER.merge(params, delta)
    jax.tree.map(np.testing.assert_array_equal, merged, params)  # so every output is the base's
    whole, found = (flatten_dict(jax.device_get(tree)) for tree in slopes(params, delta))
    start = flatten_dict(jax.device_get(delta))
    layers = {path[:-1] for path in found}
    assert sum(path[0].startswith("encoders_") for path in layers) == 12
    assert sum(path[0] == "net" for path in layers) == 1
    for path in layers:
        np.testing.assert_array_equal(found[(*path, "a")], 0)
        slope = np.swapaxes(start[(*path, "a")], -1, -2) @ whole[(*path, "kernel")]
        np.testing.assert_allclose(found[(*path, "b")], 3 / 2 * slope, rtol=1e-4, atol=1e-5)
        assert np.abs(found[(*path, "b")]).max() > 1e-3


def test_a_merged_lora_is_the_path_beside_each_layer(params):
    """y = W x + alpha / rank (x A) B in every layer of the network and of its encoders, which have
    one block."""
    rng = np.random.default_rng(3)
    delta = ADAPTER.init(jax.random.key(2), params)
    delta = jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.3, a.shape), a.dtype), delta)
    factors, added = ADAPTER.factors(params, delta), set()

    def beside(call, arguments, options, context):
        y, path = call(*arguments, **options), context.module.path
        if path in factors and context.method_name == "__call__":
            added.add(path)
            a, b = (m.reshape(m.shape[-2:]) for m in factors[path][:2])
            y = y + 3 / 2 * (arguments[0] @ a @ b)
        return y

    with nn.intercept_methods(beside):
        truth = jax.jit(lambda p: NET.apply({"params": p}, X, NOISE, COND))(params)
    assert added == set(factors)
    merged = output(ADAPTER.merge(params, delta))
    assert np.abs(truth - output(params)).max() > 0.1
    np.testing.assert_allclose(merged, truth, rtol=1e-5, atol=1e-5)
