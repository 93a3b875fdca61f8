"""A network that reads more than its base: at first it is the base, and then it learns."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from score_sde.models.adapters import extended
from score_sde.nets.conditional_unet import ConditionalUNet
from score_sde.nets.dit import DiT
from score_sde.nets.ncsnpp import NCSNpp

KEY = jax.random.key(0)
DIT = DiT(width=16, depth=2, num_heads=2, context="cross", vocabulary=5, text_depth=0)
NETS = {
    "dit": DIT,
    "bottleneck": DIT.clone(embed_width=8),
    "ncsnpp": NCSNpp(nf=8, ch_mult=(1,), num_res_blocks=1, attn_resolutions=()),
    "unet": ConditionalUNet(
        channels=8,
        ch_mult=(1,),
        num_res_blocks=1,
        depths=(1,),
        num_heads=2,
        groups=2,
        context_features=4,
    ),
}
X = jax.random.normal(KEY, (3, 4, 4, 2))
TOKENS = jnp.array([[0, 4, -1], [2, 2, 1], [-1, -1, -1]], jnp.int32)
IMAGE = jax.random.normal(jax.random.key(1), (3, 4, 4, 6))


def drawn(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(0.3 * rng.normal(size=a.shape), a.dtype), tree)


def params_of(net, cond, seed=0):
    return drawn(jax.eval_shape(net.init, KEY, X, jnp.ones(3), cond)["params"], seed)


@pytest.mark.parametrize("name", NETS)
def test_at_first_no_image_changes_a_bit(name):
    """The output is that of the base, whose kernel is shorter, so that its sums may be rounded in
    another order. The kernel learns of the image from the first step on."""
    net, cond = NETS[name], {"tokens": TOKENS, "context": jnp.ones((3, 2, 4))}
    base = params_of(net, cond)
    adapter = extended("base", cond_channels=6)
    wide, seen = adapter.changed(net), {**cond, "image": IMAGE}
    delta = adapter.init(KEY, base, lambda: params_of(wide, seen, seed=1))

    def output(delta, image):
        merged = adapter.merge(base, delta)
        return wide.apply({"params": merged}, X, jnp.ones(3), {**cond, "image": image})

    @jax.jit
    def both(delta, image):
        gradient = jax.grad(lambda d: jnp.sum(output(d, image) * X))(delta)
        return output(delta, image), gradient

    found, gradient = both(delta, IMAGE)
    np.testing.assert_array_equal(found, both(delta, 0 * IMAGE)[0])
    plain = jax.jit(net.apply)({"params": base}, X, jnp.ones(3), cond)
    assert np.std(plain) > 0.1
    np.testing.assert_allclose(found, plain, atol=1e-4 * np.abs(plain).max())
    grown = {p for p, d in flatten_dict(delta).items() if d.shape != flatten_dict(base)[p].shape}
    assert len(grown) == 1
    kernel = flatten_dict(gradient)[grown.pop()]
    assert (np.abs(kernel).max(axis=-1) > 0).all()  # in all places of a patch


def test_the_output_of_new_rows_is_that_of_the_larger_network():
    """A DiT that never had a base, whose kernel is cut: the cut rows are those of the image."""
    wide, cond = DIT.clone(cond_channels=6), {"tokens": TOKENS}
    whole = params_of(wide, {**cond, "image": IMAGE})
    kernel = whole["embed_patch"]["kernel"].reshape(4, 8, 16)
    base = {**whole, "embed_patch": {**whole["embed_patch"]}}
    base["embed_patch"]["kernel"] = kernel[:, :2].reshape(8, 16)
    adapter = extended("base", cond_channels=6)
    delta = jax.tree.map(jnp.zeros_like, whole)
    delta["embed_patch"]["kernel"] = kernel.at[:, :2].set(0).reshape(32, 16)
    chex.assert_trees_all_equal(adapter.merge(base, delta), whole)


def test_new_words_and_blocks_for_text_leave_old_words_as_they_were():
    base, cond = params_of(DIT, {"tokens": TOKENS}), {"tokens": TOKENS}
    adapter = extended("base", vocabulary=9, text_depth=2)
    wide = adapter.changed(DIT)
    assert (wide.vocabulary, wide.text_depth, wide.width) == (9, 2, 16)

    def fresh():
        return wide.init(KEY, X, jnp.ones(3), cond)["params"]

    delta = adapter.init(KEY, base, fresh)
    rows = delta["text"]["embed"]["embedding"]
    np.testing.assert_array_equal(rows[:5], 0)
    assert np.std(rows[5:]) == pytest.approx(0.02, rel=0.3)  # of 64 numbers: three errors

    @jax.jit
    def output(delta, tokens):
        merged = adapter.merge(base, delta)
        return wide.apply({"params": merged}, X, jnp.ones(3), {"tokens": tokens})

    plain = jax.jit(DIT.apply)({"params": base}, X, jnp.ones(3), cond)
    np.testing.assert_allclose(output(delta, TOKENS), plain, atol=1e-4 * np.abs(plain).max())
    other = {**delta, "text": drawn(delta["text"], seed=2)}
    assert np.abs(output(other, TOKENS) - plain).max() > 1e-2
    assert np.abs(output(delta, TOKENS.at[0, 1].set(8)) - plain)[0].max() > 1e-3
    gradient = jax.grad(lambda d: jnp.sum(output(d, TOKENS.at[0, 1].set(8)) * X))(delta)
    assert np.abs(gradient["text"]["blocks"]["out"]["kernel"]).max() > 0
    assert np.abs(gradient["text"]["embed"]["embedding"][8]).max() > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cond_channels": 6}, "the base has cond_channels=2, and cannot be given 6"),
        ({"vocabulary": 4}, "the base has vocabulary=5, and cannot be given 4"),
    ],
)
def test_mistakes(fields, message):
    with pytest.raises(ValueError, match=message):
        extended("base", **fields).changed(DIT.clone(cond_channels=2))
    with pytest.raises(ValueError, match="must be positive"):
        extended("base")
    with pytest.raises(ValueError, match="NCSNpp has no field vocabulary"):
        extended("base", vocabulary=9).changed(NETS["ncsnpp"])
