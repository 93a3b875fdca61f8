"""ControlNets: at first they change no bit, and what they add is what their fields say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.nets.conditional_unet import ConditionalUNet
from score_sde.nets.controlnet import Controlled, begun, control_of, depths
from score_sde.nets.dit import DiT
from score_sde.nets.mlp import MLP
from score_sde.nets.ncsnpp import NCSNpp

UNET = ConditionalUNet(
    channels=8,
    ch_mult=(1, 2),
    num_res_blocks=1,
    depths=(1, 0),
    num_heads=2,
    context_features=6,
    groups=4,
)
TRANSFORMER = DiT(
    patch_size=2,
    width=16,
    depth=3,
    num_heads=2,
    context="cross",
    context_features=6,
    registers=2,
    positions="rope",
)
OF_SCORES = NCSNpp(
    nf=8,
    ch_mult=(1, 2),
    num_res_blocks=1,
    attn_resolutions=(),
    progressive="output_skip",
    progressive_input="residual",
    dropout=0.0,
)
CASES = {
    "unet": (UNET, {"hint_channels": (4, 8)}),
    "ncsnpp": (OF_SCORES, {"hint_channels": (4, 8)}),
    "transformer": (TRANSFORMER, {"hint_factor": 2, "depth": 2}),
    "joint": (TRANSFORMER.clone(context="joint", registers=0), {"hint_factor": 2, "depth": 3}),
}
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(2, 8, 8, 4)), jnp.float32)
NOISE = jnp.asarray([3.0, 9.0])
COND = {
    "context": jnp.asarray(RNG.normal(size=(2, 3, 6)), jnp.float32),
    "hint": jnp.asarray(RNG.uniform(size=(2, 16, 16, 3)), jnp.float32),
}


def drawn(params, scale=0.1):
    """Other parameters, none of which is 0."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    return jax.tree.unflatten(
        tree, [a + scale * jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)]
    )


def made(case, count=1, **options):
    """The network with its parameters, and the controlled one with those of its start."""
    net, own = CASES[case]
    params = drawn(jax.jit(net.init)(jax.random.key(1), X, NOISE, COND)["params"])
    controls = tuple(control_of(net, "hint", **own) for _ in range(count))
    controlled = Controlled(net, controls, **options)
    fresh = jax.jit(controlled.init)(jax.random.key(2), X, NOISE, COND)["params"]
    whole = {name: begun(part, params) for name, part in fresh.items()} | {"net": params}
    return net, controlled, params, whole


@pytest.mark.parametrize("case", CASES)
def test_a_new_one_changes_no_bit_and_has_a_gradient(case):
    net, controlled, params, whole = made(case)
    plain = net.apply({"params": params}, X, NOISE, COND)
    np.testing.assert_array_equal(controlled.apply({"params": whole}, X, NOISE, COND), plain)

    def loss(control):
        found = controlled.apply({"params": {**whole, "controls_0": control}}, X, NOISE, COND)
        return jnp.sum(found**2)

    gradient = jax.jit(jax.grad(loss))(whole["controls_0"])
    learns = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, g in jax.tree_util.tree_leaves_with_path(gradient)
        if jnp.any(g != 0)
    }
    assert learns
    assert all("told" in name for name in learns)


@pytest.mark.parametrize("case", CASES)
def test_it_begins_with_the_layers_of_the_network(case):
    """All but the layers of the hint and the new ones after each map."""
    _, _, params, whole = made(case)
    own = []
    for path, a in jax.tree_util.tree_leaves_with_path(whole["controls_0"]):
        names = [key.key for key in path]
        if any(name.startswith(("hint", "told")) for name in names):
            own.append(names[0])
            continue
        theirs = params
        for name in names:
            theirs = theirs[name]
        np.testing.assert_array_equal(a, theirs[: len(a)] if names[0] == "blocks" else theirs)
    assert own


@pytest.mark.parametrize("case", CASES)
def test_what_it_adds_goes_by_weight_noise_and_hint(case):
    """The sum over several; nothing outside the interval or without a hint."""
    net, controlled, _, whole = made(
        case, 2, weights=(0.5, -2.0), intervals=((0.0, 5.0), (0.0, 50.0))
    )
    whole = drawn(whole)
    alone = [
        control_of(net, "hint", **CASES[case][1]).apply(
            {"params": whole[f"controls_{i}"]}, X, NOISE, COND
        )
        for i in (0, 1)
    ]
    of_examples = 0 if case in ("unet", "ncsnpp") else 1  # the axis of examples

    def weighted(hinted):
        """The first is silent above a noise of 5, as the second example has."""
        factors = jnp.asarray([[0.5 * hinted[0], 0.0], [-2.0 * hinted[0], -2.0 * hinted[1]]])

        def total(*a):
            shape = [1] * a[0].ndim
            shape[of_examples] = 2
            return sum(f.reshape(shape) * one for f, one in zip(factors, a, strict=True))

        return jax.tree.map(total, *alone)

    for hinted in ((1.0, 1.0), (0.0, 1.0)):
        there = jnp.asarray(hinted)[:, None, None, None] > 0
        cond = {**COND, "hint": jnp.where(there, COND["hint"], -1)}
        found = controlled.apply({"params": whole}, X, NOISE, cond)
        told = {**COND, "control": weighted(hinted)}
        truth = net.apply({"params": whole["net"]}, X, NOISE, told)
        np.testing.assert_allclose(found, truth, rtol=2e-5, atol=2e-5)
    silent = {**COND, "hint": -jnp.ones_like(COND["hint"])}
    np.testing.assert_array_equal(
        controlled.apply({"params": whole}, X, NOISE, silent),
        net.apply({"params": whole["net"]}, X, NOISE, COND),
    )


def test_the_guess_mode_is_ten_times_as_loud_in_the_middle():
    np.testing.assert_allclose(depths(13, 2.0, True), 2 * np.logspace(-1, 0, 13), rtol=1e-12)
    assert depths(3, 0.5, False) == (0.5, 0.5, 0.5)


def test_mistakes_are_told():
    net, controlled, params, _ = made("unet")
    with pytest.raises(ValueError, match="the network MLP has no ControlNet"):
        control_of(MLP(), "hint")
    with pytest.raises(ValueError, match="ControlUNet has no field hint_factor"):
        control_of(UNET, "hint", hint_factor=2)
    with pytest.raises(ValueError, match=r"weights=\(1.0, 2.0\) has 2 entries for 1"):
        Controlled(net, controlled.controls, weights=(1.0, 2.0))
    without = {"context": COND["context"]}
    with pytest.raises(ValueError, match=r"needs cond\['hint'\] of shape \(2, 16, 16, 3\), which"):
        controlled.init(jax.random.key(0), X, NOISE, without)
    other = {**COND, "control": (X,)}
    with pytest.raises(ValueError, match=r"cond\['control'\] has the shapes"):
        net.apply({"params": params}, X, NOISE, other)
    net, _, params, _ = made("transformer")
    with pytest.raises(ValueError, match=r"cond\['control'\] has the shape \(1, 2, 3, 16\); 3"):
        net.apply({"params": params}, X, NOISE, {**COND, "control": jnp.ones((1, 2, 3, 16))})
