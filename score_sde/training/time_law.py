"""How training draws t. A law changes the variance of the loss, never its expectation: the
objective divides by the law's density. `measured` learns from the losses of training which law has
the least variance; the others are stated."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from score_sde.config import build
from score_sde.processes import SDE, Time, derivative, finite_log_snr
from score_sde.types import Key, PyTree

__all__ = [
    "grid_points",
    "karras",
    "log_normal",
    "log_snr_uniform",
    "logit_normal",
    "measured",
    "uniform",
]  # what a config can name


class Learning(NamedTuple):
    """How a law of t is learnt in training. Pure functions.

    init: `() -> state` before the first step.
    law: `state -> TimeLaw`, the law of now.
    measure: `(sde, state, losses [b], t [b]) -> Array`, what a batch tells, for losses that were
        drawn by `law(state)`: a mean over examples, so that those of equal parts of a batch average
        to that of the whole.
    update: `(state, what the batch told) -> state`.
    """

    init: Callable[[], PyTree]
    law: Callable[[PyTree], TimeLaw]
    measure: Callable[[SDE, PyTree, Array, Array], Array]
    update: Callable[[PyTree, Array], PyTree]


class TimeLaw(NamedTuple):
    """A law of t on [t_min, t_max], stated by its quantiles.

    quantile: `(sde, u in [0, 1)) -> t`.
    density: `(sde, t) -> q(t) / uniform density`, unitless; 1 for the uniform law.
    stratified: draws one u in each of n equal cells (a low-discrepancy set, Kingma et al. 2021,
        app. I.1) instead of n independent ones.
    learning: of a law that changes in training; this one is then what it starts from. Its state is
        in the state of training.
    """

    quantile: Callable[[SDE, Time], Time]
    density: Callable[[SDE, Time], Time]
    stratified: bool = False
    learning: Learning | None = None

    def at(self, state: PyTree) -> TimeLaw:
        """The law that has this state; itself, if it does not change or the state is ()."""
        return self.learning.law(state) if self.learning and jax.tree.leaves(state) else self

    def sample(self, key: Key, sde: SDE, n: int, dtype=jnp.float32) -> Float[Array, " n"]:
        """Draws t [n]."""
        if self.stratified:
            u = (jax.random.uniform(key, (), dtype) + jnp.arange(n, dtype=dtype) / n) % 1
        else:
            u = jax.random.uniform(key, (n,), dtype)
        return jnp.clip(self.quantile(sde, u), sde.t_min, sde.t_max)


def uniform(stratified: bool = False) -> TimeLaw:
    """Uniform on [t_min, t_max] (Song et al. 2021, eq. 7)."""
    return TimeLaw(
        lambda sde, u: sde.t_min + u * (sde.t_max - sde.t_min),
        lambda sde, t: jnp.ones_like(t),
        stratified,
    )


def grid_points(num_steps: int = 1000, stratified: bool = False) -> TimeLaw:
    """Uniform on the num_steps times of a discrete process (DDPM, SMLD)."""

    def quantile(sde, u):
        index = jnp.minimum(jnp.floor(u * num_steps), num_steps - 1)
        return sde.t_min + index / (num_steps - 1) * (sde.t_max - sde.t_min)

    return TimeLaw(quantile, lambda sde, t: jnp.ones_like(t), stratified)


def log_snr_uniform(stratified: bool = False) -> TimeLaw:
    """Uniform in log-SNR: the importance law of the likelihood weighting, for which
    `likelihood weight / density` is constant (Song et al. 2021b, arXiv:2101.09258).

    Its functions raise a ValueError for a process whose log-SNR is infinite at an end.
    """

    def quantile(sde, u):
        low, high = _log_snr_range(sde, u)
        return sde.t_of_log_snr(high + u * (low - high))

    def density(sde, t):
        low, high = _log_snr_range(sde, t)
        return -derivative(sde.log_snr, t) * (sde.t_max - sde.t_min) / (high - low)

    return TimeLaw(quantile, density, stratified)


def karras(rho: float = 7.0, stratified: bool = False) -> TimeLaw:
    """Uniform in s^(1/rho), s = sigma/alpha: draws the steps of the grid `karras` of the same rho
    equally often (Karras et al. 2022, arXiv:2206.00364, eq. 5).

    Its functions raise a ValueError for a process whose log-SNR is infinite at an end, or for a rho
    that is not positive.
    """
    if not rho > 0:
        raise ValueError(f"rho must be above 0, not {rho}")

    def root(sde, t):
        return jnp.exp(-sde.log_snr(t) / (2 * rho))

    def ends(sde, like):
        _log_snr_range(sde, like)  # both are finite
        return (root(sde, t) for t in _ends(sde, like))

    def quantile(sde, u):
        low, high = ends(sde, u)
        return sde.t_of_log_snr(-2 * rho * jnp.log(low + u * (high - low)))

    def density(sde, t):
        low, high = ends(sde, t)
        rate = derivative(lambda t: root(sde, t), t)
        return rate * (sde.t_max - sde.t_min) / (high - low)

    return TimeLaw(quantile, density, stratified)


def log_normal(mean: float = -1.2, std: float = 1.2, stratified: bool = False) -> TimeLaw:
    """ln(sigma/alpha) ~ N(mean, std^2), cut off at the ends of the process (Karras et al. 2022).

    Its tails are thin: 1/density has infinite variance, or nearly so on a short range of noise. Use
    it with a weighting that holds the density too (`weighting.edm`), not to estimate another loss.
    """

    def cdf(sde, t):  # of ln(sigma/alpha)
        return norm.cdf((-sde.log_snr(t) / 2 - mean) / std)

    def quantile(sde, u):
        first, last = (cdf(sde, t) for t in _ends(sde, u))
        # Rounding must not reach probability 0 or 1, whose quantile is infinite.
        tiny = jnp.finfo(u.dtype).eps
        p = jnp.clip(first + u * (last - first), tiny, 1 - tiny)
        return sde.t_of_log_snr(-2 * (mean + std * ndtri(p)))

    def density(sde, t):
        first, last = (cdf(sde, end) for end in _ends(sde, t))
        log_sigma = -sde.log_snr(t) / 2
        rate = -derivative(sde.log_snr, t) / 2  # d log_sigma / dt
        pdf = norm.pdf(log_sigma, mean, std)
        # 0 also where alpha or sigma is 0 and the rate is infinite
        pdf_of_t = jnp.where(pdf > 0, pdf * rate, 0.0)
        return pdf_of_t * (sde.t_max - sde.t_min) / (last - first)

    return TimeLaw(quantile, density, stratified)


def logit_normal(mean: float = 0.0, std: float = 1.0, stratified: bool = False) -> TimeLaw:
    """logit(tau) ~ N(mean, std^2), tau the relative time (Esser et al. 2024, arXiv:2403.03206).

    Its tails are so thin that 1/density has infinite variance: use it with a weighting that holds
    the density too (`weighting.sd3`), not to estimate another loss.
    """

    def quantile(sde, u):
        u = jnp.clip(u, jnp.finfo(u.dtype).eps, 1 - jnp.finfo(u.dtype).eps)
        tau = jax.nn.sigmoid(mean + std * ndtri(u))
        return sde.t_min + tau * (sde.t_max - sde.t_min)

    def density(sde, t):
        tau = (t - sde.t_min) / (sde.t_max - sde.t_min)
        pdf = norm.pdf(jnp.log(tau) - jnp.log1p(-tau), mean, std)
        return jnp.where(pdf > 0, pdf / (tau * (1 - tau)), 0.0)  # 0 at both ends

    return TimeLaw(quantile, density, stratified)


def measured(
    base: str = "log_snr_uniform", bins: int = 100, memory: float = 300.0, floor: float = 0.001
) -> TimeLaw:
    """The law of least variance for independent draws, from second moments that training measures.

    With loss f(t) per unit of a base law, f/p has the least variance under p ~ sqrt(E f^2). So p is
    constant, relative to the base law, in each of `bins` ranges that the base law draws equally
    often, and there in proportion to the root of the mean f^2 of recent examples. p goes over from
    the base law to the measured one in the first tenths of the memory. (Nichol & Dhariwal 2021,
    arXiv:2102.09672, sec. 3.3, for the 1,000 steps of a chain.)

    base: a continuous law, by name; with one that is stratified, draws are.
    memory: of how many steps the moments are an exponential average.
    floor: the least density, relative to the base law: so weights are at most 1/floor of those of
        the base law, whatever was measured.

    Raises:
      ValueError: bins below 2, memory not above 1, floor not in (0, 1]. Its functions raise one of
        a base law that is discrete.
    """
    if bins < 2 or not memory > 1 or not 0 < floor <= 1:
        raise ValueError(
            f"bins={bins}, memory={memory}, floor={floor}: at least 2 bins, a memory above 1 step, "
            "and a floor above 0 and up to 1"
        )
    plain: TimeLaw = build("training.time_law", base)

    def relative(state):
        """The density of the law relative to the base, [bins]."""
        share, moment = state
        rms = jnp.sqrt(jnp.where(share > 0, moment / jnp.where(share > 0, share, 1), 0))
        mean = jnp.mean(rms)
        filled = jnp.where(mean > 0, jnp.sum(share), 0)  # of the memory
        left = (1 - filled) ** 10  # of the base law
        found = rms / jnp.where(mean > 0, mean, 1)
        return floor + (1 - floor) * (left + (1 - left) * found)

    def measure(sde, state, losses, t):
        index = _bin_of(plain, sde, t, bins)
        loss = losses * relative(state).astype(losses.dtype)[index]
        told = jnp.stack([jnp.ones_like(loss), loss**2])
        inside = index[:, None] == jnp.arange(bins, dtype=index.dtype)[None]
        return jnp.mean(jnp.where(inside[None], told[..., None], 0), axis=1).astype(jnp.float32)

    learning = Learning(
        # of each bin: its share of the examples, and the part of the mean f^2 that they make
        init=lambda: jnp.zeros((2, bins), jnp.float32),
        law=lambda state: _piecewise(plain, relative(state)),
        measure=measure,
        update=lambda state, told: state + (told - state) / memory,
    )
    return plain._replace(learning=learning)


def _piecewise(base: TimeLaw, relative: Float[Array, " bins"]) -> TimeLaw:
    """The law with this density relative to the base, of mean 1, in ranges that the base draws
    equally often."""
    bins = len(relative)
    ends = jnp.concatenate([jnp.zeros(1, relative.dtype), jnp.cumsum(relative)]) / bins

    def quantile(sde, u):
        grid = jnp.arange(bins + 1, dtype=u.dtype) / bins
        return base.quantile(sde, jnp.interp(u, ends.astype(u.dtype), grid))

    def density(sde, t):
        return base.density(sde, t) * relative.astype(t.dtype)[_bin_of(base, sde, t, bins)]

    return TimeLaw(quantile, density, base.stratified)


def _bin_of(base: TimeLaw, sde: SDE, t: Array, bins: int) -> Array:
    """The number of the range of each t."""
    _check_continuous(base, sde)
    inner = jnp.arange(1, bins, dtype=t.dtype) / bins
    return jnp.searchsorted(base.quantile(sde, inner), t, side="right")


def _check_continuous(law: TimeLaw, sde: SDE) -> None:
    """Raises a ValueError of a law that draws few times, each often."""
    with jax.ensure_compile_time_eval():
        near = np.asarray(law.quantile(sde, jnp.array([0.5, 0.5001], jnp.float32)))
    if not near[0] < near[1]:
        raise ValueError("a measured law needs a base that is continuous: log_snr_uniform, uniform")


def _ends(sde: SDE, like: Array) -> tuple[Array, Array]:
    return jnp.asarray(sde.t_min, like.dtype), jnp.asarray(sde.t_max, like.dtype)


def _log_snr_range(sde: SDE, like: Array) -> tuple[Array, Array]:
    for t in sde.t_max, sde.t_min:
        finite_log_snr(sde, t, "this law of t", "take another law of t, or move that end")
    t_min, t_max = _ends(sde, like)
    return sde.log_snr(t_max), sde.log_snr(t_min)
