"""The convolution of the networks, and every derivative of it, are those of `jax.lax`."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from score_sde.nets.convolution import LAYOUT, conv_general_dilated, conv_of_upsampled, product

CASES = {
    "same": {"window_strides": (1, 1), "padding": "SAME"},
    "halved": {"window_strides": (2, 2), "padding": ((0, 1), (1, 2))},
    "dilated": {
        "window_strides": (1, 2),
        "padding": ((2, 1), (0, 3)),
        "lhs_dilation": (2, 1),
        "rhs_dilation": (1, 2),
    },
}


def everything(convolution, x, kernel):
    """Values and derivatives by both arguments, under the transformations that are in use."""

    def loss(x, kernel):
        return jnp.sum(jnp.sin(convolution(x, kernel)))

    def one(x, kernel):
        return jax.value_and_grad(loss, (0, 1))(x[None], kernel)

    def along(x, kernel):  # forward, and its gradient
        return jnp.sum(jax.jvp(convolution, (x, kernel), (jnp.cos(x), jnp.cos(kernel)))[1] ** 2)

    def step(x, _):
        return x - 0.1 * jax.grad(loss)(x, kernel), None

    kernels = jnp.stack([kernel, 2 * kernel, kernel**2])
    return {
        "value": convolution(x, kernel),
        "gradients": jax.grad(loss, (0, 1))(x, kernel),
        "of each example": jax.vmap(one, (0, None))(x, kernel),
        "of each kernel": jax.vmap(one)(x, kernels),
        "forward": jax.vmap(partial(jax.jvp, lambda x: convolution(x, kernel)), (None, 0))(
            (x,), (jnp.stack([x, x**2]),)
        ),
        "along another axis": jax.vmap(lambda x: convolution(x, kernel), 2)(
            jnp.stack([x, x**2], axis=2)
        ),
        "gradient of forward": jax.grad(along, (0, 1))(x, kernel),
        "second": jax.jvp(jax.grad(loss, 1), (x, kernel), (x, kernel)),
        "in a loop": lax.scan(step, x, length=3)[0],
        "recomputed": jax.grad(jax.checkpoint(loss), 1)(x, kernel),
    }


@pytest.mark.parametrize("case", CASES)
def test_is_that_of_lax(x64, case):
    rng = np.random.default_rng(0)
    x, kernel = (
        jnp.asarray(rng.normal(size=(3, 7, 6, 2))),
        jnp.asarray(rng.normal(size=(3, 2, 2, 4))),
    )
    ours = jax.jit(partial(everything, partial(conv_general_dilated, **CASES[case])))(x, kernel)
    theirs = partial(lax.conv_general_dilated, dimension_numbers=LAYOUT, **CASES[case])
    truth = jax.jit(partial(everything, theirs))(x, kernel)
    chex.assert_trees_all_close(ours, truth, rtol=1e-11, atol=1e-12)


def test_a_single_tap_is_that_of_lax(x64):
    """With a stride it is no plain product of matrices."""
    rng = np.random.default_rng(2)
    x, kernel = (jnp.asarray(rng.normal(size=shape)) for shape in ((2, 5, 4, 2), (1, 1, 2, 3)))
    for strides in ((1, 1), (2, 1)):
        truth = lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=LAYOUT)
        found = conv_general_dilated(x, kernel, strides, "SAME")
        np.testing.assert_allclose(found, truth, rtol=1e-12, atol=1e-14)


def test_of_the_upsampled_is_that_of_lax(x64):
    def theirs(x, kernel):
        doubled = x.repeat(2, axis=1).repeat(2, axis=2)
        return lax.conv_general_dilated(doubled, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)

    rng = np.random.default_rng(1)
    x, kernel = (jnp.asarray(rng.normal(size=shape)) for shape in ((2, 5, 4, 2), (3, 3, 2, 3)))
    np.testing.assert_allclose(conv_of_upsampled(x, kernel), theirs(x, kernel), rtol=1e-11)
    ours, truth = (
        jax.grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a))), (0, 1))(x, kernel)
        for f in (conv_of_upsampled, theirs)
    )
    chex.assert_trees_all_close(ours, truth, rtol=1e-10, atol=1e-11)


def test_is_used_outside_of_jit_too():
    x, kernel = jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1))
    counts = conv_general_dilated(x, kernel, (1, 1), "SAME")[0, :, :, 0]
    np.testing.assert_array_equal(counts, np.outer([2, 3, 3, 2], [2, 3, 3, 2]))


def test_groups_and_precisions_are_refused():
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2))
    for option in ({"feature_group_count": 2}, {"precision": "highest"}):
        with pytest.raises(ValueError, match="neither groups nor"):
            conv_general_dilated(x, kernel, (1, 1), "SAME", **option)


def test_a_program_for_other_devices_has_the_convolution_of_lax():
    """The mesh in context says what the program is for: here a TPU, which is not there."""
    device = jax.sharding.AbstractDevice("TPU v5 lite", 1, "tpu")
    there = jax.sharding.AbstractMesh((4,), ("data",), abstract_device=device)
    x, kernel = jnp.ones((4, 4, 4, 2)), jnp.ones((3, 3, 2, 2))
    for convolution in (
        partial(conv_general_dilated, window_strides=(1, 1), padding="SAME"),
        conv_of_upsampled,
    ):
        here = str(jax.make_jaxpr(convolution)(x, kernel))
        with jax.sharding.use_abstract_mesh(there):
            elsewhere = str(jax.make_jaxpr(lambda *a, of=convolution: of(*a))(x, kernel))
        assert "= convolution[" in here
        assert "conv_general_dilated[" not in here
        assert elsewhere.count("conv_general_dilated[") == 1
        assert "= convolution[" not in elsewhere


def test_products_sum_over_one_axis(x64):
    """Forward and in both gradients, where JAX's of an array of many axes sums over all of them;
    and the numbers are those of einsum, written out."""
    rng = np.random.default_rng(3)
    x, kernel, g = (jnp.asarray(rng.normal(size=s)) for s in ((2, 4, 3, 5), (5, 6), (2, 4, 3, 6)))

    def all_of(product):
        out, back = jax.vjp(product, x, kernel)
        return out, *back(g)

    def axes_of(product):
        jaxpr = jax.make_jaxpr(lambda: all_of(product))()
        dots = [e.params for e in jaxpr.jaxpr.eqns if e.primitive.name == "dot_general"]
        return sorted(len(found["dimension_numbers"][0][0]) for found in dots)

    single_tap = partial(conv_general_dilated, window_strides=(1, 1), padding="SAME")
    assert axes_of(product) == [1, 1, 1]
    assert axes_of(lambda x, kernel: single_tap(x, kernel[None, None])) == [1, 1, 1]
    assert axes_of(jnp.dot) == [1, 1, 3]
    truth = (
        np.einsum("bhwc,cd->bhwd", x, kernel),
        np.einsum("bhwd,cd->bhwc", g, kernel),
        np.einsum("bhwc,bhwd->cd", x, g),
    )
    chex.assert_trees_all_close(all_of(product), truth, rtol=1e-12, atol=1e-12)
