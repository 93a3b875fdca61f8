"""The frequencies of an image."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape, if it is that of an image.

    Raises:
      ValueError: it is not.
    """
    if len(shape) != 3:
        raise ValueError(f"an image has height, width and channels, not the shape {tuple(shape)}")
    height, width, channels = shape
    return height, width, channels


def frequencies(
    height: int, width: int
) -> tuple[Int[np.ndarray, "height width"], Int[np.ndarray, "height width"]]:
    """The frequencies down and across in cycles per image, in the order of `fft2`."""
    down, across = (np.fft.fftfreq(n, 1 / n).round().astype(int) for n in (height, width))
    rows, columns = np.meshgrid(down, across, indexing="ij")
    return rows, columns


def low_pass(x: Float[Array, "b h w c"], cutoff: float) -> Float[Array, "b h w c"]:
    """The part of x with frequencies `|f| <= cutoff` in cycles per image. It is an orthogonal
    projection: a frequency and its negative are both kept or both dropped."""
    keep = np.hypot(*frequencies(*x.shape[1:3])) <= cutoff
    spectrum = jnp.fft.fft2(x, axes=(1, 2))
    return jnp.fft.ifft2(jnp.where(keep[None, ..., None], spectrum, 0), axes=(1, 2)).real
