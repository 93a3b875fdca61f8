"""Attention, against sums written out and against its own derivatives."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.nets import attention


def _inputs(dtype=jnp.float32, b=2, n=5, m=7, h=3, d=8):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((b, n, h, d), (b, m, h, d), (b, m, h, d))
    return [jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True)]


def _written_out(q, k, v, mask):
    """The sum over keys, one query at a time, in numpy's float64."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    out = np.zeros(q.shape)
    for b, n, h in np.ndindex(q.shape[:3]):
        weights = np.exp(k[b, :, h] @ q[b, n, h] / np.sqrt(q.shape[-1])) * mask[b, n]
        out[b, n, h] = weights @ v[b, :, h] / weights.sum()
    return out


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float64, 1e-13), (jnp.float32, 2e-6)])
def test_it_is_the_softmax_weighted_sum(dtype, tolerance):
    with jax.enable_x64(True):
        inputs = _inputs(dtype)
        mask = np.random.default_rng(0).random((2, 5, 7)) < 0.7
        mask[..., 0] = True
        out = attention.attend(*inputs, jnp.asarray(mask)[:, None])
        assert out.dtype == dtype
        np.testing.assert_allclose(out, _written_out(*inputs, mask), rtol=0, atol=tolerance)


def test_without_a_mask_every_key_counts():
    inputs = _inputs()
    expected = _written_out(*inputs, np.ones((2, 5, 7)))
    np.testing.assert_allclose(attention.attend(*inputs), expected, rtol=0, atol=2e-6)


def test_derivatives_of_the_fused_kernel_are_those_of_the_plain_one(monkeypatch):
    """The kernel is replaced by zeros: its derivatives, in both modes, come from the formula."""
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda q, k, v, mask, implementation: jnp.zeros_like(q)
    )
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    inputs = _inputs(jnp.bfloat16)
    assert not attention.attend(*inputs).any()
    assert attention.attend(*_inputs()).all()  # the kernel takes no float32
    tangents = tuple(a + 1 for a in inputs)

    def derivatives(f):
        forward = jax.jvp(f, tuple(inputs), tangents)[1]
        return forward, *jax.grad(lambda *a: f(*a).sum(), argnums=(0, 1, 2))(*inputs)

    fused = derivatives(attention.attend)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    for a, b in zip(fused, derivatives(attention.attend), strict=True):
        assert np.array_equal(a, b)
        assert np.any(b)


def test_inner_products_and_their_derivatives(x64):
    rng = np.random.default_rng(4)
    q, k, dq, dk = (jnp.asarray(rng.normal(size=(2, 5, 3, 4))) for _ in range(4))

    def derivatives(products):
        def loss(q, k):
            return jnp.sum(jnp.sin(products(q, k)))

        return jax.jvp(products, (q, k), (dq, dk)), jax.grad(loss, (0, 1))(q, k)

    truth = derivatives(lambda q, k: q.swapaxes(1, 2) @ k.transpose(0, 2, 3, 1))
    chex.assert_trees_all_close(
        derivatives(attention.inner_products), truth, rtol=1e-12, atol=1e-13
    )
