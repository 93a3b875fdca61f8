"""Frames of video denoised each at times of its own: one after another, or in a pyramid."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from score_sde.processes import SDE, jump
from score_sde.solvers.exponential import check_range
from score_sde.types import Grid, Solver, expand

__all__ = ["pyramid"]  # what a config can name

FORMS = ("pyramid", "trapezoid")


def pyramid(
    sde: SDE, delay: float = 1.0, form: str = "pyramid", given: int = 0, eta: float | Array = 0.0
) -> Solver:
    """`ddim` of x [b, frames, ...] with a time for each frame, for a denoiser that takes times
    [b, frames] (diffusion forcing, Chen et al. 2024, arXiv:2407.01392, sec. 3.3). With t and s of
    each frame,

        x_s = alpha_s D + sqrt(sigma_s^2 - std^2) eps + std z
        std = eta sigma_s sqrt(1 - rho_s^2/rho_t^2)

    The times follow the grid with delays (`frame_times`): each frame starts at its first time, ends
    at its last, and waits before or after. One evaluation a step of the grid, for all frames. With
    the exact denoiser it is of order 1 for any delays.

    delay: how much later each frame starts than the one before, as a share of the time that one
        frame takes. 0 denoises all frames together, as `ddim`; 1 one after another.
    form: "pyramid", from the first frame to the last; "trapezoid", from both ends to the middle.
    given: so many first frames are known: x has them as they are, and they stay at the last time.
    eta: 0 for the ODE, 1 for ancestral sampling.

    Raises:
      ValueError: an option is out of its range; or, when it runs, all frames are given.
    """
    check_range("delay", delay)
    check_range("eta", eta)
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}: one of {', '.join(FORMS)}")
    if given < 0:
        raise ValueError(f"given must be at least 0, not {given}")
    without_noise = isinstance(eta, int | float) and eta == 0

    def init(x, times):
        if given >= x.shape[1]:
            raise ValueError(f"given={given} of {x.shape[1]} frames: none is left to be drawn")
        new = x.shape[1] - given
        late = np.concatenate([np.zeros(given), delays(new, form)])
        each = frame_times(times, delay * late)
        known = np.arange(x.shape[1]) < given
        return jnp.where(known[None], times[-1], each), jnp.zeros((), jnp.int32)

    def step(noise, denoiser, x, start, end, state):
        each, i = state
        t, s = (jnp.broadcast_to(each[j], x.shape[:2]) for j in (i, i + 1))
        x_0 = denoiser(x, t)
        if without_noise:
            moved = jump(sde, x, t, s, x_0)
        else:
            share = -jnp.expm1(sde.log_snr(t) - sde.log_snr(s))  # 1 - rho_s^2/rho_t^2
            fresh = jnp.clip(jnp.asarray(eta, x.dtype) ** 2 * share, 0, 1)
            kept, new = (expand(sde.sigma(s) * jnp.sqrt(a), x) for a in (1 - fresh, fresh))
            z = noise(start, end, x.shape)
            moved = expand(sde.alpha(s), x) * x_0 + kept * sde.eps(x, t, x_0) + new * z
        return jnp.where(expand(s < t, x), moved, x), (each, i + 1)

    return Solver(init, step)


def delays(frames: int, form: str) -> Int[np.ndarray, " frames"]:
    """How many others each frame waits for."""
    number = np.arange(frames)
    return number if form == "pyramid" else np.minimum(number, number[::-1])


def frame_times(times: Grid, late: Float[np.ndarray, " frames"]) -> Float[Array, "n_plus_1 frames"]:
    """The times of each frame at each step of a grid of n steps. Frame f runs through the whole
    grid in n/(1 + max late) steps, which begin after late_f times as many. So every frame is at
    times[0] at first and at times[-1] at the end, whatever the delays; between two times of the
    grid it goes on in equal parts."""
    n = len(times) - 1
    done = np.arange(n + 1)[:, None] / n * (1 + late.max()) - late[None]
    places = np.round(np.clip(done, 0, 1) * n, 9)  # whole ones are whole
    below = np.minimum(places.astype(int), n - 1)
    part = jnp.asarray(places - below, times.dtype)
    return times[below] * (1 - part) + times[below + 1] * part
