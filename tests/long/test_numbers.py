"""Every network reads numbers beside the noise level, such as how far a flow map goes, and can be
differentiated by them forwards."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.nets.adm import ADM
from score_sde.nets.dit import DiT
from score_sde.nets.edm import DhariwalUNet, SongUNet
from score_sde.nets.edm2 import EDM2UNet
from score_sde.nets.mlp import MLP
from score_sde.nets.ncsnpp import NCSNpp
from tests.nets.test_nets import NOISE, ROUNDING, image, parameters

EDM = {"model_channels": 8, "channel_mult": (1,), "num_blocks": 1, "attn_resolutions": (2,)}
WHOLE = {"num_res_blocks": 1, "dropout": 0.0}
NETS = [
    MLP((16, 16), embedding_dim=8),
    NCSNpp(nf=8, ch_mult=(1,), attn_resolutions=(2,), **WHOLE),
    ADM(nf=32, ch_mult=(1,), attn_rates=(1,), head_dim=16, **WHOLE),
    DiT(2, width=24, depth=2, num_heads=2),
    SongUNet(**EDM, dropout=0.0),
    DhariwalUNet(**EDM, dropout=0.0),
    EDM2UNet(**EDM, channels_per_head=8, logvar_channels=4),
]
each_net = pytest.mark.parametrize("net", NETS, ids=lambda net: type(net).__name__)
JUMP = jnp.array([0.2, 1.5])


def drawn(net, dtype=jnp.float32):
    """x [2, 2, 2, 3], noise, jump, and random parameters. No parameter is zero."""
    x = image(2, 2, 2, 3)
    params = parameters(net, x, {"jump": JUMP})
    return jax.tree.map(lambda a: a.astype(dtype), (x, NOISE, JUMP, params))


def of_jump(net, params):
    """`(x, noise, jump) -> F`, of the network that reads "jump"."""
    return lambda x, noise, jump: net.apply({"params": params}, x, noise, {"jump": jump})


@each_net
def test_a_number_adds_nothing_at_the_start_and_then_matters(net):
    """Its last layer starts at zero: with that the network is the one without the number."""
    reads = net.clone(numbers=("jump",))
    x, noise, jump, params = drawn(reads)
    last = params["embed_jump_1"]
    first = jax.jit(lambda key: reads.init(key, x, noise, {"jump": jump})["params"]["embed_jump_1"])
    began = first(jax.random.key(0))
    chex.assert_trees_all_equal(began, jax.tree.map(jnp.zeros_like, last))
    without = {name: layer for name, layer in params.items() if "jump" not in name}
    plain = jax.jit(lambda p: net.apply({"params": p}, x, noise))(without)
    call = jax.jit(
        lambda last, jump: of_jump(reads, {**params, "embed_jump_1": last})(x, noise, jump)
    )
    np.testing.assert_allclose(call(began, jump), plain, atol=ROUNDING * np.abs(plain).max())
    once, twice = call(last, jump), call(last, 2 * jump)
    for a, b in ((once, plain), (twice, once)):
        difference = jnp.abs(a - b).reshape(2, -1).max(axis=1)
        assert np.all(difference > 1e-4 * np.abs(plain).max()), "an example ignores its number"


@each_net
def test_derivatives_by_x_noise_and_number(net, x64):
    """jvp against central differences, whose error is h^2 of the third derivative, and eps/h."""
    reads = net.clone(numbers=("jump",))
    x, noise, jump, params = drawn(reads, jnp.float64)
    rng, h = np.random.default_rng(2), 1e-5
    directions = [
        [
            jnp.asarray(on * rng.normal(size=a.shape))
            for on, a in zip(row, (x, noise, jump), strict=True)
        ]
        for row in np.eye(3)
    ]
    along = [jnp.stack(parts) for parts in zip(*directions, strict=True)]  # 3 directions in front

    @jax.jit
    def both(params):
        call = of_jump(reads, params)
        found = jax.vmap(lambda *d: jax.jvp(call, (x, noise, jump), d)[1])(*along)
        # examples do not see each other, so all the places are one batch
        places = [
            jnp.concatenate([a[None] + h * d, a[None] - h * d]).reshape(-1, *a.shape[1:])
            for a, d in zip((x, noise, jump), along, strict=True)
        ]
        ahead, behind = call(*places).reshape(2, 3, *x.shape)
        return found, (ahead - behind) / (2 * h)

    derivatives, differences = both(params)
    for derivative, difference in zip(derivatives, differences, strict=True):
        size = np.abs(difference).max()
        assert size > 1e-5
        np.testing.assert_allclose(derivative, difference, atol=1e-6 * size + 1e-10)


@pytest.mark.parametrize(
    "net",  # one of each kind of block
    [net for net in NETS if type(net).__name__ in ("NCSNpp", "DiT", "EDM2UNet")],
    ids=lambda net: type(net).__name__,
)
def test_a_loss_with_a_derivative_along_the_flow_has_a_gradient(net):
    """F - x + dF along (v, 1, 1) with no gradient stopped, computed in bfloat16: reverse mode goes
    through forward mode, and each layer that the number enters by has a gradient."""
    reads = net.clone(numbers=("jump",), dtype="bfloat16")
    x, noise, jump, params = drawn(reads)

    @jax.jit
    @jax.grad
    def gradient(params):
        tangents = (0.1 * x, jnp.ones_like(noise), jnp.ones_like(jump))
        value, change = jax.jvp(of_jump(reads, params), (x, noise, jump), tangents)
        assert value.dtype == change.dtype == jnp.float32
        return jnp.mean((value + 0.1 * change - x) ** 2)

    found = gradient(params)
    chex.assert_tree_all_finite(found)
    for name in ("embed_jump_0", "embed_jump_1"):
        assert jnp.any(found[name]["kernel"] != 0), name
