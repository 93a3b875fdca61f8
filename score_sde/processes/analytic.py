"""Denoisers of a data set in closed form, to hold beside those of trained networks.

Each is the best denoiser that a network of some kind could be on the points: of all that are affine
(`wiener`), of all that see a patch around each pixel (`local`), of those among them that do the
same everywhere, as convolutions do (`equivariant_local`), and of all that there are (`dataset`).
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from score_sde.processes.exact import Dataset, Gaussian
from score_sde.processes.gaussian import SDE
from score_sde.processes.jumps import flow
from score_sde.types import Denoiser

__all__ = ["dataset", "equivariant_local", "local", "wiener"]  # what a config can name

_POINTS = 16  # that are compared with x at once, which keeps the memory small
_EXAMPLES = 8  # the same, of x
_PADDINGS = {"zero": "constant", "circular": "wrap"}


def dataset(points: Float[Array, "n ..."], std: float = 0.0) -> Dataset:
    """The empirical law of the points, each blurred by N(0, std^2)."""
    return Dataset(points, std)


def wiener(points: Float[Array, "n ..."], std: float = 0.0) -> Gaussian:
    """The Gaussian with the mean and covariance of the points, each blurred by N(0, std^2). Its
    denoiser is the Wiener filter, the best affine one."""
    flat = points.reshape(len(points), -1)
    away = flat - jnp.mean(flat, axis=0, keepdims=True)
    cov = jnp.matmul(away.T, away, precision="highest") / len(flat)
    return Gaussian(jnp.mean(flat, axis=0), cov + std**2 * jnp.eye(len(cov), dtype=cov.dtype))


def local(
    points: Float[Array, "n h w c"], std: float = 0.0, *, patch: int, padding: str = "zero"
) -> Local:
    """The best denoiser of those that see only a patch around each pixel (Kamb & Ganguli 2024,
    arXiv:2412.20292, sec. 4, "LS").

    patch: the side of the square in pixels, odd. With 1 every pixel is denoised by itself. With
        `padding="zero"` and a patch of 2 h - 1, which reaches everything, it is `dataset`.
    padding: what is beyond the edges. "zero": nothing; "circular": the other side of the image.

    Raises:
      ValueError: the points are no images, or the patch or the padding does not fit them.
    """
    return Local(points, std, patch, padding)


def equivariant_local(
    points: Float[Array, "n h w c"], std: float = 0.0, *, patch: int, padding: str = "zero"
) -> EquivariantLocal:
    """As `local`, for denoisers that do the same at every pixel, such as convolutions: patches of
    all places are compared (Kamb & Ganguli 2024, sec. 4, "ELS").

    padding: "zero": a convolution sees the zeros beyond the edges and tells from them how far these
        are, so only patches that are cut off alike are compared. "circular": all are, and the
        result moves with x.

    Its cost is that of `local` times the number of pixels.
    """
    return EquivariantLocal(points, std, patch, padding)


@dataclass(frozen=True, eq=False)
class _Patches(abc.ABC):
    """With P a patch of x_t, q those of the points and v the pixels in their middles,

        D = sum_j w_j v_j / sum_j w_j,    w_j = exp(-|P - alpha q_j|^2 / (2 m)),
        m = alpha^2 std^2 + sigma^2

    and then the blur of v as in `Dataset`. The sums are over a few points at a time.
    """

    points: Float[Array, "n h w c"]
    std: float
    patch: int
    padding: str

    def __post_init__(self):
        if self.points.ndim != 4:
            raise ValueError(f"patches are of images [n, h, w, c], not {self.points.shape}")
        if self.padding not in _PADDINGS:
            raise ValueError(f"padding is {self.padding!r}: one of {', '.join(_PADDINGS)}")
        least = min(self.points.shape[1:3])
        most = least if self.padding == "circular" else 2 * max(self.points.shape[1:3]) - 1
        if not (1 <= self.patch <= most and self.patch % 2):
            raise ValueError(f"patch must be odd, from 1 to {most}, not {self.patch}")

    @abc.abstractmethod
    def _compared(self, x: Array, theirs: Array, points: Array) -> tuple[Array, Array]:
        """`|P - alpha q_j|^2` [p, j] and v [p or 1, j, c], given x [h, w, c] and some points
        [m, h, w, c], times alpha and as they are."""

    def denoiser(self, sde: SDE) -> Denoiser:
        """`(x_t [b, h, w, c], t [] or [b]) -> D`."""

        def denoise(x_t, t):
            t = jnp.broadcast_to(jnp.asarray(t, x_t.dtype), x_t.shape[:1])
            of_examples = x_t, sde.alpha(t), sde.sigma(t)
            return jax.lax.map(lambda one: self._one(*one), of_examples, batch_size=_EXAMPLES)

        return denoise

    def _one(self, x: Array, alpha: Array, sigma: Array) -> Array:
        variance = (alpha * self.std) ** 2 + sigma**2
        few = min(_POINTS, len(self.points))
        filling = -len(self.points) % few
        points = jnp.pad(self.points.astype(x.dtype), ((0, filling), *((0, 0),) * 3))
        there = jnp.arange(len(points)) < len(self.points)

        def add(sums, some):
            points, there = some
            squares, values = self._compared(x, alpha * points, points)
            there = jnp.repeat(there, squares.shape[1] // few)[None]
            log = jnp.where(there, -squares / (2 * variance), -jnp.inf)
            top, total, mean = sums
            new = jax.lax.stop_gradient(jnp.maximum(top, jnp.max(log, axis=1)))
            weight, old = jnp.exp(log - new[:, None]), jnp.exp(top - new)
            total = old * total + jnp.sum(weight, axis=1)
            mean = old[:, None] * mean + jnp.sum(weight[..., None] * values, axis=1)
            return (new, total, mean), None

        nothing = jnp.zeros_like(x[..., 0].ravel())
        start = nothing - jnp.inf, nothing, jnp.zeros_like(x).reshape(len(nothing), -1)
        chunks = points.reshape(-1, few, *x.shape), there.reshape(-1, few)
        (_, total, mean), _ = jax.lax.scan(add, start, chunks)
        mean = (mean / total[:, None]).reshape(x.shape)
        return mean + alpha * self.std**2 / variance * (x - alpha * mean)

    def _windowed(self, squares: Array, *axes: int) -> Array:
        """The sums over the side of a patch, along axes that move together."""
        reach, shape = self.patch // 2, squares.shape
        widths = [(reach, reach) if axis in axes else (0, 0) for axis in range(len(shape))]
        padded = jnp.pad(squares, widths, _PADDINGS[self.padding])
        total = jnp.zeros_like(squares)
        for first in range(self.patch):
            starts = [first if axis in axes else 0 for axis in range(len(shape))]
            ends = [start + n for start, n in zip(starts, shape, strict=True)]
            total += jax.lax.slice(padded, starts, ends)
        return total


class Local(_Patches):
    """What `local` gives."""

    def _compared(self, x, theirs, points):
        squares = jnp.sum((x[None] - theirs) ** 2, axis=3)  # [m, h, w]
        squares = self._windowed(self._windowed(squares, 1), 2)
        values = points.reshape(len(points), -1, points.shape[3])
        return squares.reshape(len(points), -1).T, jnp.swapaxes(values, 0, 1)


class EquivariantLocal(_Patches):
    """What `equivariant_local` gives."""

    def _compared(self, x, theirs, points):
        away = x[None, None, None] - theirs[:, :, :, None, None]  # [m, h, w, h, w, c]
        squares = self._windowed(self._windowed(jnp.sum(away**2, axis=5), 1, 3), 2, 4)
        squares = squares.reshape(len(points) * x[..., 0].size, -1).T
        alike = np.tile(self._alike(), len(points))
        values = points.reshape(1, -1, points.shape[3])
        return jnp.where(alike, squares, jnp.inf), values

    def _alike(self) -> Bool[np.ndarray, "p p"]:
        """Which two pixels have patches that the edges cut off alike."""
        height, width = self.points.shape[1:3]
        if self.padding == "circular":
            return np.ones((height * width,) * 2, bool)
        row, column = np.divmod(np.arange(height * width), width)
        distances = np.stack([row, height - 1 - row, column, width - 1 - column], axis=1)
        cut = np.minimum(distances, self.patch // 2)
        return np.all(cut[:, None] == cut[None], axis=2)


def jump_start(sde: SDE, law: Gaussian, x: Float[Array, "b ..."], s: Array) -> Array:
    """x_s, where the probability-flow ODE of a Gaussian leads from x at t_max: a start for samplers
    that costs no evaluation (Wang & Vastola 2024, "The unreasonable effectiveness of Gaussian score
    approximation for diffusion models and its applications"). With noise enough the score of any
    data is about that of `wiener`; of Gaussian data the start is exact at every s.
    """
    flat = x.reshape(len(x), -1)
    start = jnp.asarray(sde.t_max, x.dtype)
    return flow(sde, law.flow_map(sde))(flat, start, s).reshape(x.shape)


def same_class(
    law: Dataset, classes: Int[Array, " n"], number: int
) -> Callable[[SDE, Array, Array], Float[Array, " b"]]:
    """`(sde, x_t, t) -> sum_k p(k | x_t)^2`, the chance that two draws of x_0 given x_t are of one
    class. Along a path it rises from 1/number to 1 around the time of speciation, when the class is
    decided (Biroli et al. 2024, arXiv:2402.18491).

    classes: of the points, 0..number-1.
    """

    def chance(sde, x_t, t):
        t = jnp.broadcast_to(jnp.asarray(t, x_t.dtype), x_t.shape[:1])

        def one(x, alpha, sigma):
            share = jax.nn.softmax(law._log_joint(x, alpha, sigma))
            return jnp.sum(jax.ops.segment_sum(share, classes, number) ** 2)

        return jax.vmap(one)(x_t.reshape(len(x_t), -1), sde.alpha(t), sde.sigma(t))

    return chance
