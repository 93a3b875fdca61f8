"""The family of LoRA against its equations, in NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from flax.traverse_util import flatten_dict

from score_sde.config import build
from score_sde.errors import ConfigError
from score_sde.experiment.old_configs import renewed
from score_sde.models import low_rank
from score_sde.models.adapters import add_change, full, lora, rows
from score_sde.nets.dit import DiT
from score_sde.nets.layers import Conv

DIT = DiT(
    width=16,
    depth=3,
    num_heads=2,
    num_classes=3,
    class_tokens=2,
    class_tokens_from=1,
    context="cross",
    vocabulary=5,
)
KINDS = [
    lora("base", rank=2),
    lora("base", rank=2, dora=True),
    lora("base", rank={"qkv": 3, "mlp": 1}, alpha=2.0, rslora=True),
    full("base"),
]


def drawn(tree, seed=0):
    """A tree of the same shapes, of normal numbers."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), tree)


@pytest.fixture(scope="module")
def base():
    """Parameters of a DiT with text and class tokens: blocks of three stacks."""
    cond = {"label": jnp.zeros(1, jnp.int32), "tokens": jnp.zeros((1, 4), jnp.int32)}

    def init(key):
        return DIT.init(key, jnp.zeros((1, 4, 4, 2)), jnp.ones(1), cond)["params"]

    return drawn(jax.eval_shape(init, jax.random.key(0)))


@pytest.mark.parametrize("adapter", KINDS, ids=["lora", "dora", "rslora", "full"])
def test_at_first_the_base_bit_for_bit_and_a_gradient(adapter, base):
    delta = adapter.init(jax.random.key(0), base)
    chex.assert_trees_all_equal(jax.jit(adapter.merge)(base, delta), base, strict=True)
    small = {name: size(leaf) for name, leaf in flatten_dict(delta).items()}
    if adapter.factors is not None:
        assert sum(small.values()) < sum(map(size, jax.tree.leaves(base)))

    def loss(delta):  # some gradient by the parameters
        parts = jax.tree.map(
            lambda p, g: jnp.sum(p * g), adapter.merge(base, delta), drawn(base, 1)
        )
        return sum(jax.tree.leaves(parts))

    gradient = flatten_dict(jax.jit(jax.grad(loss))(delta))
    moved = {name for name, leaf in gradient.items() if np.abs(leaf).max() > 0}
    if adapter.factors is not None:  # A is at a saddle until B has moved
        assert moved == {name for name in gradient if name[-1] != "a"}
    assert moved


def size(leaf):
    return leaf.size


def test_stacked_layers_have_a_lora_each(base):
    """As many layers as a bias has rows; the change of each is of the rank."""
    adapter = lora("base", rank=2, alpha=3.0)
    delta = drawn(adapter.init(jax.random.key(0), base), seed=1)
    flat, small = flatten_dict(base), flatten_dict(delta)
    merged, stacks = flatten_dict(jax.jit(adapter.merge)(base, delta)), set()
    for path, kernel in flat.items():
        if path[-1] != "kernel":
            np.testing.assert_array_equal(merged[path], kernel)
            continue
        *stack, m = flat[(*path[:-1], "bias")].shape
        stacks.add((path[0], *stack))
        a, b = (np.asarray(small[(*path[:-1], name)], float) for name in "ab")
        assert (a.shape, b.shape) == ((*stack, kernel.shape[-2], 2), (*stack, 2, m))
        truth = np.asarray(kernel, float) + 1.5 * np.einsum("...nr,...rm->...nm", a, b)
        np.testing.assert_allclose(merged[path], truth, rtol=1e-5, atol=1e-5)
    assert {("blocks", 1), ("later_blocks", 2), ("text", 2)} <= stacks


def test_merged_is_unmerged():
    """A layer with the merged kernel, and the layer plus its two small ones, 1e-6."""
    x = drawn(jnp.zeros((2, 7, 7, 5)))
    layer = Conv(6, 3, 2, ((1, 1), (1, 1)))
    base = {"conv": layer.init(jax.random.key(0), x)["params"]}
    adapter = lora("base", rank=2, alpha=1.0)
    delta = drawn(adapter.init(jax.random.key(0), base))
    a, b = delta["conv"]["a"].reshape(3, 3, 5, 2), delta["conv"]["b"].reshape(1, 1, 2, 6)
    found = layer.apply({"params": adapter.merge(base, delta)["conv"]}, x)
    down = Conv(2, 3, 2, ((1, 1), (1, 1))).apply({"params": {"kernel": a, "bias": jnp.zeros(2)}}, x)
    up = Conv(6, 1).apply({"params": {"kernel": b, "bias": jnp.zeros(6)}}, down)
    truth = layer.apply({"params": base["conv"]}, x) + 0.5 * up
    error = np.abs(found - truth).max() / np.abs(truth).max()
    assert error < 1e-6


def test_dora_and_its_gradient():
    """Eq. 5, and eq. 11: the norm below the line is a constant for the gradient."""
    rng = np.random.default_rng(0)
    w, c = rng.normal(size=(2, 3, 3, 4, 5))
    a, b, more = rng.normal(size=(36, 2)), rng.normal(size=(2, 5)), rng.normal(size=5) / 5
    adapter = lora("base", rank=2, alpha=3.0, dora=True)
    base = {"conv": {"kernel": jnp.asarray(w, jnp.float32)}}
    delta = {"conv": {"a": a, "b": b, "magnitude": more}}
    delta = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), delta)

    def loss(delta):
        return jnp.sum(jnp.asarray(c, jnp.float32) * adapter.merge(base, delta)["conv"]["kernel"])

    v = w.reshape(36, 5) + 1.5 * a @ b
    now = np.linalg.norm(v, axis=0)
    norm = np.linalg.norm(w.reshape(36, 5), axis=0) + more
    merged = adapter.merge(base, delta)["conv"]["kernel"]
    truth = (v * norm / now).reshape(w.shape)
    np.testing.assert_allclose(merged, truth, rtol=1e-4, atol=1e-5)
    gradient, flat = jax.grad(loss)(delta)["conv"], c.reshape(36, 5)
    by_v = flat * norm / now
    np.testing.assert_allclose(gradient["b"], 1.5 * a.T @ by_v, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient["a"], 1.5 * by_v @ b.T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient["magnitude"], (flat * v).sum(0) / now, rtol=1e-4, atol=1e-4)
    (factors,) = adapter.factors(base, delta).values()
    np.testing.assert_allclose(factors.magnitude, norm, rtol=1e-5)
    dead = {"conv": {"kernel": jnp.zeros((3, 3, 4, 5))}}  # a layer that starts at zero
    at_first = adapter.merge(dead, adapter.init(jax.random.key(0), dead))
    np.testing.assert_array_equal(at_first["conv"]["kernel"], 0)


def test_ranks_and_alphas_by_layer(base):
    """The first pattern that matches counts; a layer without a rank stays."""
    rank, alpha = {"qkv": 3, "residual/mlp/in": 1}, {"later.*qkv": 6.0, "in$": 2.0}
    adapter = lora("base", rank, alpha, rslora=True)
    delta = drawn(adapter.init(jax.random.key(0), base))
    found = {path: leaf.shape[-1] for path, leaf in flatten_dict(delta).items() if path[-1] == "a"}
    assert {("/".join(path[:-1]), r) for path, r in found.items()} == {
        ("blocks/heads/qkv", 3),
        ("later_blocks/heads/qkv", 3),
        ("blocks/residual/mlp/in", 1),
        ("later_blocks/residual/mlp/in", 1),
        ("text/blocks/qkv", 3),
    }
    merged = adapter.merge(base, delta)
    for path, r, of_layer in (
        (("blocks", "heads", "qkv"), 3, 3.0),
        (("later_blocks", "heads", "qkv"), 3, 6.0),
        (("blocks", "residual", "mlp", "in"), 1, 2.0),
    ):
        kernel, a, b = (
            flatten_dict(tree)[(*path, name)]
            for tree, name in ((base, "kernel"), (delta, "a"), (delta, "b"))
        )
        truth = kernel + of_layer / np.sqrt(r) * (a @ b)
        np.testing.assert_allclose(flatten_dict(merged)[(*path, "kernel")], truth, rtol=1e-5)
    chex.assert_trees_all_equal(merged["embed_0"], base["embed_0"])


def test_patterns_of_the_guide(base):
    """docs/guides/adapters.md: attention and perceptrons of a DiT."""
    found = {}
    for pattern in (r"qkv$|blocks/(context_)?out$|cross/", "mlp/"):
        delta = flatten_dict(lora("b", layers=pattern).init(jax.random.key(0), base))
        found[pattern] = {"/".join(path[1:-1]) for path in delta if path[0] == "blocks"}
    attention, mlp = found.values()
    assert attention == {"heads/qkv", "out", "cross/q", "cross/kv", "cross/out"}
    assert mlp == {"residual/mlp/in", "residual/mlp/out"}


def test_rows_of_an_embedding(base):
    """The word's row alone changes, and has a gradient where the text has the word."""
    adapter = rows("b", numbers=(2, 4))
    delta = adapter.init(jax.random.key(0), base)
    (path,) = flatten_dict(delta)
    assert (path[0], path[-1]) == ("text", "embedding")
    table = flatten_dict(base)[path]
    assert flatten_dict(delta)[path].shape == (2, table.shape[1])
    chex.assert_trees_all_equal(jax.jit(adapter.merge)(base, delta), base)
    moved = flatten_dict(adapter.merge(base, jax.tree.map(lambda a: a + 1, delta)))
    truth = np.array(table)
    truth[[2, 4]] += 1
    np.testing.assert_array_equal(moved.pop(path), truth)
    others = flatten_dict(base)
    del others[path]
    chex.assert_trees_all_equal(moved, others)
    tokens = jnp.asarray([1, 4, 0])

    def read(delta):
        return flatten_dict(adapter.merge(base, delta))[path][tokens].sum()

    gradient = flatten_dict(jax.grad(read)(delta))[path]
    np.testing.assert_array_equal(gradient, np.array([[0.0], [1.0]]) * np.ones(table.shape[1]))
    label = flatten_dict(rows("b", (3,), "embed_label").init(jax.random.key(0), base))
    assert list(label) == [("embed_label", "embedding")]
    for wrong, message in (
        (rows("b", (0,), "none"), "no embedding of the base matches layers='none'; it has"),
        (rows("b", (99,)), r"numbers=\(99,\) are not rows of text/.*, which has 0 to \d"),
        (rows("b", ()), r"numbers=\(\) are not rows of text/"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong.init(jax.random.key(0), base)


def test_several_adapters_commute_as_their_sum_does():
    """W + sum_i w_i s_i A_i B_i, in any order; a weight of 0 is the base, and one of 1 the adapter
    alone."""
    base = {"dense": {"kernel": drawn(jnp.zeros((5, 4))), "bias": jnp.ones(4)}}
    pair = lora("base", rank=1, alpha=2.0), lora("base", rank=3, rslora=True)
    deltas = [drawn(one.init(jax.random.key(0), base), seed=i) for i, one in enumerate(pair)]
    first, second = (one.merge(base, delta) for one, delta in zip(pair, deltas, strict=True))
    products = [delta["dense"]["a"] @ delta["dense"]["b"] for delta in deltas]
    truth = base["dense"]["kernel"] + 0.7 * 2 * products[0] - 0.4 * np.sqrt(3) * products[1]
    both = add_change(add_change(base, base, first, 0.7), base, second, -0.4)
    np.testing.assert_allclose(both["dense"]["kernel"], truth, atol=1e-5)
    np.testing.assert_array_equal(both["dense"]["bias"], base["dense"]["bias"])
    swapped = add_change(add_change(base, base, second, -0.4), base, first, 0.7)
    np.testing.assert_allclose(both["dense"]["kernel"], swapped["dense"]["kernel"], atol=1e-6)
    chex.assert_trees_all_equal(add_change(base, base, first, 0.0), base)
    one = add_change(base, base, first, 1.0)
    np.testing.assert_allclose(one["dense"]["kernel"], first["dense"]["kernel"], atol=1e-6)


def test_training_finds_the_whitened_svd():
    """D(x_t) = x_t W on Gaussian data: with C = E[x_t x_t^T] the loss is |C^(1/2) (W - W*)|^2 plus
    a constant, so that the best change of rank r is C^(-1/2) [C^(1/2) (W* - W_0)]_r (Eckart and
    Young). It is not the SVD of W* - W_0."""
    n, rank, alpha, sigma = 6, 2, 0.8, 0.6
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(n, n)) * np.geomspace(0.5, 0.25, n)
    s = mixing @ mixing.T
    c = alpha**2 * s + sigma**2 * np.eye(n)
    best, w0 = alpha * np.linalg.solve(c, s), rng.normal(size=(n, n)) / 3
    root = np.real(scipy.linalg.sqrtm(c))

    def cut(matrix):
        u, d, v = np.linalg.svd(matrix)
        return (u[:, :rank] * d[:rank]) @ v[:rank]

    truth = np.linalg.solve(root, cut(root @ (best - w0)))
    adapter = lora("base", rank)
    base = {"dense": {"kernel": jnp.asarray(w0, jnp.float32)}}

    def loss(delta):  # E |x_0 - x_t W|^2, less its least value
        error = jnp.asarray(root, jnp.float32) @ (
            adapter.merge(base, delta)["dense"]["kernel"] - jnp.asarray(best, jnp.float32)
        )
        return jnp.sum(jnp.square(error))

    def step(delta, _):
        gradient = jax.grad(loss)(delta)
        return jax.tree.map(lambda p, g: p - 0.05 * g, delta, gradient), None

    start = adapter.init(jax.random.key(0), base)
    trained, _ = jax.jit(lambda d: jax.lax.scan(step, d, None, 1000))(start)
    change = adapter.merge(base, trained)["dense"]["kernel"] - base["dense"]["kernel"]
    np.testing.assert_allclose(change, truth, atol=1e-5)
    assert np.abs(cut(best - w0) - truth).max() > 0.1


def test_factors_find_their_adapter_again(base):
    """Mixed ranks and alphas; the norms of layers that have none in a file change nothing."""
    kernels = {path[:-1]: a for path, a in flatten_dict(base).items() if path[-1] == "kernel"}
    rng = np.random.default_rng(0)

    def factors(path, rank, alpha, magnitude=None):
        *stack, n, m = low_rank.matrices(path, kernels[path]).shape
        a, b = rng.normal(size=(*stack, n, rank)), rng.normal(size=(*stack, rank, m))
        norm = None if magnitude is None else jnp.full((*stack, m), magnitude, jnp.float32)
        return low_rank.Factors(jnp.asarray(a, "float32"), jnp.asarray(b, "float32"), alpha, norm)

    qkv, other = ("blocks", "heads", "qkv"), ("embed_0",)
    for found, wanted in (
        ({qkv: factors(qkv, 2, 2.0)}, "lora(workdir='base', rank=2, layers='^blocks/heads/qkv$')"),
        ({qkv: factors(qkv, 2, 2.0), other: factors(other, 3, 5.0)}, None),
        ({qkv: factors(qkv, 2, 4.0), other: factors(other, 2, 4.0, 0.5)}, None),
    ):
        spec = low_rank.spec_of("base", kernels, found)
        if wanted is not None:
            assert spec == wanted
        adapter, delta = build("models.adapters", spec), low_rank.delta_of(kernels, found)
        shapes = jax.tree.map(jnp.shape, adapter.init(jax.random.key(0), base))
        assert jax.tree.map(jnp.shape, delta) == shapes
        merged = flatten_dict(adapter.merge(base, delta))
        for path, (a, b, alpha, norm) in found.items():
            truth = kernels[path] + alpha / a.shape[-1] * (a @ b)
            if norm is not None:
                truth = np.asarray(truth) * np.asarray(norm) / np.linalg.norm(truth, axis=-2)
            np.testing.assert_allclose(merged[(*path, "kernel")], truth, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("lora(workdir='b', rank=-1)", "rank must be positive, not -1"),
        ("lora(workdir='b', rank={'a': 0})", "rank must be positive, not 0"),
        ("lora(workdir='b', alpha=0.0)", "alpha must be positive, not 0.0"),
        ("lora(workdir='b', layers='(')", "is no regular expression"),
        ("lora(workdir='b', rank={'(': 1})", "is no regular expression"),
        ("full(workdir='b', layers='[')", "is no regular expression"),
        ("lora(rank=1)", r"needs the field\(s\) workdir"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(ConfigError, match=message):
        build("models.adapters", call)


def test_nothing_is_chosen(base):
    for adapter in (lora("b", layers="none"), lora("b", {"none": 2}), full("b", "none")):
        with pytest.raises(ValueError, match=r"no (layer|parameter) of the base matches"):
            adapter.init(jax.random.key(0), base)


def test_earlier_configs_keep_their_scale():
    """LoRA was W + scale A B / rank, by default W + A B / rank."""
    for old, alpha in (
        ("low_rank(workdir='b', rank=4)", 1.0),
        ("low_rank(workdir='b', scale=3)", 3),
    ):
        call = renewed({"adapter": old})["adapter"]
        assert call == old.replace("low_rank", "lora").replace(", scale=3", "").replace(
            ")", f", alpha={alpha!r})"
        )
    assert renewed({"adapter": None}) == {"adapter": None}
