"""The convolution of all networks: `jax.lax`'s, made fast on the CPU.

A derivative of a convolution is a convolution too. `jax.lax` states its layout by dimension
numbers. XLA has a fast path for one layout on the CPU, and brings others into it, but not inside
`scan` and `while`: there the derivative by x is six times slower, and that by the kernel twenty to
forty times (jax 0.10 and 0.12). The primitive of this module transposes the arrays instead. The
numbers are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

Pair = tuple[int, int]
LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv_general_dilated(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "i j c d"],
    window_strides: Sequence[int],
    padding: str | Sequence[Pair],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> Float[Array, "b H W d"]:
    """`jax.lax.conv_general_dilated` in two dimensions with channels last.

    dimension_numbers: not read.

    Raises:
      ValueError: groups, a precision, or dilation with a padding by name.
    """
    if feature_group_count != 1 or precision is not None:
        raise ValueError("this convolution has neither groups nor a precision of its own")
    if isinstance(padding, str) and {*(lhs_dilation or ()), *(rhs_dilation or ())} - {1}:
        raise ValueError("with dilation the padding must be numbers")
    if not _for_cpu():
        return lax.conv_general_dilated(
            x, kernel, window_strides, padding, lhs_dilation, rhs_dilation, LAYOUT
        )
    window, strides = kernel.shape[:2], tuple(window_strides)
    if window == strides == (1, 1) and padding in ("SAME", "VALID"):
        return product(x, kernel[0, 0])  # its gradients have fewer transposes
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], window, strides, padding)
    return _convolution.bind(
        x,
        kernel,
        strides=strides,
        padding=tuple((int(low), int(high)) for low, high in padding),
        spread=tuple(lhs_dilation or (1, 1)),
        holes=tuple(rhs_dilation or (1, 1)),
    )


def product(x: Float[Array, "*s c"], kernel: Float[Array, "c d"]) -> Float[Array, "*s d"]:
    """x @ kernel; on the CPU as a product of two matrices.

    So the derivative by the kernel sums over one axis, that of the rows. Where it sums over
    several, XLA's CPU backend transposes a factor within the loop that computes it, number by
    number. That takes up to ten times as long as the product.
    """
    if not _for_cpu():
        return x @ kernel
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[1])


def _for_cpu() -> bool:
    """Whether the program that is traced is for the CPU: by the mesh in context
    (`jax.sharding.use_abstract_mesh`), else by the default device. So a program can be compiled for
    accelerators that are not there."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return (device.device_kind if device else jax.default_backend()) == "cpu"


def conv_of_upsampled(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"], *_: Any, **__: Any
) -> Float[Array, "b H W d"]:
    """The 3x3 convolution "SAME" of x with each pixel doubled in height and width.

    On the CPU it takes 4/9 of the products. Row 2 i of the result sees row i - 1 of x once and row
    i twice; row 2 i + 1 sees row i twice and row i + 1 once. The same holds for columns. So four
    2x2 kernels do, whose taps are sums of those of the 3x3 kernel.
    """
    if not _for_cpu():
        return conv_general_dilated(x.repeat(2, axis=1).repeat(2, axis=2), kernel, (1, 1), "SAME")
    taps = [_sums(rows.swapaxes(0, 1)) for rows in _sums(kernel)]  # [odd row][odd column]

    def result(p, q):
        pads = ((1 - p, p), (1 - q, q))
        return conv_general_dilated(x, taps[p][q].swapaxes(0, 1), (1, 1), pads)

    rows = [jnp.stack([result(p, 0), result(p, 1)], axis=3) for p in (0, 1)]
    b, h, w = x.shape[:3]
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, kernel.shape[3])


def _sums(taps: Float[Array, "3 ..."]) -> tuple[Float[Array, "2 ..."], Float[Array, "2 ..."]]:
    """The kernels, along the first axis, of even and of odd rows of the result."""
    first, middle, last = taps
    return jnp.stack([first, middle + last]), jnp.stack([first + middle, last])


_convolution = Primitive("convolution")


def products_saveable(primitive: Primitive, *_: Any, **__: Any) -> bool:
    """A policy of `jax.checkpoint`: keeps the results of convolutions and of products of matrices,
    which take long to compute again."""
    return primitive is _convolution or jax.checkpoint_policies.dots_saveable(primitive)


def _of_lax(x: Array, kernel: Array, *, strides, padding, spread, holes) -> Array:
    """spread: dilation of x. holes: dilation of the kernel."""
    return lax.conv_general_dilated(x, kernel, strides, padding, spread, holes, LAYOUT)


def _by_x(out: Array, x: Any, kernel: Array, *, strides, padding, spread, holes) -> Array:
    """The transpose of x -> convolution."""
    sizes = _sizes(x.aval.shape[1:3], kernel.shape[:2], out.shape[1:3], strides, spread, holes)
    ends = tuple(
        (of_kernel - 1 - low, of_x - of_out + low)
        for (of_x, of_kernel, of_out), (low, _) in zip(sizes, padding, strict=True)
    )
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return _convolution.bind(out, turned, strides=spread, padding=ends, spread=strides, holes=holes)


def _by_kernel(out: Array, x: Array, kernel: Any, *, strides, padding, spread, holes) -> Array:
    """The transpose of kernel -> convolution."""
    sizes = _sizes(x.shape[1:3], kernel.aval.shape[:2], out.shape[1:3], strides, spread, holes)
    ends = tuple(
        (low, of_out + of_kernel - 1 - of_x - low)
        for (of_x, of_kernel, of_out), (low, _) in zip(sizes, padding, strict=True)
    )
    found = _convolution.bind(
        x.transpose(3, 1, 2, 0),
        out.transpose(1, 2, 0, 3),
        strides=holes,
        padding=ends,
        spread=spread,
        holes=strides,
    )
    return found.transpose(1, 2, 0, 3)


def _sizes(x: Any, kernel: Any, out: Any, strides: Pair, spread: Pair, holes: Pair):
    """Those of x, kernel and result with their dilations, for both dimensions."""
    apart = ((x, spread), (kernel, holes), (out, strides))
    return zip(
        *([(n - 1) * by + 1 for n, by in zip(*of, strict=True)] for of in apart), strict=True
    )


def _batched(arrays: tuple[Array, Array], axes: tuple[int | None, int | None], **options):
    x, kernel = arrays
    if axes[1] is not None:  # a kernel for each, which XLA takes for groups
        return jax.vmap(partial(_of_lax, **options), axes)(x, kernel), 0
    x = jnp.moveaxis(x, axes[0], 0)  # pyright: ignore[reportArgumentType]
    out = _convolution.bind(x.reshape(-1, *x.shape[2:]), kernel, **options)
    return out.reshape(*x.shape[:2], *out.shape[1:]), 0


def _shape(x: Any, kernel: Any, **options: Any) -> Any:
    arrays = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (x, kernel))
    out = jax.eval_shape(partial(_of_lax, **options), *arrays)
    return ShapedArray(out.shape, out.dtype)


_convolution.def_impl(lambda *arrays, **options: jax.jit(partial(_of_lax, **options))(*arrays))
_convolution.def_abstract_eval(_shape)
ad.defbilinear(_convolution, _by_x, _by_kernel)
batching.primitive_batchers[_convolution] = _batched
mlir.register_lowering(_convolution, mlir.lower_fun(_of_lax, multiple_results=False))
