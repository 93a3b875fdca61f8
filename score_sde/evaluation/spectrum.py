r"""The spectrum of a data set: mean and variance by frequency.

The orthonormal discrete cosine transform turns white noise into white noise. So noised data may be
seen in its basis as well, and there natural images, sounds and series are nearly uncorrelated. The
Gaussian law with their mean and variance of each coefficient is the `Normal` of `sampler_law`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.fft
from jaxtyping import Float

from score_sde.evaluation.sampler_law import Normal


class Spectrum(NamedTuple):
    """law: of the coefficients, [d]. frequency [d]: of each, in cycles per step of an axis, the
    norm over the axes; 0 where x has no axis but its channels."""

    law: Normal
    frequency: Float[np.ndarray, " d"]

    def bands(self, count: int) -> list[np.ndarray]:
        """Which coefficients lie in each of at most `count` bands of equal width, from frequency 0
        up; the constant has a band of its own, and a band without coefficients is left out."""
        edges = np.linspace(0, self.frequency.max() + 1e-9, count)
        inside = np.digitize(self.frequency, edges, right=True)
        return [np.flatnonzero(inside == i) for i in range(count + 1) if np.any(inside == i)]


def cosines(x: Float[np.ndarray, "b ..."]) -> Float[np.ndarray, "b ..."]:
    """The orthonormal cosine transform (DCT-II) of each example over all axes but the last, its
    channels."""
    axes = range(1, x.ndim - 1)
    return np.asarray(scipy.fft.dctn(x, axes=axes, norm="ortho")) if axes else x


def measured(batches: Iterable[Float[np.ndarray, "b ..."]], noise_width: float = 0.0) -> Spectrum:
    """That of all examples x, and of uniform noise of this width that each number of x still gets
    (`Codec.noise_width`).

    Raises:
      ValueError: fewer than two examples.
    """
    count, mean, squares = 0, np.zeros(()), np.zeros(())
    for batch in batches:
        found = cosines(np.asarray(batch, np.float64))
        # of all so far from those of two parts (Chan et al. 1983), so that nothing cancels
        away, share = found.mean(axis=0) - mean, len(found) / (count + len(found))
        squares = squares + len(found) * (found.var(axis=0) + (1 - share) * away**2)
        mean = mean + share * away
        count += len(found)
    if count < 2:
        raise ValueError(f"a spectrum needs at least two examples, and there are {count}")
    shape, variance = mean.shape, squares / count + noise_width**2 / 12
    steps = [np.arange(n) / (2 * n) for n in shape[:-1]]
    axes = np.meshgrid(*steps, indexing="ij") if steps else [np.zeros(())]
    norm = np.sqrt(np.sum(np.stack(axes) ** 2, axis=0))
    frequency = np.broadcast_to(norm[..., None], shape)
    law = Normal(jnp.asarray(mean.ravel()), jnp.asarray(variance.ravel()))
    return Spectrum(law, frequency.ravel())
