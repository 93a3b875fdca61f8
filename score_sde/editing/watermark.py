"""A key in the Fourier rings of the noise that an image is drawn from, found again by inversion.

After tree-ring watermarks (Wen et al. 2023, arXiv:2305.20030), with another mark and another test.
The Fourier coefficients of the noise on a ring of low frequencies are m real numbers. The key is a
direction among them. The statistic of an image is the cosine of the angle between the two.

A key is uniform on the sphere and independent of an image that it did not mark. So whatever the law
of that image's coefficients, the cosine c has the law of a uniform direction's first coordinate,
(1 + c)/2 ~ Beta((m-1)/2, (m-1)/2), and the p-value is exact: nothing is assumed of latents.

Marked noise has the law of the prior, given that its p-value is at most p. For a known key its
divergence from the prior is ln(1/p) nats, the least of any mark that is always so clear. For an
unknown key, averaged over keys, there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import special

from score_sde.inverse.fourier import frequencies, image_shape

NODES = 4096  # of the tables of a distribution function


class Watermark(NamedTuple):
    """read: `x [b, h, w, c] -> [b, m]`, linear with orthonormal rows. direction: the key, [m], of
    length 1. p_value: the largest of marked noise."""

    read: Callable[[Array], Array]
    direction: Float[np.ndarray, " m"]
    p_value: float


def tree_ring(
    shape: tuple[int, ...],
    key: int,
    inner: float = 0.5,
    outer: float = 4.0,
    p_value: float = 1e-12,
) -> Watermark:
    """Frequencies with `inner <= |f| <= outer` (cycles an image), in every channel.

    key: a seed, known to those who mark and those who look. p_value: the largest p-value of marked
    noise. A frequency that is its own mirror image (the mean, the Nyquist frequencies) is left out.

    Raises:
      ValueError: the ring holds fewer than 8 real numbers, p_value is not in (0, 1), or the shape
        is not that of an image.
    """
    if not 0 < p_value < 1:
        raise ValueError(f"p_value lies between 0 and 1, and is {p_value}")
    h, w, c = image_shape(shape)
    row, column = (a.ravel() for a in frequencies(h, w))
    radius = np.hypot(row, column)
    # of a frequency and its mirror image, whose coefficients are conjugate, the first
    own = np.arange(h * w)
    mirror = (-row % h) * w + (-column % w)
    chosen = np.flatnonzero((inner <= radius) & (radius <= outer) & (own < mirror))
    m = 2 * c * len(chosen)
    if m < 8:
        raise ValueError(
            f"the ring from {inner} to {outer} holds {m} real coefficients of an image of {h}x{w}, "
            "too few to be told from chance: widen it"
        )

    def read(x):
        spectrum = jnp.fft.fft2(x, axes=(1, 2), norm="ortho").reshape(len(x), h * w, c)[:, chosen]
        both = jnp.stack([spectrum.real, spectrum.imag], axis=1)
        return jnp.sqrt(jnp.asarray(2, x.dtype)) * both.reshape(len(x), m)

    direction = np.random.default_rng(key).normal(size=m)
    return Watermark(read, direction / np.linalg.norm(direction), p_value)


def mark(watermark: Watermark, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The noise x, marked: its coefficients keep their length, and turn in the plane that they
    span with the key until their p-value is `p_value` times what it was."""
    coefficients = watermark.read(x)
    key = jnp.asarray(watermark.direction, x.dtype)
    length = jnp.linalg.norm(coefficients, axis=1, keepdims=True)
    unit = coefficients / length
    cosine = unit @ key
    across = unit - cosine[:, None] * key[None]
    across = across / jnp.linalg.norm(across, axis=1, keepdims=True)
    turned = _turned(watermark, cosine)[:, None]
    sine = jnp.sqrt((1 - turned) * (1 + turned))
    change = length * (turned * key[None] + sine * across) - coefficients
    return x + jax.linear_transpose(watermark.read, x)(change)[0]


def _turned(watermark: Watermark, cosine: Float[Array, " b"]) -> Float[Array, " b"]:
    """The cosine whose p-value is `p_value` times that of this one."""
    m, largest = len(watermark.direction), watermark.p_value
    every = np.linspace(-1, 1, NODES)
    least = 1 - 2 * special.betaincinv((m - 1) / 2, (m - 1) / 2, largest)
    upper = np.linspace(1, least, NODES)

    def table(a, xs, ys):
        return jnp.interp(a, jnp.asarray(xs, a.dtype), jnp.asarray(ys, a.dtype))

    p = table(cosine, every, survival(every, m))
    return table(p, survival(upper, m) / largest, upper)


def survival(cosine: Float[np.ndarray, " b"], m: int) -> Float[np.ndarray, " b"]:
    """P(C >= cosine), C the first coordinate of a uniform direction in m dimensions."""
    return special.betainc((m - 1) / 2, (m - 1) / 2, (1 - np.asarray(cosine, np.float64)) / 2)


def p_values(
    watermark: Watermark, latent: Float[Array | np.ndarray, "b h w c"]
) -> Float[np.ndarray, " b"]:
    """Of each latent: the probability, over the key, of a cosine at least as large, if the image
    was not marked with it.

    It is exact for a key that is independent of the image. The share of many images below a bound
    is right on average over keys; for one key, images that resemble each other share their luck.
    """
    coefficients = np.asarray(watermark.read(jnp.asarray(latent)), np.float64)
    cosine = coefficients @ watermark.direction / np.linalg.norm(coefficients, axis=1)
    return survival(cosine, len(watermark.direction))
