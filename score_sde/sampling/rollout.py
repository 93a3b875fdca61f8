"""Clips longer than those that a network was trained on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.processes import SDE
from score_sde.sampling.loop import sample
from score_sde.solvers.pyramid import pyramid
from score_sde.types import Denoiser, Grid, Key


def rollout(
    key: Key,
    sde: SDE,
    denoiser: Denoiser,
    first: Float[Array, "b k ..."],
    times: Grid,
    *,
    frames: int,
    windows: int,
    delay: float = 1.0,
    eta: float = 0.0,
) -> Float[Array, "b n ..."]:
    """Goes on with a clip: `windows` times, the last k frames so far are given, and the `frames` -
    k after them are drawn given these (`solvers.pyramid`). So the result has k + windows (frames -
    k) frames, of which the first are `first`. All in one compiled scan.

    denoiser: of x_t [b, frames, ...] at times [b, frames], such as that of a network trained by
        `diffusion_forcing`.
    first: k frames of x without noise, such as the codec's `middle` of a clip.
    delay, eta: as those of `pyramid`.

    The frames before the last k are forgotten: the law is exact where x given all frames so far is
    x given the last k, as for a Markov chain with k = 1.

    Raises:
      ValueError: frames is not above k, or windows is below 1.
    """
    given = first.shape[1]
    if not 0 < given < frames:
        raise ValueError(f"of {frames} frames {given} are given: give fewer, and at least 1")
    if windows < 1:
        raise ValueError(f"windows must be at least 1, not {windows}")
    solver = pyramid(sde, delay, given=given, eta=eta)

    def window(last, key):
        key_noise, key_run = jax.random.split(key)
        shape = (len(last), frames - given, *last.shape[2:])
        noise = sde.prior_sample(key_noise, shape, last.dtype)
        start = jnp.concatenate([last, noise], axis=1)
        x = sample(key_run, solver, denoiser, start, times).x
        return x[:, -given:], x[:, given:]

    _, new = jax.lax.scan(window, first, jax.random.split(key, windows))
    new = jnp.moveaxis(new, 0, 1)
    return jnp.concatenate([first, new.reshape(len(first), -1, *first.shape[2:])], axis=1)
