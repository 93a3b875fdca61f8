"""Grids of times: `(sde, n, **options) -> n + 1 decreasing times`, where a sampler evaluates.

Unless its docstring says otherwise, a grid goes from exactly t_max to exactly t_min. Sampling then
usually ends with one more evaluation, `E[x_0 | x]` at the last time: n + 1 in all. The noise level
of a grid is s = sigma/alpha, the sigma of Karras et al. 2022 and of published discrete samplers.

Every grid is computed from static numbers, also under `jit`. It raises a ValueError if n < 1, if an
option is out of its range, or if float32 cannot tell two of its times apart. A grid that is spaced
in s also does so if s is 0 or infinite at an end.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.processes import SDE, finite_log_snr
from score_sde.solvers import learned_coefficients
from score_sde.types import Grid

__all__ = [
    "beta",
    "beta_time",
    "flow_shift",
    "karras",
    "leading",
    "learned",
    "linspace",
    "log_snr",
    "polyexponential",
    "respaced",
    "searched",
    "trailing",
    "uniform",
]  # what a config can name

SEARCHED = {
    # Sabour et al. 2024 (arXiv:2404.14507), table 3: Stable Diffusion 1.5, 10 steps
    "ays": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    # Chen et al. 2024 (arXiv:2405.11326), its code's readme: CIFAR-10, 6 steps of iPNDM
    "gits": (80.0, 10.9836, 3.8811, 1.584, 0.5666, 0.1698, 0.002),
}
"""Noise levels s found by search, most noise first."""


# Spaced in time.


def uniform(sde: SDE, n: int) -> Grid:
    """Equally spaced in t (Song et al. 2021): for processes made for their own times (VP, Cosine,
    Flow). With n = num_steps - 1 these are all times of a discrete process."""
    return _at_times(sde, 1 - _ramp(n))


def flow_shift(sde: SDE, n: int, shift: float = 3.0) -> Grid:
    """`k u / (1 + (k - 1) u)`, u uniform, k = shift (Esser et al. 2024, arXiv:2403.03206).

    For Flow, where it multiplies s = t/(1 - t) by k. k > 1 spends more steps on much noise, as
    large images need; k = 1 is `uniform`. u from 0 to 1 stands for t_min to t_max, so the ends hold
    for every process; with t_min = 0 and t_max = 1 the formula is as published.
    """
    _check_positive(shift=shift)
    u = 1 - _ramp(n)
    return _at_times(sde, shift * u / (1 + (shift - 1) * u))


def beta_time(sde: SDE, n: int, alpha: float = 0.6, beta: float = 0.6) -> Grid:
    """Times at equally spaced quantiles of the law Beta(alpha, beta) on [t_min, t_max].

    Lee et al. 2024 (arXiv:2407.12173): below 1, both ends get more steps than the middle. For Flow,
    where sigma = t, other libraries call it beta sigmas.
    """
    _check_positive(alpha=alpha, beta=beta)
    return _at_times(sde, _beta_quantiles(alpha, beta, n))


# Spaced in the noise level s.


def log_snr(sde: SDE, n: int) -> Grid:
    """Equally spaced in log-SNR and so in ln s (Lu et al. 2022, arXiv:2206.00927): for exponential
    integrators (DPM-Solver, UniPC), whose error depends on the step in ln s."""
    low, high = _log_noise(sde)
    return _at_log_noise(sde, high + (low - high) * _ramp(n))


def polyexponential(sde: SDE, n: int, rho: float = 1.0) -> Grid:
    """`ln s = ln s_min + u^rho (ln s_max - ln s_min)` of uniform u (k-diffusion).

    rho = 1 is `log_snr`. A larger rho moves steps to little noise, a smaller one to much.
    """
    _check_positive(rho=rho)
    low, high = _log_noise(sde)
    return _at_log_noise(sde, low + (1 - _ramp(n)) ** rho * (high - low))


def karras(sde: SDE, n: int, rho: float = 7.0) -> Grid:
    """Equally spaced in s^(1/rho) (Karras et al. 2022, arXiv:2206.00364, eq. 5): the grid of EDM.

    rho = 1 is equally spaced in s; with rho to infinity it becomes `log_snr`.
    """
    _check_positive(rho=rho)
    low, high = (np.exp(end / rho) for end in _log_noise(sde))
    return _at_log_noise(sde, rho * np.log(high + (low - high) * _ramp(n)))


def beta(sde: SDE, n: int, alpha: float = 0.6, beta: float = 0.6) -> Grid:
    """Noise levels s at equally spaced quantiles of the law Beta(alpha, beta) on [s_min, s_max].

    This is diffusers' `use_beta_sigmas`, for processes of moderate s_max (15 of latent diffusion);
    the paper, arXiv:2407.12173, has the quantiles in time: `beta_time`.
    """
    _check_positive(alpha=alpha, beta=beta)
    low, high = (np.exp(end) for end in _log_noise(sde))
    return _at_log_noise(sde, np.log(low + (high - low) * _beta_quantiles(alpha, beta, n)))


def searched(sde: SDE, n: int, name: str = "ays") -> Grid:
    """Noise levels that a search found best for few steps of a large network (`SEARCHED`).

    "ays": Align Your Steps, Stable Diffusion 1.5 (arXiv:2404.14507), n = 10. "gits": CIFAR-10
    (arXiv:2405.11326), n = 6. For another n, ln s is interpolated linearly in the index, as by the
    authors of the first. ln s is then mapped affinely from the ends of the list to those of the
    process; a process with the ends of the list keeps its noise levels.
    """
    if name not in SEARCHED:
        raise ValueError(f"unknown name {name!r}: one of {', '.join(SEARCHED)}")
    low, high = _log_noise(sde)
    found = np.log(SEARCHED[name])
    shape = (found - found[-1]) / (found[0] - found[-1])  # from 1 to 0
    wanted = np.interp(_ramp(n), np.linspace(0, 1, len(shape)), shape)
    return _at_log_noise(sde, low + (high - low) * wanted)


def learned(sde: SDE, n: int, path: str) -> Grid:
    """The times in a file of `sampling.learn_solver.save`, found for one model and n evaluations.

    Times that were learned alone start at t_max and are for any solver. Those of a whole sampler
    start at its first evaluation, below t_max, and are for the solver `learned` of the same file.

    Raises:
      ValueError: as `learned_coefficients.load`.
    """
    _ramp(n)
    with jax.ensure_compile_time_eval():
        numbers = learned_coefficients.load(path, sde, n)
        return _decreasing(np.asarray(learned_coefficients.times(sde, numbers)))


# The spacings of a discrete process, whose step i of T = num_steps stands at t = i/(T - 1). These
# are the steps that diffusers' DDIM takes for n + 1 evaluations (Lin et al. 2023, arXiv:2305.08891,
# table 2). They raise a ValueError if the process has no num_steps, if n is not below num_steps, or
# if a time is outside [t_min, t_max].


def linspace(sde: SDE, n: int, dropped: int = 0) -> Grid:
    """Steps `round(linspace(0, T - 1, n + 1))`, the spacing of Nichol & Dhariwal 2021
    (arXiv:2102.09672): both ends, and whole steps in between.

    dropped: how many steps at the end are left out of a grid of n + dropped. With 1 these are the
        steps at which diffusers' multistep solvers evaluate the network.
    """
    return _at_steps(sde, n, lambda T, k: np.linspace(0, T - 1, k).round()[::-1], dropped)


def leading(sde: SDE, n: int, offset: int = 0, dropped: int = 0, last: int | None = None) -> Grid:
    """Steps `arange(n + 1) floor(T/(n + 1)) + offset`, the spacing of DDIM (arXiv:2010.02502);
    Stable Diffusion has offset 1.

    It starts about T/(n + 1) steps below t_max, although a sampler begins from the prior. This is
    as published; Lin et al. 2023 call it a flaw, which `trailing` mends. It ends at step `offset`.

    dropped: as `linspace`.
    last: a step to end at, one of the n + 1; the others are those of n - 1. Stable Diffusion has 0:
        the last step of its DDIM goes from step 1 to step 0, and no further (diffusers'
        `set_alpha_to_one=False`), so that `sampling.denoise` is False.
    """
    if offset < 0:
        raise ValueError(f"offset must be at least 0, not {offset}")
    return _at_steps(sde, n, lambda T, k: np.arange(k)[::-1] * (T // k) + offset, dropped, last)


def trailing(sde: SDE, n: int, last: int | None = None) -> Grid:
    """Steps `round(arange(T, 0, -T/(n + 1))) - 1` (Lin et al. 2023, arXiv:2305.08891): starts at
    t_max, which few steps and a zero terminal SNR need, and ends about T/(n + 1) steps above 0.

    last: as `leading`.
    """
    # Rounding makes arange one element too long at some n.
    return _at_steps(sde, n, lambda T, k: np.arange(T, 0, -T / k)[:k].round() - 1, last=last)


def respaced(sde: SDE, n: int, name: str = "") -> Grid:
    """The spacings of iDDPM and ADM by their names (Nichol & Dhariwal 2021, arXiv:2102.09672, sec.
    4), which count the n + 1 evaluations.

    name: "250", steps a fractional stride apart, rounded; "10,15,20", so many in each of three
        equal sections; "ddim25", steps a whole stride apart from step 0 on. "" is the first kind
        with n + 1 steps, which is `linspace` but for the rounding of halves.

    Raises:
      ValueError: also if a name has other than n + 1 steps, or more than there are.
    """

    def steps(count, wanted):
        found = _named_steps(count, name or str(wanted))
        if len(found) != n + 1:
            raise ValueError(
                f"{name!r} has {len(found)} steps: set sampling.steps={len(found) - 1}"
            )
        return found[::-1]

    return _at_steps(sde, n, steps)


def _named_steps(count: int, name: str) -> np.ndarray:
    """The increasing steps of a chain of `count` that a name of `respaced` stands for."""
    if not re.fullmatch(r"(ddim)?\d{1,9}|\d{1,9}(,\d{1,9})+", name):
        raise ValueError(f"unknown name {name!r}: one such as '250', '10,15,20' or 'ddim25'")
    if name.startswith("ddim"):
        wanted = int(name.removeprefix("ddim"))
        for stride in range(1, count):
            if -(-count // stride) == wanted:
                return np.arange(0, count, stride)
        raise ValueError(f"{name!r}: no whole stride takes {wanted} of {count} steps")
    sections = [int(number) for number in name.split(",")]
    steps, start = [], 0
    for i, wanted in enumerate(sections):
        size = count // len(sections) + (i < count % len(sections))
        if not 1 <= wanted <= size:
            raise ValueError(f"{name!r}: {wanted} of {size} steps cannot be taken")
        stride = (size - 1) / (wanted - 1) if wanted > 1 else 1
        # summed one after another and rounded to even, which decides where halves go
        at = itertools.accumulate([stride] * (wanted - 1), initial=0.0)
        steps += [start + round(position) for position in at]
        start += size
    return np.array(steps)


def _beta_quantiles(alpha: float, beta: float, n: int) -> np.ndarray:
    from scipy.special import betaincinv  # here, since the import takes half as long as that of JAX

    return betaincinv(alpha, beta, 1 - _ramp(n))


def _ramp(n: int) -> np.ndarray:
    """n + 1 numbers from 0 to 1."""
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    return np.linspace(0, 1, n + 1)


def _check_positive(**options: float) -> None:
    for name, value in options.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, not {value}")


def _log_noise(sde: SDE) -> tuple[float, float]:
    """ln s at t_min and at t_max."""
    instead = (
        "use a grid that is spaced in time, or a t_max a little lower (a t_min a little higher)"
    )
    low, high = (
        finite_log_snr(sde, t, "a grid that is spaced in noise", instead) / -2.0
        for t in (sde.t_min, sde.t_max)
    )
    return low, high


def _at_times(sde: SDE, fractions: np.ndarray) -> Grid:
    """The times at fractions, from 1 to 0, of the way from t_min to t_max."""
    return _between_ends(sde, sde.t_min + (sde.t_max - sde.t_min) * fractions)


def _at_log_noise(sde: SDE, log_noise: np.ndarray) -> Grid:
    """The times at values of ln s.

    The last value is repeated up to a power of two, since XLA compiles anew for every length: a
    curriculum has 150 grids.
    """
    count = len(log_noise)
    filled = np.pad(log_noise, (0, (1 << (count - 1).bit_length()) - count), mode="edge")
    with jax.ensure_compile_time_eval():
        times = np.array(sde.t_of_log_snr(jnp.asarray(-2 * filled, float)))
        return _between_ends(sde, times[:count])


def _at_steps(
    sde: SDE,
    n: int,
    steps: Callable[[int, int], np.ndarray],
    dropped: int = 0,
    last: int | None = None,
) -> Grid:
    """The times of n + 1 steps of a discrete process: of `steps(num_steps, k)`, k decreasing ones,
    the last `dropped` are left out, and `last` is put at the end."""
    _ramp(n)
    if dropped < 0:
        raise ValueError(f"dropped must be at least 0, not {dropped}")
    count = getattr(sde, "num_steps", None)
    if count is None:
        raise ValueError(f"{sde} has no num_steps; this grid is for discrete ones (DDPM, SMLD)")
    if n >= count:
        raise ValueError(f"n must be below num_steps={count}, not {n}")
    more = [] if last is None else [last]
    spaced = n + 1 - len(more)
    found = np.append(steps(count, spaced + dropped)[:spaced], more)
    times = found / (count - 1)
    if not (sde.t_min <= times[-1] and times[0] <= sde.t_max):
        raise ValueError(
            f"the grid goes from t={times[0]:.6g} to {times[-1]:.6g}, which t_max={sde.t_max} and "
            f"t_min={sde.t_min} do not allow: change those, the options or n, or "
            "take a grid that fits any times, such as log_snr (sampling.grid=log_snr)"
        )
    return _decreasing(times)


def _between_ends(sde: SDE, times: np.ndarray) -> Grid:
    """Replaces the rounded ends by the exact ones."""
    times[[0, -1]] = sde.t_max, sde.t_min
    return _decreasing(times)


def _decreasing(times: np.ndarray) -> Grid:
    times = times.astype(jax.dtypes.canonicalize_dtype(float))
    if not np.all(np.diff(times) < 0):
        raise ValueError(
            f"two of the {len(times)} times are equal in {times.dtype}: take fewer steps, milder "
            "options, or JAX_ENABLE_X64=1"
        )
    return jnp.asarray(times)
