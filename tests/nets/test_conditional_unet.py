"""The U-Net with a context, against formulas and itself; tests/published has diffusers' numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.nets.conditional_unet import ConditionalUNet
from score_sde.nets.spatial_transformer import Context, TransformerBlock
from tests.nets.test_nets import NOISE, ROUNDING, apply, image, parameters, relative_error

TINY = {
    "channels": 8,
    "ch_mult": (1,),
    "num_res_blocks": 0,
    "depths": (1,),
    "mid_depth": 0,
    "num_heads": 2,
    "context_features": 6,
    "groups": 4,
}
ALL = {"cond_features": 3, "sizes": 2, "size_features": 4, "numbers": ("jump",), "cond_channels": 1}
COND = {
    "context": image(2, 5, 6, seed=3),
    "vector": image(2, 3, seed=4),
    "sizes": jnp.array([[512.0, 7.0], [64.0, 0.0]]),
    "jump": jnp.array([0.5, 2.0]),
    "image": image(2, 4, 4, 1, seed=5),
}


def test_every_condition_is_read():
    """A change of an example's own condition changes its output, and no other."""
    net = ConditionalUNet(**TINY, **ALL)
    x = image(2, 4, 4, 3)
    params = parameters(net, x, COND)
    out = apply(net, params, x, cond=COND)
    for name, value in COND.items():
        moved = apply(net, params, x, cond={**COND, name: value.at[1].add(1.0)}) - out
        assert np.abs(moved[1]).max() > 1e-3, name
        np.testing.assert_array_equal(moved[0], 0)
    half = apply(net.clone(dtype="bfloat16"), params, x, cond=COND)
    assert half.dtype == x.dtype
    # some 25 roundings of 2^-9 in a row, each relative to the numbers it rounds
    assert 1e-5 < relative_error(half, out) < np.sqrt(25) * 2**-8


def block(params, x, tokens, mask=None):
    layer = TransformerBlock(2)
    return layer.apply({"params": params}, x, Context(tokens, mask), False)


def test_context_tokens_that_are_not_there():
    """A masked context is a shorter one, and with no token at all nothing is added."""
    x, tokens = image(2, 3, 8), image(2, 5, 6, seed=1)
    shapes = jax.eval_shape(
        lambda: TransformerBlock(2).init(jax.random.key(0), x, Context(tokens), False)["params"]
    )
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), shapes)
    mask = jnp.broadcast_to(jnp.arange(5) < 3, (2, 5))
    apply_ = jax.jit(block)
    short = apply_(params, x, tokens[:, :3])
    assert relative_error(apply_(params, x, tokens.at[:, 3:].mul(50.0), mask), short) < ROUNDING
    assert relative_error(apply_(params, x, tokens), short) > 1e-3
    nothing = apply_(params, x, tokens, mask & False)
    silent = {**params, "cross_attention": jax.tree.map(jnp.zeros_like, params["cross_attention"])}
    np.testing.assert_array_equal(nothing, apply_(silent, x, tokens, mask & False))
    assert relative_error(apply_(params, x, tokens, mask), nothing) > 1e-3


def test_the_block_is_its_formula():
    """x + W softmax(q k / sqrt d) v of itself, of the context, and then v gelu(g) with erf."""
    from scipy.special import erf, softmax

    x, tokens = image(1, 3, 4), image(1, 2, 6, seed=1)
    layer = TransformerBlock(2)
    shapes = jax.eval_shape(
        lambda: layer.init(jax.random.key(0), x, Context(tokens), False)["params"]
    )
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), shapes)
    p = jax.tree.map(lambda a: np.asarray(a, float), params)

    def norm(h, name):
        h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
        return h * p[name]["scale"] + p[name]["bias"]

    def attention(h, others, name):
        q, k, v = (
            a @ p[name][part]["kernel"] for part, a in zip("qkv", (h, others, others), strict=True)
        )
        heads = [slice(0, 2), slice(2, 4)]
        found = [softmax(q[:, i] @ k[:, i].T / np.sqrt(2), -1) @ v[:, i] for i in heads]
        return np.concatenate(found, -1) @ p[name]["out"]["kernel"] + p[name]["out"]["bias"]

    h, others = np.asarray(x[0], float), np.asarray(tokens[0], float)
    normed = norm(h, "self_norm")
    h = h + attention(normed, normed, "self_attention")
    h = h + attention(norm(h, "cross_norm"), others, "cross_attention")
    hidden = norm(h, "mlp_norm") @ p["mlp_in"]["kernel"] + p["mlp_in"]["bias"]
    value, gate = np.split(hidden, 2, -1)
    gelu = gate * (1 + erf(gate / np.sqrt(2))) / 2
    h = h + (value * gelu) @ p["mlp_out"]["kernel"] + p["mlp_out"]["bias"]
    assert relative_error(block(params, x, tokens)[0], h) < 1e-6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"remat": "some"}, "remat='some' is none of"),
        ({"dropout": 1.0}, "dropout=1.0 is not"),
        ({"depths": (1, 1)}, r"depths=\(1, 1\) is not for 1 stages \(ch_mult\)"),
        ({"num_heads": (2, 2)}, r"num_heads=\(2, 2\) is not for 1 stages"),
    ],
)
def test_fields_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        ConditionalUNet(**{**TINY, **fields})


@pytest.mark.parametrize(
    ("fields", "cond", "message"),
    [
        ({}, None, r"needs cond\['context'\] of shape \(2, 0, 6\), which is missing"),
        ({}, {"context": image(2, 5, 7)}, r"cond\['context'\] of shape \(2, 5, 6\), not"),
        ({"sizes": 6}, {"context": image(2, 5, 6)}, r"cond\['sizes'\] of shape \(2, 6\), which"),
        ({"num_heads": 3}, {"context": image(2, 5, 6)}, "num_heads=3 does not divide the 8 chan"),
        (
            {"ch_mult": (1,) * 4, "depths": (0,) * 4},
            {"context": image(2, 5, 6)},
            "images of 4x4 cannot be halved 3 times",
        ),
    ],
)
def test_inputs_that_do_not_fit(fields, cond, message):
    net = ConditionalUNet(**{**TINY, **fields})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(net.init, jax.random.key(0), image(2, 4, 4, 3), NOISE, cond)
