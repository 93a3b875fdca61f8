"""Ways to resize images for Inception. The choice changes FID by whole points.

Each is linear along rows and along columns, so it is a matrix for rows and one for columns.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Float64


def resize(
    images: Float32[Array, "b h w c"], method: str, size: int
) -> Float32[Array, "b size size c"]:
    """Squares of `size` by one of METHODS; values may leave the range of the images.

    Raises:
      ValueError: there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"resize is {method!r}: one of {', '.join(METHODS)}")
    rows, columns = (
        METHODS[method](n, size).astype(np.float32) for n in (images.shape[1], images.shape[2])
    )
    precision = jax.lax.Precision.HIGHEST
    images = jnp.einsum("bhwc,xw->bhxc", images, columns, precision=precision)
    return jnp.einsum("bhxc,yh->byxc", images, rows, precision=precision)


def pytorch(n: int, size: int) -> Float64[np.ndarray, "size n"]:
    """Bilinear between centres of pixels, with the edge continued; no smoothing when it shrinks.

    The same as `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`.
    """
    return _bilinear(np.maximum((np.arange(size) + 0.5) * n / size - 0.5, 0), n)


def tensorflow(n: int, size: int) -> Float64[np.ndarray, "size n"]:
    """Bilinear from the corner: pixel i of the result is at i n / size of the image.

    The same as `tf.image.resize_bilinear` of TensorFlow 1, which the FID paper uses.
    """
    return _bilinear(np.arange(size) * n / size, n)


def clean(n: int, size: int) -> Float64[np.ndarray, "size n"]:
    """Bicubic (a = -1/2) between centres of pixels; widened to smooth when it shrinks.

    The same as Pillow's BICUBIC on float images, which clean-fid (arXiv:2104.11222) uses.
    """
    scale = n / size
    width = max(scale, 1.0)
    center = (np.arange(size)[:, None] + 0.5) * scale
    distance = np.abs((np.arange(n)[None] + 0.5 - center) / width)
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return weights / weights.sum(axis=1, keepdims=True)


METHODS = {"pytorch": pytorch, "tensorflow": tensorflow, "clean": clean}


def _bilinear(position: Float64[np.ndarray, " size"], n: int) -> Float64[np.ndarray, "size n"]:
    low = np.floor(position).astype(int)
    weights = np.zeros((len(position), n))
    rows = np.arange(len(position))
    weights[rows, low] += 1 - (position - low)
    weights[rows, np.minimum(low + 1, n - 1)] += position - low
    return weights
