"""Encoders of CLIP and T5: what tokens see, what is given back, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.nets.attention import attend
from score_sde.nets.clip_text import CLIPText
from score_sde.nets.clip_vision import CLIPVision
from score_sde.nets.t5 import T5Encoder

CLIP = CLIPText(30, 16, 3, 2, 24, 10, "gelu", 5, 29)
T5 = T5Encoder(30, 16, 3, 2, 6, 20, 8, 10)
VISION = CLIPVision(8, 4, 16, 2, 2, 24, "gelu", 5)


def params_of(net, x):
    """Every parameter is noise."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)["params"]
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.RandomState(0)
    noise = [jnp.asarray(0.5 * rng.standard_normal(leaf.shape), leaf.dtype) for leaf in leaves]
    return jax.tree.unflatten(tree, noise)


def ids_of(length=8, seed=1):
    return jnp.asarray(np.random.RandomState(seed).randint(2, 29, (2, length)), jnp.int32)


@pytest.mark.parametrize(
    ("net", "millions"),
    [
        (CLIPText(), 123.1),  # of Stable Diffusion 1
        (CLIPText(49408, 1024, 23, 16, 4096, activation="gelu"), 340.4),  # 2
        (CLIPText(49408, 1280, 32, 20, 5120, activation="gelu", projection=1280), 694.7),  # XL
        (T5Encoder(), 4762.3),  # SD3, Flux
        (CLIPVision(), 304.0),  # of ViT-L/14
    ],
)
def test_published_sizes(net, millions):
    image = isinstance(net, CLIPVision)
    x = jnp.zeros((1, 224, 224, 3)) if image else jnp.zeros((1, 8), jnp.int32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)
    found = sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6
    assert found == pytest.approx(millions, abs=0.051)


def test_skipped_blocks_of_clip():
    """`last` is the normalised result of a block, and `pooled` always that of the last one."""
    ids = ids_of().at[:, 5].set(29)
    params = params_of(CLIP, ids)
    scale, bias = (np.asarray(params["final_norm"][name], float) for name in ("scale", "bias"))
    for skip in (0, 1, 3):
        found = jax.jit(lambda p, skip=skip: CLIP.apply({"params": p}, ids, skip))(params)
        h = np.asarray(found.hidden[-1 - skip], float)
        h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
        np.testing.assert_allclose(found.last, h * scale + bias, atol=1e-5)
        if skip == 0:
            pooled = (h * scale + bias)[:, 5] @ np.asarray(params["projection"], float)
        np.testing.assert_allclose(found.pooled, pooled, atol=1e-5)
    with pytest.raises(ValueError, match="skip=4 is not from 0 to 3"):
        CLIP.apply({"params": params}, ids, 4)


def test_what_tokens_see():
    """A token of CLIP sees no later one. One of T5 sees all but those outside of the mask."""
    ids = ids_of()
    changed = ids.at[:, 6:].set(ids_of(seed=2)[:, 6:])
    run = jax.jit(CLIP.apply)
    states = [run({"params": params_of(CLIP, ids)}, x).hidden for x in (ids, changed)]
    np.testing.assert_allclose(states[0][:, :, :6], states[1][:, :, :6], atol=1e-6)
    assert np.abs(states[0][-1, :, 6:] - states[1][-1, :, 6:]).min() > 1e-5

    mask = jnp.arange(8)[None] < jnp.full((2, 1), 6)
    params, run = params_of(T5, ids), jax.jit(T5.apply)
    states = [run({"params": params}, x, mask).last for x in (ids, changed)]
    np.testing.assert_allclose(states[0][:, :6], states[1][:, :6], atol=1e-6)
    every = [run({"params": params}, x, jnp.ones((2, 8), bool)).last for x in (ids, changed)]
    np.testing.assert_allclose(every[0], run({"params": params}, ids).last, atol=1e-5)
    assert np.abs(every[0][:, :6] - every[1][:, :6]).max() > 1e-2


def test_ids_beyond_the_vocabulary_are_nan():
    for net in (CLIP, T5):
        ids = ids_of().at[1, 3].set(30)
        found = jax.jit(net.apply)({"params": params_of(net, ids)}, ids).hidden[0]
        where = np.isnan(found).all(-1)
        assert where[1, 3]
        assert where.sum() == 1


@pytest.mark.parametrize("net", [CLIP, T5])
def test_states_that_are_not_used_are_not_stored(net):
    net, ids = net.clone(depth=24), jnp.zeros((64, 10), jnp.int32)
    params = jax.eval_shape(net.init, jax.random.key(0), ids)["params"]

    def memory(use):
        program = jax.jit(lambda p: use(net.apply({"params": p}, ids))).lower(params).compile()
        return program.memory_analysis().temp_size_in_bytes

    stored = 24 * 64 * 10 * 16 * 4
    assert memory(lambda states: states.hidden[-2]) > stored
    assert memory(lambda states: states.last) < stored


@pytest.mark.parametrize("net", [CLIP, T5, VISION])
def test_bfloat16(net):
    """The computation is bfloat16, and close to that of float32; the parameters are float32."""
    x = jnp.ones((2, 8, 8, 3)) if net is VISION else ids_of()
    params = jax.tree.map(lambda p: p / 2, params_of(net, x))
    full, half = (
        jax.jit(n.apply)({"params": params}, x) for n in (net, net.clone(dtype="bfloat16"))
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("bfloat16")}
    error = np.abs(np.asarray(half.hidden, np.float32) - np.asarray(full.hidden)).max()
    assert 0 < error < 0.05 * np.abs(np.asarray(full.hidden)).max()
    stored = jax.eval_shape(net.clone(dtype="bfloat16").init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(stored)} == {jnp.dtype("float32")}


def test_the_bias_of_attention():
    """It is added to the logits. One of -inf is a mask."""
    rng = np.random.RandomState(0)
    q, k, v = (rng.standard_normal((2, 5, 3, 4)).astype(np.float32) for _ in range(3))
    bias = rng.standard_normal((1, 3, 5, 5)).astype(np.float32)
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) / 2 + bias
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    truth = np.einsum("bhqk,bkhd->bqhd", weights, v)
    q, k, v = (jnp.asarray(a) for a in (q, k, v))
    np.testing.assert_allclose(attend(q, k, v, bias=jnp.asarray(bias)), truth, atol=1e-5)
    mask = jnp.asarray(rng.rand(1, 3, 5, 5) < 0.7)
    hidden = jnp.where(mask, 0.0, -jnp.inf)
    np.testing.assert_allclose(attend(q, k, v, bias=hidden), attend(q, k, v, mask), atol=1e-6)


def test_what_is_refused():
    ids = jnp.zeros((1, 11), jnp.int32)
    with pytest.raises(ValueError, match="texts of 11 tokens do not fit the 10 positions"):
        jax.eval_shape(CLIP.init, jax.random.key(0), ids)
    with pytest.raises(ValueError, match=r"images are \(8, 12\), and not 8 squared"):
        jax.eval_shape(VISION.init, jax.random.key(0), jnp.zeros((1, 8, 12, 3)))
    with pytest.raises(ValueError, match="activation='relu' is none of"):
        CLIP.clone(activation="relu")
    with pytest.raises(ValueError, match="num_heads=3 does not divide width=16"):
        CLIP.clone(num_heads=3)
    with pytest.raises(ValueError, match="patch=3 does not divide size=8"):
        VISION.clone(patch=3)
