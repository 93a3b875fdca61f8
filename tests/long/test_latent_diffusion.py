"""Tests of the networks of latent diffusion that compile much."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.nets.autoencoder import AutoencoderKL
from score_sde.nets.conditional_unet import ConditionalUNet
from tests.latent_diffusion_sizes import published_size
from tests.nets import test_autoencoder, test_conditional_unet
from tests.nets.test_nets import NOISE, apply, image, parameters, relative_error

NETS = {
    "unet": (
        ConditionalUNet(**test_conditional_unet.TINY, **test_conditional_unet.ALL),
        test_conditional_unet.COND,
    ),
    "autoencoder": (AutoencoderKL(**test_autoencoder.TINY, ch_mult=(1, 2)), None),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("remat", ["elementwise", "all"])
def test_derivatives(name, remat, x64):
    """J u by forward mode is the difference quotient; v . J u is u . J^T v by reverse mode, with
    results computed again."""
    net, cond = NETS[name]
    x, u, v = (image(2, 4, 4, 3, seed=i).astype(jnp.float64) for i in range(3))
    cond, params = jax.tree.map(
        lambda a: a.astype(jnp.float64), (cond, parameters(net, x.astype(jnp.float32), cond))
    )

    def f(x, remat="none"):
        noise = NOISE.astype(jnp.float64)
        return net.clone(remat=remat).apply({"params": params}, x, noise, cond)

    step = 1e-5
    forward = jax.jit(lambda x, u: jax.jvp(f, (x,), (u,)))
    _, moved = forward(x, u)
    (high, _), (low, _) = forward(x + step * u, u), forward(x - step * u, u)
    np.testing.assert_allclose(moved, (high - low) / (2 * step), atol=1e-7)
    back = jax.jit(jax.grad(lambda x: jnp.vdot(v, f(x, remat))))(x)
    assert jnp.vdot(v, moved) == pytest.approx(float(jnp.vdot(back, u)), rel=1e-10)


def test_published_sizes(tmp_path):
    published_size("SD 2.1", tmp_path)
    net = published_size("SDXL", tmp_path)
    assert (net.depths, net.mid_depth, net.heads) == ((0, 2, 10), 10, (5, 10, 20))
    assert (net.cond_features, net.sizes, net.size_features) == (1280, 6, 256)


def test_bfloat16_of_the_autoencoder():
    """Some 20 roundings of 2^-9 in a row, each relative to the numbers it rounds. The last layers
    are in the dtype of the input."""
    net = AutoencoderKL(**test_autoencoder.TINY, ch_mult=(1,))
    x = image(2, 4, 4, 3)
    params = parameters(net, x)
    whole, half = (
        jax.jit(net.clone(dtype=dtype).apply)({"params": params}, x) for dtype in (None, "bfloat16")
    )
    assert half.dtype == x.dtype
    assert 1e-5 < relative_error(half, whole) < np.sqrt(20) * 2**-8


def test_it_starts_near_zero_and_drops_in_training():
    """At first the last kernel is almost 0, and with it the output."""
    net = ConditionalUNet(**{**test_conditional_unet.TINY, "depths": (0,)}, dropout=0.5)
    x, cond = image(2, 4, 4, 3), {"context": test_conditional_unet.COND["context"]}
    first = jax.jit(net.init)(jax.random.key(0), x, NOISE, cond)["params"]
    assert np.abs(apply(net, first, x, cond=cond)).max() < 1e-3

    @jax.jit
    def dropped(params):
        rngs = {"dropout": jax.random.key(0)}
        return net.apply({"params": params}, x, NOISE, cond, True, rngs=rngs)

    params = parameters(net, x, cond)
    out = apply(net, params, x, cond=cond)
    assert relative_error(dropped(params), out) > 0.01
    np.testing.assert_array_equal(apply(net.clone(dropout=0.0), params, x, cond=cond), out)
