"""The transformer against closed forms, symmetries and itself written out."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from configs import jit
from score_sde.config import build
from score_sde.nets.dit import DiT
from score_sde.nets.embedding import positional_features
from score_sde.nets.positions import angles, patchify, rotate, sines, unpatchify
from score_sde.nets.transformer import HeadNorm, SwiGLU, layer_norm, recomputed, rms_norm
from tests.nets.test_nets import NOISE, ROUNDING, apply, image, parameters, relative_error

TINY = {"width": 24, "depth": 3, "num_heads": 2}
CONTEXT = {"context": image(2, 5, 6, seed=3)}
ALL = {  # options that are not the defaults
    "mlp": "swiglu",
    "norm": "rms",
    "qk_norm": True,
    "positions": "sines+rope",
    "registers": 2,
    "context_features": 6,
}


@pytest.mark.parametrize(
    ("depth", "width", "heads", "millions"),
    [(12, 384, 6, 32.9), (12, 768, 12, 130.3), (24, 1024, 16, 457.8), (28, 1152, 16, 674.8)],
    ids=["S", "B", "L", "XL"],
)
def test_published_parameter_counts(depth, width, heads, millions):
    """With 1,000 classes and none, on latents of 4 channels, of mean and variance."""
    net = DiT(2, width, depth, heads, num_classes=1000, out_channels=8)
    x, cond = jnp.zeros((1, 32, 32, 4)), {"label": jnp.zeros(1, int)}
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, jnp.ones(1), cond)
    assert round(sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6, 1) == millions


@pytest.mark.parametrize(("size", "millions"), [("B", 131), ("L", 459), ("H", 953)])
def test_parameter_counts_of_jit(size, millions):
    """Those of its paper, on images of 256 pixels; there each normalisation has factors."""
    config = jit.get_config(f"{size}/16")
    net = build("nets", config.net.to_dict())
    x, cond = jnp.zeros((1, 256, 256, 3)), {"label": jnp.zeros(1, int)}
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, jnp.ones(1), cond)
    factors = (2 * net.depth + 1) * net.width
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes)) + factors
    assert round(count / 1e6) == millions


# --- patches and positions -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "patch"), [((6,), (3,)), ((4, 6), (2, 3)), ((4, 6, 2), (1, 3, 2)), ((5,), (1,))]
)
def test_patches(axes, patch):
    """Patch g holds x[g p .. g p + p - 1] along every axis, and nothing is lost."""
    x = image(2, *axes, 3)
    patches = patchify(x, patch)
    for place in np.ndindex(*(n // p for n, p in zip(axes, patch, strict=True))):
        cut = tuple(slice(g * p, g * p + p) for g, p in zip(place, patch, strict=True))
        truth = np.stack([example[cut].reshape(-1) for example in np.asarray(x)])
        np.testing.assert_array_equal(patches[(slice(None), *place)], truth)
    np.testing.assert_array_equal(unpatchify(patches, patch), x)


def test_axes_that_are_no_multiple_of_a_patch():
    for shape in ((1, 5, 4, 1), (1, 4, 1)):
        with pytest.raises(ValueError, match=r"cannot be cut into patches of \(2, 2\)"):
            patchify(jnp.zeros(shape), (2, 2))


def test_positions_of_patches():
    """Of one axis the features of arXiv:1706.03762; of two, those of the column and then of the
    row, each in half of the channels; of three, in a third, and the rest stays with the last."""
    for n, width in ((5, 8), (4, 10)):
        truth = positional_features(jnp.arange(float(n)), width, 0)
        np.testing.assert_allclose(sines((n,), width), truth, atol=1e-6)
    found = sines((2, 3), 8).reshape(2, 3, 8)
    for row, column in np.ndindex(2, 3):
        truth = np.concatenate([sines((3,), 4)[column], sines((2,), 4)[row]])
        np.testing.assert_array_equal(found[row, column], truth)
    video = sines((2, 3, 4), 15).reshape(2, 3, 4, 15)
    truth = np.concatenate([sines((4,), 6)[3], sines((3,), 4)[1], sines((2,), 4)[1], [0]])
    np.testing.assert_array_equal(video[1, 1, 3], truth)


@pytest.mark.parametrize("grid", [(12,), (4, 6), (3, 2, 4)])
def test_rotary_positions_are_relative(grid, x64):
    """q . k of any two patches depends on the difference of their places alone: it is that of the
    differences themselves."""
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 16))
    angle = np.concatenate(angles(grid, 8), axis=1)
    n = len(angle)

    def turned(v, angle):
        return np.asarray(rotate(jnp.tile(v, (1, len(angle), 1, 1)), angle))[0, :, 0]

    products = turned(q, angle) @ turned(k, angle).T
    places = np.indices(grid).reshape(len(grid), -1).T
    by_difference = {}
    for i, j in np.ndindex(n, n):
        by_difference.setdefault(tuple(places[i] - places[j]), []).append(products[i, j])
    assert len(by_difference) == math.prod(2 * m - 1 for m in grid)
    for values in by_difference.values():
        np.testing.assert_allclose(values, values[0], atol=1e-12)
    assert len({round(values[0], 9) for values in by_difference.values()}) == len(by_difference)
    np.testing.assert_allclose(by_difference[(0,) * len(grid)][0], q @ k, atol=1e-12)


# --- layers ----------------------------------------------------------------------------------


def test_normalisations():
    """Far from 0, where E[x^2] - E[x]^2 would have no digit left; and near it, beside eps."""
    for x in (100 + image(2, 3, 50), 1e-3 * image(2, 3, 50)):
        y = np.asarray(x, float)
        centred = y - y.mean(-1, keepdims=True)
        truth = centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-6)
        np.testing.assert_allclose(layer_norm(x), truth, atol=5e-5)
        truth = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6)
        np.testing.assert_allclose(rms_norm(x), truth, rtol=1e-6)
    heads = image(1, 2, 3, 4)
    scale = image(4, seed=1)
    found = HeadNorm().apply({"params": {"scale": scale}}, heads)
    truth = np.asarray(heads, float)
    truth = truth / np.sqrt((truth**2).mean(-1, keepdims=True) + 1e-6) * np.asarray(scale)
    np.testing.assert_allclose(found, truth, rtol=1e-5)


def test_swiglu():
    x, u, v, w = (image(*s, seed=i) for i, s in enumerate([(1, 2, 3), (3, 4), (3, 4), (4, 3)]))
    kernels = {"in": np.concatenate([u, v], 1), "out": w}
    sizes = {"in": 8, "out": 3}
    params = {k: {"kernel": a, "bias": jnp.zeros(sizes[k])} for k, a in kernels.items()}
    found = SwiGLU(6).apply({"params": params}, x)
    x, u, v, w = (np.asarray(a, float) for a in (x, u, v, w))
    truth = (x @ u / (1 + np.exp(-x @ u)) * (x @ v)) @ w
    np.testing.assert_allclose(found, truth, atol=1e-5)


def test_queries_and_keys_of_any_length():
    """With QK-norm, longer queries and keys change nothing."""
    net = DiT(**TINY, qk_norm=True)
    x = image(2, 4, 4, 3)
    params = parameters(net, x)
    longer = jax.tree.map(jnp.array, params)
    qkv = longer["blocks"]["heads"]["qkv"]
    factor = jnp.repeat(jnp.array([3.0, 5.0, 1.0]), 24)
    qkv["kernel"] *= factor[None, None]
    qkv["bias"] *= factor[None]
    out = apply(net, params, x)
    assert relative_error(apply(net, longer, x), out) < ROUNDING
    plain = net.clone(qk_norm=False)
    for tree in (params, longer):
        del tree["blocks"]["heads"]["norm_q"], tree["blocks"]["heads"]["norm_k"]
    assert relative_error(apply(plain, longer, x), apply(plain, params, x)) > 0.01


# --- DiT -------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", ["none", "cross", "joint"])
def test_it_starts_at_zero_and_learns(context):
    """The output is exactly 0, and the last layer has a gradient, even with no gate open."""
    options = ALL if context != "none" else {**ALL, "context_features": 0}
    net = DiT(**TINY, **options, context=context, num_classes=3)
    x = image(2, 4, 6, 3)
    cond = {**CONTEXT, "label": jnp.array([0, -1])}
    key = jax.random.key(0, impl="unsafe_rbg")
    params = jax.jit(lambda key: net.init(key, x, NOISE, cond)["params"])(key)

    def loss(params):
        out = net.apply({"params": params}, x, NOISE, cond)
        return jnp.sum((out - 1) ** 2), out

    gradient, out = jax.jit(jax.grad(loss, has_aux=True))(params)
    np.testing.assert_array_equal(out, np.zeros_like(x))
    assert np.all(np.abs(gradient["out"]["kernel"]).max(0) > 0)
    # the blocks start as different ones
    first, second = (np.asarray(params["blocks"]["heads"]["qkv"]["kernel"][i]) for i in (0, 1))
    assert np.std(first) == pytest.approx(np.sqrt(2 / (24 + 72)), rel=0.05)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1


JIT = {"embed_width": 5, "class_tokens": 2}


@pytest.mark.parametrize(
    "options",
    [{}, {**JIT, "class_tokens_from": 0}, {**JIT, "class_tokens_from": 2}],
    ids=["DiT", "JiT, from the first block", "JiT, from the last block"],
)
def test_blocks_one_after_the_other(options):
    """DiT and JiT written out: embedding, three blocks, head, in float64."""
    net = DiT(**TINY, num_classes=3, positions="none", cond_features=2, **options)
    x = image(2, 4, 4, 3)
    cond = {"label": jnp.array([1, -1]), "vector": image(2, 2, seed=4)}
    params = parameters(net, x, cond)
    tree = jax.tree.map(lambda a: np.asarray(a, float), params)

    def dense(v, layer):
        return v @ layer["kernel"] + layer["bias"]

    def silu(v):
        return v / (1 + np.exp(-v))

    def norm(v, shift, scale):
        v = v - v.mean(-1, keepdims=True)
        v = v / np.sqrt((v**2).mean(-1, keepdims=True) + 1e-6)
        return v * (1 + scale) + shift

    v = np.asarray(NOISE, float)[:, None] * 1e-4 ** (np.arange(128) / 128)
    c = dense(np.concatenate([np.sin(v), np.cos(v)], 1), tree["embed_0"])
    label = tree["embed_label"]["embedding"][[1, 3]]
    c = dense(silu(c), tree["embed_1"]) + label
    c = silu(c + np.asarray(cond["vector"], float) @ tree["embed_vector"]["kernel"])[:, None]
    h = np.asarray(patchify(x, (2, 2)), float).reshape(2, 4, 12)
    if options:
        h = h @ tree["embed_bottleneck"]
    h = dense(h, tree["embed_patch"])
    blocks = [
        jax.tree.map(lambda a, i=i: a[i], tree[name])
        for name in ("blocks", "later_blocks")
        if name in tree
        for i in range(len(tree[name]["out"]["bias"]))
    ]
    assert len(blocks) == 3
    for i, block in enumerate(blocks):
        if i == options.get("class_tokens_from"):
            h = np.concatenate([label[:, None] + tree["class_tokens"], h], axis=1)
        n = h.shape[1]
        shift, scale, gate = np.split(dense(c, block["heads"]["norm"]["modulation"]), 3, -1)
        qkv = dense(norm(h, shift, scale), block["heads"]["qkv"]).reshape(2, n, 3, 2, 12)
        logits = np.einsum("bnhd,bmhd->bhnm", qkv[:, :, 0], qkv[:, :, 1]) / np.sqrt(12)
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        attended = np.einsum("bhnm,bmhd->bnhd", weights, qkv[:, :, 2]).reshape(2, n, 24)
        h = h + gate * dense(attended, block["out"])
        shift, scale, gate = np.split(dense(c, block["residual"]["norm"]["modulation"]), 3, -1)
        u = dense(norm(h, shift, scale), block["residual"]["mlp"]["in"])
        u = u / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3)))
        h = h + gate * dense(u, block["residual"]["mlp"]["out"])
    h = h[:, -4:]
    shift, scale = np.split(dense(c, tree["out_norm"]["modulation"]), 2, -1)
    out = dense(norm(h, shift, scale), tree["out"]).reshape(2, 2, 2, 2, 2, 3)
    out = out.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)
    assert relative_error(apply(net, params, x, cond=cond), out) < ROUNDING


def test_sets_are_equivariant():
    """Permuted points, with their levels of noise, give permuted outputs; with positions they do
    not."""
    net = DiT(1, **TINY, positions="none", context="joint", context_features=6)
    x, levels = image(2, 7, 3), jnp.abs(image(2, 7, seed=1))
    order = np.array([3, 0, 6, 1, 5, 2, 4])
    params = parameters(net, x, CONTEXT)
    out = apply(net, params, x, levels, CONTEXT)
    permuted = apply(net, params, x[:, order], levels[:, order], CONTEXT)
    assert relative_error(permuted, out[:, order]) < ROUNDING
    assert relative_error(apply(net, params, x[:, order], levels, CONTEXT), permuted) > 0.01
    for positions in ("sines", "rope"):
        ordered = net.clone(positions=positions)
        out = apply(ordered, params, x, levels, CONTEXT)
        permuted = apply(ordered, params, x[:, order], levels[:, order], CONTEXT)
        assert relative_error(permuted, out[:, order]) > 0.01


def test_registers_have_no_place():
    """They can change places, and each is read."""
    net = DiT(**TINY, positions="rope", registers=3)
    x = image(2, 4, 4, 3)
    params = parameters(net, x)
    out = apply(net, params, x)
    turned = {**params, "registers": params["registers"][::-1]}
    assert relative_error(apply(net, turned, x), out) < ROUNDING
    for i in range(3):
        other = {**params, "registers": params["registers"].at[i].mul(-1.0)}
        assert relative_error(apply(net, other, x), out) > 1e-3


def test_class_tokens_have_no_place():
    """Those that begin at the first block are registers plus the class, with the same positions
    and levels of noise."""
    net = DiT(**TINY, positions="sines+rope", num_classes=3, class_tokens=3)
    x, cond, levels = image(2, 4, 4, 3), {"label": jnp.ones(2, int)}, jnp.abs(image(2, 4, seed=1))
    params = parameters(net, x, cond)
    registers = params["class_tokens"] + params["embed_label"]["embedding"][1][None]
    other = {**params, "registers": registers, "blocks": params["later_blocks"]}
    plain = net.clone(class_tokens=0, registers=3)
    del other["class_tokens"], other["later_blocks"]
    out = apply(net, params, x, levels, cond)
    assert relative_error(apply(plain, other, x, levels, cond), out) < ROUNDING


@pytest.mark.parametrize("context", ["cross", "joint"])
def test_a_level_of_noise_for_each_token(context):
    """Equal levels are one level. A level of a frame is that of all its patches. The level of one
    token reaches the output of this token most."""
    net = DiT((1, 2, 2), **TINY, **ALL, context=context)
    x = image(2, 3, 4, 2, 3)
    params = parameters(net, x, CONTEXT)
    one = apply(net, params, x, cond=CONTEXT)
    for shape in ((6,), (3,), (3, 2), (3, 2, 1)):
        noise = jnp.broadcast_to(NOISE.reshape(2, *(1 for _ in shape)), (2, *shape))
        assert relative_error(apply(net, params, x, noise, CONTEXT), one) < 1e-6
    frames = jnp.arange(6.0).reshape(2, 3)
    by_frame = apply(net, params, x, frames, CONTEXT)
    by_token = apply(net, params, x, jnp.repeat(frames, 2, axis=1), CONTEXT)
    np.testing.assert_array_equal(by_frame, by_token)
    changed = apply(net, params, x, frames.at[:, 1].add(0.5), CONTEXT)
    moved = np.abs(np.asarray(changed - by_frame)).mean((0, 2, 3, 4))
    assert moved[1] > 1.5 * max(moved[0], moved[2])
    with pytest.raises(
        ValueError, match=r"noise has the shape \(2, 4\), and there are \(3, 2, 1\)"
    ):
        net.apply({"params": params}, x, jnp.ones((2, 4)), CONTEXT)


@pytest.mark.parametrize("context", ["cross", "joint"])
def test_context_tokens_that_are_not_there(context):
    """A masked context is a shorter one."""
    net = DiT(**TINY, **ALL, context=context)
    x = image(2, 4, 4, 3)
    params = parameters(net, x, CONTEXT)
    short = {"context": CONTEXT["context"][:, :3]}
    mask = jnp.broadcast_to(jnp.arange(5) < 3, (2, 5))
    long = {"context": CONTEXT["context"].at[:, 3:].mul(100.0), "context_mask": mask}
    out = apply(net, params, x, cond=short)
    assert relative_error(apply(net, params, x, cond=long), out) < ROUNDING
    assert relative_error(apply(net, params, x, cond=CONTEXT), out) > 1e-3
    # with no token at all, what they would be does not matter
    nothing = {**long, "context_mask": mask & False}
    other = {"context": CONTEXT["context"] + 1, "context_mask": mask & False}
    np.testing.assert_array_equal(
        apply(net, params, x, cond=nothing), apply(net, params, x, cond=other)
    )


def test_cross_attention_to_nothing_is_no_cross_attention():
    x = image(2, 4, 4, 3)
    net = DiT(**TINY, context="cross", context_features=6)
    params = parameters(net, x, CONTEXT)
    cond = {**CONTEXT, "context_mask": jnp.zeros((2, 5), int)}
    found = apply(net, params, x, cond=cond)
    plain = {k: v for k, v in params.items() if k != "embed_context"}
    plain["blocks"] = {k: v for k, v in params["blocks"].items() if k != "cross"}
    assert relative_error(found, apply(DiT(**TINY), plain, x)) < ROUNDING


def test_labels():
    """The last row of the table is for no class, and rows of other classes are not read."""
    net = DiT(**TINY, num_classes=3)
    x = jnp.tile(image(1, 4, 4, 3), (2, 1, 1, 1))
    cond = {"label": jnp.array([-1, 2])}
    params = parameters(net, x, cond)
    out = apply(net, params, x, jnp.ones(2), cond)
    rows = params["embed_label"]["embedding"]
    params["embed_label"]["embedding"] = rows[jnp.array([0, 1, 3, 2])]
    swapped = apply(net, params, x, jnp.ones(2), cond)
    assert relative_error(swapped[::-1], out) < ROUNDING
    assert relative_error(swapped, out) > 0.01
    params["embed_label"]["embedding"] = params["embed_label"]["embedding"].at[:2].set(jnp.nan)
    np.testing.assert_array_equal(apply(net, params, x, jnp.ones(2), cond), swapped)


def test_an_image_beside_x():
    """As many more channels of x."""
    net = DiT(**TINY, cond_channels=2)
    x, beside = image(2, 4, 4, 3), image(2, 4, 4, 2, seed=1)
    params = parameters(net, x, {"image": beside})
    both = jnp.concatenate([x, beside], -1)
    wide = apply(DiT(**TINY, out_channels=3), params, both)
    assert relative_error(apply(net, params, x, cond={"image": beside}), wide) < ROUNDING


@pytest.mark.parametrize(("context", "remat"), [("cross", "elementwise"), ("joint", "all")])
def test_derivatives(context, remat, x64):
    """J u by forward mode, which likelihoods need, is the difference quotient; and v . J u is
    u . J^T v by reverse mode, with results computed again."""
    net = DiT(**TINY, **ALL, context=context)
    x, u, v = (image(2, 4, 4, 3, seed=i).astype(jnp.float64) for i in range(3))
    cond = jax.tree.map(lambda a: a.astype(jnp.float64), CONTEXT)
    params = jax.tree.map(lambda a: a.astype(jnp.float64), parameters(net, x, cond))

    def f(x, remat="none"):
        net_ = net.clone(remat=remat)
        return net_.apply({"params": params}, x, NOISE.astype(jnp.float64), cond)

    step = 1e-5
    forward = jax.jit(lambda x, u: jax.jvp(f, (x,), (u,)))
    _, moved = forward(x, u)
    (high, _), (low, _) = forward(x + step * u, u), forward(x - step * u, u)
    np.testing.assert_allclose(moved, (high - low) / (2 * step), atol=1e-7)
    back = jax.jit(jax.grad(lambda x: jnp.vdot(v, f(x, remat))))(x)
    assert jnp.vdot(v, moved) == pytest.approx(float(jnp.vdot(back, u)), rel=1e-10)


def test_a_program_is_as_long_at_any_depth():
    x = jnp.ones((1, 8, 8, 4))

    def length(depth):
        net = DiT(2, 48, depth, 2)
        shapes = jax.eval_shape(net.init, jax.random.key(0), x, jnp.ones(1))
        step = jax.jit(jax.grad(lambda p: jnp.sum(net.apply(p, x, jnp.ones(1)) ** 2)))
        return len(step.lower(shapes).as_text())

    assert length(28) == pytest.approx(length(4), rel=0.01)


def test_dropout_only_in_training():
    """After attention and after the perceptron, each of which is cut off in turn."""
    net = DiT(**TINY, dropout=0.5)
    x = image(2, 4, 4, 3)
    params = parameters(net, x)
    plain = apply(net.clone(dropout=0.0), params, x)
    np.testing.assert_array_equal(apply(net, params, x), plain)

    @jax.jit
    def dropped(params):
        rngs = {"dropout": jax.random.key(0)}
        return net.apply({"params": params}, x, NOISE, None, True, rngs=rngs)

    flat = flatten_dict(params)
    for cut in (("blocks", "out"), ("blocks", "residual", "mlp", "out")):
        rest = {k: 0 * v if k[:-1] == cut else v for k, v in flat.items()}
        tree = unflatten_dict(rest)
        assert relative_error(dropped(tree), apply(net, tree, x)) > 0.01


def test_bfloat16():
    """Some 50 roundings of 2^-9 in a row, each relative to the numbers it rounds."""
    net = DiT(**TINY, **ALL, context="joint")
    x = image(2, 4, 4, 3)
    params = parameters(net, x, CONTEXT)
    out = apply(net, params, x, cond=CONTEXT)
    half = apply(net.clone(dtype="bfloat16"), params, x, cond=CONTEXT)
    assert half.dtype == x.dtype
    assert relative_error(half, out) < np.sqrt(50) * 2**-8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"positions": "learned"}, "positions='learned' is none of"),
        ({"num_heads": 5}, "num_heads=5 does not divide width=384"),
        ({"width": 18, "positions": "rope"}, "an even number of channels"),
        ({"context": "joint"}, "context='joint' does not go with context_features=0"),
        ({"dropout": 1.0}, "dropout=1.0 is not"),
        ({"class_tokens": 2}, "class_tokens=2 needs num_classes"),
        ({"depth": 3, "class_tokens_from": 3}, "class_tokens_from=3 is none of the 3 blocks"),
    ],
)
def test_fields_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        DiT(**fields)


def test_a_context_of_another_shape():
    net = DiT(**TINY, context="joint", context_features=6)
    x = image(2, 4, 4, 3)
    for cond in (None, {"context": image(2, 5, 7)}, {"context": image(5, 6)}):
        with pytest.raises(ValueError, match=r"needs cond\['context'\] of shape \(2, \d, 6\)"):
            jax.eval_shape(net.init, jax.random.key(0), x, NOISE, cond)


@pytest.mark.parametrize("function", [jax.nn.gelu, layer_norm])
def test_a_recomputed_function_keeps_its_argument_alone(function):
    """Derivatives are those of the plain function."""
    x, g = image(2, 3, 8), image(2, 3, 8, seed=1)
    kept = jax.tree.leaves(jax.vjp(recomputed(function), x)[1])
    assert [a.shape for a in kept] == [x.shape]
    np.testing.assert_array_equal(kept[0], x)
    found, truth = (jax.vjp(f, x)[1](g)[0] for f in (recomputed(function), function))
    assert relative_error(found, truth) < ROUNDING
    assert len(jax.tree.leaves(jax.vjp(function, x)[1])) > 1
