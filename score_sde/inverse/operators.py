"""Operators of measurements `y = A(x)`, by name: `build("inverse.operators", spec, shape)`.

A linear operator only states its singular value decomposition A = U diag(s) V^T, with real
orthonormal bases. The operator, its adjoint and its pseudo-inverse follow from it. Constructors
take the shape of an example, which most of them read as (height, width, channels). They compute in
NumPy's float64, and the operators keep the dtype of x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from score_sde.inverse.fourier import image_shape

__all__ = [  # what a config can name
    "block_average",
    "clip",
    "gaussian_blur",
    "grey",
    "mask",
    "motion_blur",
    "random_projection",
]


class SVD(NamedTuple):
    """A = U diag(values) V^T with r orthonormal columns in U and V. r may be less than the
    dimension of x; A does not see the part of x outside the range of V.

    values: >= 0, broadcastable against coefficients [b, ...].
    right: V^T, x [b, ...] -> coefficients; right_t: V, coefficients -> x.
    left: U, coefficients -> y [b, ...]; left_t: U^T, y -> coefficients.
    """

    values: Float[np.ndarray, "1 ..."]
    right: Callable[[Array], Array]
    right_t: Callable[[Array], Array]
    left: Callable[[Array], Array]
    left_t: Callable[[Array], Array]


class Operator(NamedTuple):
    """A on examples of a shape. apply: x [b, *shape] -> y [b, ...]. adjoint: y -> x. Both adjoint
    and svd are None if A is not linear."""

    shape: tuple[int, ...]
    apply: Callable[[Array], Array]
    adjoint: Callable[[Array], Array] | None = None
    svd: SVD | None = None

    @property
    def y_shape(self) -> tuple[int, ...]:
        """The shape of y, without the batch's dimension."""
        one = jax.ShapeDtypeStruct((1, *self.shape), jnp.float32)
        return jax.eval_shape(self.apply, one).shape[1:]


def linear(shape: tuple[int, ...], svd: SVD) -> Operator:
    """The operator of an SVD."""

    def apply(x):
        return svd.left(jnp.asarray(svd.values, x.dtype) * svd.right(x))

    def adjoint(y):
        return svd.right_t(jnp.asarray(svd.values, y.dtype) * svd.left_t(y))

    return Operator(tuple(shape), apply, adjoint, svd)


def inverse_values(svd: SVD, dtype: Any) -> Float[Array, "1 ..."]:
    """1/s, and 0 where s is 0 to rounding, which is eps max(s) times the number of values."""
    s = jnp.asarray(svd.values, dtype)
    zero = s <= float(np.max(svd.values)) * svd.values.size * jnp.finfo(dtype).eps
    return jnp.where(zero, 0, 1 / jnp.where(zero, 1, s))


def pseudo_inverse(operator: Operator) -> Callable[[Array], Array]:
    """A+ = V diag(1/s) U^T, from y [b, ...] to the smallest x with the smallest |A x - y|.

    Raises:
      ValueError: the operator has no SVD.
    """
    if operator.svd is None:
        raise ValueError("an operator without SVD has no pseudo-inverse")
    svd = operator.svd
    return lambda y: svd.right_t(inverse_values(svd, y.dtype) * svd.left_t(y))


def dense(matrix: Float[ArrayLike, "m d"], shape: tuple[int, ...] | None = None) -> Operator:
    """A matrix on examples [d], or on flattened examples of a shape; y is [b, m]."""
    u, s, vt = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    shape = (vt.shape[1],) if shape is None else tuple(shape)

    def times(basis):
        def product(a):
            flat = a.reshape(len(a), -1)
            return jnp.matmul(flat, jnp.asarray(basis, a.dtype), precision="highest")

        return product

    def right_t(c):
        return times(vt)(c).reshape(len(c), *shape)

    return linear(shape, SVD(s[None], times(vt.T), right_t, times(u.T), times(u)))


def random_projection(shape: tuple[int, ...], rows: int, seed: int = 0) -> Operator:
    """A matrix with entries N(0, 1/d), where an example has d numbers; y is [b, rows], with numbers
    about as large as those of x.

    Raises:
      ValueError: rows is not from 1 to d.
    """
    d = math.prod(shape)
    if not 1 <= rows <= d:
        raise ValueError(f"rows must be from 1 to {d}, the numbers of an example, not {rows}")
    return dense(np.random.default_rng(seed).normal(size=(rows, d)) / math.sqrt(d), shape)


def mask(
    shape: tuple[int, ...],
    keep: str | ArrayLike = "left",
    fraction: float = 0.5,
    seed: int = 0,
) -> Operator:
    """The m known numbers of each example, y [b, m] (inpainting).

    keep: what is known. By name, for images: "left", "right", "top" or "bottom", that `fraction` of
        the image; "centre", a box whose sides are `fraction` of the image's; "border", all but that
        box; "random", `fraction` of the pixels with all their channels, drawn by the seed. Or truth
        values, one for each number of an example or one for all channels of a pixel.

    Raises:
      ValueError: an unknown keep; a fraction that is not between 0 and 1; truth values of another
        shape than the example, or all false.
    """
    known = region(shape, keep, fraction, seed) if isinstance(keep, str) else np.asarray(keep)
    if known.dtype != bool or known.shape not in (tuple(shape), tuple(shape[:-1])):
        raise ValueError(
            f"a mask for examples of shape {tuple(shape)} has truth values of that shape, or one "
            f"for all channels of a pixel, not {known.dtype} of shape {known.shape}"
        )
    if known.shape != tuple(shape):
        known = np.broadcast_to(known[..., None], shape)
    (places,) = np.nonzero(known.ravel())
    if not len(places):
        raise ValueError("the mask keeps nothing")

    def right(x):
        return x.reshape(len(x), -1)[:, places]

    def right_t(c):
        x = jnp.zeros((len(c), math.prod(shape)), c.dtype)
        return x.at[:, places].set(c).reshape(len(c), *shape)

    return linear(shape, SVD(np.ones((1, 1)), right, right_t, _same, _same))


def masks(known: Bool[Array, "b ..."]) -> Operator:
    """The known numbers of each example, other ones of each: y has the shape of x, and is 0 where
    nothing is known. Without SVD, which is one for all examples."""

    def keep(x):
        return jnp.where(known, x, 0)

    return Operator(known.shape[1:], keep, keep)


def region(
    shape: tuple[int, ...], keep: str, fraction: float = 0.5, seed: int = 0
) -> Bool[np.ndarray, "h w"]:
    """The pixels that `mask` keeps by name.

    Raises:
      ValueError: an unknown keep; a fraction that is not between 0 and 1; no shape of an image.
    """
    height, width, _ = image_shape(shape)
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, not {fraction}")
    row, column = np.ogrid[:height, :width]
    rows, columns = round(fraction * height), round(fraction * width)
    top, left = (height - rows) // 2, (width - columns) // 2
    box = (top <= row) & (row < top + rows) & (left <= column) & (column < left + columns)
    order = np.random.default_rng(seed).permutation(height * width).reshape(height, width)
    regions = {
        "left": column < columns,
        "right": column >= width - columns,
        "top": row < rows,
        "bottom": row >= height - rows,
        "centre": box,
        "border": ~box,
        "random": order < round(fraction * height * width),
    }
    if keep not in regions:
        raise ValueError(f"unknown keep {keep!r}: one of {', '.join(regions)}, or truth values")
    return np.broadcast_to(regions[keep], (height, width))


def grey(shape: tuple[int, ...]) -> Operator:
    """The mean of the channels, y [b, height, width, 1] (colouring).

    Raises:
      ValueError: the examples are no images.
    """
    root = math.sqrt(image_shape(shape)[2])

    def right(x):
        return jnp.sum(x, axis=-1, keepdims=True) / root

    def right_t(c):
        return jnp.broadcast_to(c / root, (len(c), *shape))

    return linear(shape, SVD(np.full((1, 1, 1, 1), 1 / root), right, right_t, _same, _same))


def block_average(shape: tuple[int, ...], factor: int = 2) -> Operator:
    """Means over blocks of factor x factor pixels, y [b, height/factor, width/factor, channels]
    (super-resolution).

    Raises:
      ValueError: the factor does not divide the image's sides, or the examples are no images.
    """
    height, width, channels = image_shape(shape)
    if factor < 1 or height % factor or width % factor:
        raise ValueError(f"factor must divide the sides {height} and {width}, not be {factor}")
    blocks = (height // factor, factor, width // factor, factor, channels)

    def right(x):
        return jnp.sum(x.reshape(len(x), *blocks), axis=(2, 4)) / factor

    def right_t(c):
        each = jnp.broadcast_to(c[:, :, None, :, None] / factor, (len(c), *blocks))
        return each.reshape(len(c), *shape)

    return linear(shape, SVD(np.full((1, 1, 1, 1), 1 / factor), right, right_t, _same, _same))


def gaussian_blur(shape: tuple[int, ...], std: float = 1.0) -> Operator:
    """Circular convolution with a normal density; `std` is in pixels.

    Raises:
      ValueError: std is not positive, or the examples are no images.
    """
    if not std > 0:
        raise ValueError(f"std must be positive, not {std}")

    def line(n):
        far = math.ceil(10 * std)  # the density beyond is below the rounding of float64
        at = np.arange(-far, far + 1)
        kernel = np.bincount(at % n, np.exp(-((at / std) ** 2) / 2), minlength=n)
        return kernel / kernel.sum()

    height, width, _ = image_shape(shape)
    return _convolution(shape, np.outer(line(height), line(width)))


def motion_blur(shape: tuple[int, ...], length: int = 5, angle: float = 0.0) -> Operator:
    """The mean of `length` circular shifts, one pixel apart along a line through the middle. Shifts
    by parts of a pixel are bilinear.

    angle: of the line, in degrees counterclockwise from the horizontal.

    Raises:
      ValueError: the length is less than 1, or the examples are no images.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, not {length}")
    height, width, _ = image_shape(shape)
    kernel = np.zeros((height, width))
    away = np.arange(length) - (length - 1) / 2
    rows, columns = (-away * math.sin(math.radians(angle)), away * math.cos(math.radians(angle)))
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    for down in (0, 1):
        for right in (0, 1):
            share = np.abs(rows - top - 1 + down) * np.abs(columns - left - 1 + right)
            np.add.at(kernel, ((top + down) % height, (left + right) % width), share / length)
    return _convolution(shape, kernel)


def _convolution(shape: tuple[int, ...], kernel: Float[np.ndarray, "h w"]) -> Operator:
    """Circular convolution with a kernel that has its middle at [0, 0] and is even, k(-n) = k(n).

    The Fourier transform of the kernel is real. So the convolution is a product in the basis of
    Hartley's transform Re F - Im F, which is real, orthonormal and symmetric.
    """
    gain = np.real(np.fft.fft2(kernel))[None, :, :, None]
    sign = np.where(gain < 0, -1, 1)

    def hartley(x):
        fourier = jnp.fft.fft2(x, axes=(1, 2), norm="ortho")
        return fourier.real - fourier.imag

    def signed(c):
        return jnp.asarray(sign, c.dtype) * c

    def left(c):
        return hartley(signed(c))

    def left_t(y):
        return signed(hartley(y))

    return linear(shape, SVD(np.abs(gain), hartley, hartley, left, left_t))


def clip(shape: tuple[int, ...], gain: float = 2.0) -> Operator:
    """y = gain x, clipped to [-1, 1]: an overexposed image. Not linear."""
    return Operator(tuple(shape), lambda x: jnp.clip(gain * x, -1, 1))


def _same(a: Array) -> Array:
    return a
