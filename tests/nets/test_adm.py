"""ADM: what an option must do. Numbers and sizes are compared in tests/published/test_adm.py."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from score_sde.nets.adm import ADM, ADMAttnBlock, ADMClassifier, split_heads
from tests.nets.test_nets import apply, image, parameters, relative_error

TINY = {"nf": 32, "ch_mult": (1,), "num_res_blocks": 1, "attn_rates": (1,), "head_dim": 16}


def test_orders_of_attention():
    """Channel [which, head, channel] of one order is [head, which, channel] of the other."""
    qkv = image(2, 5, 3 * 4 * 6)
    turned = qkv.reshape(2, 5, 3, 4, 6).swapaxes(2, 3).reshape(qkv.shape)
    for a, b in zip(split_heads(qkv, 4, "new"), split_heads(turned, 4, "legacy"), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(
        split_heads(qkv, 4, "new")[1][0, 0, 2], qkv[0, 0, 24 + 12 : 24 + 18]
    )


def test_rematerialisation_changes_no_number():
    x = image(2, 4, 4, 3)
    net = ADM(**TINY, learn_variance=True)
    params = parameters(net, x)

    def gradient(net):
        squares = jax.grad(lambda p: jnp.sum(net.apply({"params": p}, x, jnp.ones(2)) ** 2))
        return ravel_pytree(jax.jit(squares)(params))[0]

    # summed over pixels, of which many cancel
    assert relative_error(*(gradient(net.clone(remat=name)) for name in ("all", "none"))) < 1e-4


def test_a_negative_label_is_no_label():
    x = image(2, 4, 4, 3)
    net = ADM(**TINY, num_classes=3)
    label = {"label": jnp.array([-1, 2])}
    params = parameters(net, x, label)
    given = apply(net, params, x, cond=label)
    without = {name: value for name, value in params.items() if name != "embed_label"}
    alone = apply(net.clone(num_classes=0), without, x)
    assert relative_error(given[0], alone[0]) < 1e-5
    assert relative_error(given[1], alone[1]) > 1e-2


def test_heads_on_the_way_up():
    """`num_heads_up` changes their number in attention on the way up alone."""
    heads = {}

    def record(method, args, kwargs, context):
        if isinstance(context.module, ADMAttnBlock):
            heads[context.module.name] = context.module.heads
        return method(*args, **kwargs)

    net = ADM(**(TINY | {"head_dim": 0, "num_heads": 4}))
    for of_up, expected in ((0, 4), (2, 2)):
        with nn.intercept_methods(record):
            net = net.clone(num_heads_up=of_up)
            jax.eval_shape(net.init, jax.random.key(0), image(1, 8, 8, 3), jnp.ones(1))
        assert {name.split("_")[0] for name in heads} == {"down", "mid", "up"}
        for name, count in heads.items():
            assert count == (expected if name.startswith("up") else 4)


def test_half_precision_is_near():
    """bfloat16 has 8 bits; the normalisation and the last layers stay in float32."""
    x = image(2, 4, 4, 3)
    for cls in (ADM, ADMClassifier):
        net = cls(**TINY)
        params = parameters(net, x)
        exact = apply(net, params, x)
        near = apply(net.clone(dtype="bfloat16"), params, x)
        assert near.dtype == jnp.float32
        assert 1e-6 < relative_error(near, exact) < 0.05


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention_order": "old"}, "attention_order='old' is none of"),
        ({"remat": "some"}, "remat='some' is none of"),
        ({"dropout": 1.0}, "dropout=1.0 is not at least 0 and below 1"),
        ({"head_dim": 24}, "head_dim=24, num_heads=1 do not divide the 32 channels"),
        ({"head_dim": 0, "num_heads": 5}, "num_heads=5 do not divide the 32 channels"),
        ({"ch_mult": (1, 1, 1, 1, 1)}, "images of 8x8 cannot be halved 4 times"),
    ],
)
def test_options_that_are_refused(fields, message):
    def shapes():
        net = ADM(**(TINY | fields))
        return jax.eval_shape(net.init, jax.random.key(0), image(1, 8, 8, 3), jnp.ones(1))

    with pytest.raises(ValueError, match=message):
        shapes()
