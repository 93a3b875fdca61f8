"""Networks of EDM and EDM2: the published sizes, and what magnitude preservation preserves.

That they compute what the public code does is in tests/published/test_published_edm.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.nets.edm import DhariwalUNet, SongUNet
from score_sde.nets.edm2 import EDM2UNet, MPConv, MPFourier, mp_cat, mp_silu, mp_sum, normalized

NCSNPP = {
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "resample_filter": (1, 3, 3, 1),
}
TINY = {"model_channels": 8, "channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": ()}


def parameters(net, side, channels=3):
    """Shapes alone; nothing is computed."""
    cond = {"label": jnp.zeros(1, jnp.int32)}

    def init(key):
        return net.init(key, jnp.zeros((1, side, side, channels)), jnp.ones(1), cond)["params"]

    return jax.eval_shape(init, jax.random.key(0))


@pytest.mark.parametrize(
    ("net", "side", "millions"),
    [
        (SongUNet(channel_mult=(2, 2, 2), augment_dim=9), 32, 55.73),
        (SongUNet(channel_mult=(2, 2, 2), augment_dim=9, **NCSNPP), 32, 56.40),
        (SongUNet(augment_dim=9), 64, 61.81),
        (SongUNet(augment_dim=9, **NCSNPP), 64, 62.76),
        (DhariwalUNet(num_classes=1000), 64, 295.90),
    ],
)
def test_sizes_are_the_published_ones(net, side, millions):
    sizes = [leaf.size for leaf in jax.tree.leaves(parameters(net, side))]
    assert round(sum(sizes) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("width", "millions"),
    [(128, 124.7), (256, 497.8), (448, 1523.2)],
)
def test_sizes_of_edm2(width, millions):
    """XS, M and XXL, of latents [64, 64, 4]."""
    net = EDM2UNet(model_channels=width, num_classes=1000)
    sizes = [leaf.size for leaf in jax.tree.leaves(parameters(net, 64, 4))]
    assert round(sum(sizes) / 1e6, 1) == millions


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def mean_square(x):
    return float(jnp.mean(x**2))


def test_magnitudes_are_preserved():
    """Of independent standard normal numbers, by every layer; errors are those of the sample."""
    x, y = normal(100_000, 12), normal(100_000, 4, seed=1)
    assert mean_square(mp_silu(x)) == pytest.approx(1, abs=0.01)
    for t in (0.1, 0.3, 0.5):
        assert mean_square(mp_sum(x, normal(100_000, 12, seed=2), t)) == pytest.approx(1, abs=0.01)
        joined = mp_cat(x, y, t)
        assert mean_square(joined) == pytest.approx(1, abs=0.02)
        # x and y weigh (1 - t)^2 and t^2, however many channels they have
        part = 12 * mean_square(joined[:, :12]) / (4 * mean_square(joined[:, 12:]))
        assert part == pytest.approx(((1 - t) / t) ** 2, rel=0.02)
    dense = MPConv(64)
    params = dense.init(jax.random.key(0), x[:1])
    assert mean_square(dense.apply(params, x[:20_000])) == pytest.approx(1, abs=0.02)
    fourier = MPFourier(256)
    params = fourier.init(jax.random.key(0), jnp.ones(1))
    assert mean_square(fourier.apply(params, 100 * normal(400))) == pytest.approx(1, abs=0.05)


def test_weights_are_normalised_in_evaluation_too():
    """A larger weight is the same layer, up to the 1e-4 beside the root mean square."""
    x, layer = normal(5, 12), MPConv(7)
    params = layer.init(jax.random.key(0), x)["params"]
    rms = jnp.sqrt(jnp.mean(params["kernel"] ** 2, axis=0))
    np.testing.assert_allclose(rms, 1, atol=2e-4)
    larger = {"kernel": 10 * params["kernel"]}
    ours, same = (layer.apply({"params": p}, x) for p in (params, larger))
    np.testing.assert_allclose(ours, same, rtol=2e-4, atol=1e-5)
    by_hand = x @ (params["kernel"] / (1e-4 + rms)[None]) / np.sqrt(12)
    np.testing.assert_allclose(ours, by_hand, rtol=1e-5, atol=1e-6)


def test_normalisation_of_zeros_has_a_derivative():
    found = jax.grad(lambda x: jnp.sum(normalized(x, (1,)) ** 2))(jnp.zeros((2, 3)))
    np.testing.assert_array_equal(found, 0)


@pytest.mark.parametrize("net", [SongUNet(**TINY), DhariwalUNet(**TINY)])
def test_a_network_begins_at_zero_and_has_dropout_in_training_alone(net):
    net = net.clone(dropout=0.5)
    x, noise = normal(2, 8, 8, 3), jnp.ones(2)

    @jax.jit
    def init(key):
        return net.init(key, x, noise)["params"]

    params = init(jax.random.key(0))
    apply = jax.jit(
        lambda params, key: net.apply({"params": params}, x, noise, {}, True, rngs={"dropout": key})
    )
    keys = jax.random.split(jax.random.key(1))
    assert np.abs(apply(params, keys[0])).max() < 1e-3
    params = jax.tree.map(lambda a: a + 0.1, params)
    assert np.abs(apply(params, keys[0]) - apply(params, keys[1])).max() > 1e-2
    still = jax.jit(lambda params: net.apply({"params": params}, x, noise))
    np.testing.assert_array_equal(still(params), still(params))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SongUNet(encoder_type="both"), "encoder_type='both' is none of"),
        (lambda: SongUNet(resample_filter=(1, 2, 1)), "even number of taps"),
        (lambda: EDM2UNet(resample_filter=(1, 2)), "not symmetric"),
        (lambda: DhariwalUNet(dropout=1.0), "dropout=1.0 is not"),
        (lambda: parameters(SongUNet(**TINY), 7), "cannot be halved 1 times"),
        (
            lambda: SongUNet(**TINY, num_classes=3).init(
                jax.random.key(0), normal(1, 8, 8, 3), jnp.ones(1)
            ),
            "needs cond.'label'. of shape",
        ),
        (
            lambda: SongUNet(**TINY, augment_dim=9).init(
                jax.random.key(0), normal(1, 8, 8, 3), jnp.ones(1), {"augment": jnp.ones((1, 5))}
            ),
            "cond.'augment'. has the shape",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_half_precision_keeps_the_result():
    """bfloat16 has 8 bits: a per cent or so after a few layers. Embeddings stay exact."""
    net = EDM2UNet(**TINY | {"channel_mult": (1,)}, num_classes=3, channels_per_head=8)
    x, noise, cond = normal(2, 8, 8, 3), jnp.array([0.1, -1.0]), {"label": jnp.array([0, 2])}
    params = jax.jit(net.init)(jax.random.key(0), x, noise, cond)
    params = jax.tree.map(lambda a: a + 0.7 if a.ndim == 0 else a, params)
    whole = jax.jit(net.apply)(params, x, noise, cond)
    half = jax.jit(net.clone(dtype="bfloat16").apply)(params, x, noise, cond)
    assert half.dtype == jnp.float32
    error = float(jnp.sqrt(jnp.mean((half - whole) ** 2) / jnp.mean(whole**2)))
    assert 1e-4 < error < 0.05


def test_blocks_that_are_computed_again_give_the_same_gradient():
    """With dropout, whose numbers are drawn again too; up to how two programs round."""
    sizes = TINY | {"channel_mult": (1,)}
    for net in (SongUNet(**sizes, dropout=0.5), EDM2UNet(**sizes, channels_per_head=8)):
        x, noise = normal(2, 4, 4, 3), jnp.ones(2)
        params = jax.jit(net.init)(jax.random.key(0), x, noise)["params"]
        params = jax.tree.map(lambda a: a + 0.1, params)

        def slope(params, net, x=x, noise=noise):
            def loss(params):
                rngs = {"dropout": jax.random.key(1)}
                return jnp.sum(net.apply({"params": params}, x, noise, {}, True, rngs=rngs) ** 2)

            return jax.grad(loss)(params)

        kept, again = (
            jax.jit(slope, static_argnums=1)(params, net.clone(remat=policy))
            for policy in ("none", "all")
        )
        for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(again), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(a).max()))
