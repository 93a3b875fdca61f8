"""Affine Gaussian processes `x_t = alpha(t) x_0 + sigma(t) z`, `z ~ N(0, I)`.

A process states `alpha`, `sigma` and the inverse of its log-SNR. Drift, diffusion, score, noise and
velocity are derived from those by `jvp`. Every formula keeps the digits of float32 at `t_min`
(`expm1` where `1 - exp` would cancel). On its default `[t_min, t_max]` every process has a finite
log-SNR.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.types import Keys, expand, normal

__all__ = ["EDM", "VE", "VP", "Cosine", "Flow", "SubVP"]  # what a config can name

Time = Float[Array, "*b"]


@dataclass(frozen=True, kw_only=True)
class SDE(abc.ABC):
    """A Gaussian `Process` on the times [t_min, t_max].

    Times are arrays of any shape, usually [] or [b]; results have their dtype.
    """

    t_min: float
    t_max: float

    discrete: ClassVar[bool] = False

    def __post_init__(self):
        if not 0 <= self.t_min < self.t_max:
            raise ValueError(f"{self}: t_min must be below t_max, and not below 0")

    @abc.abstractmethod
    def alpha(self, t: Time) -> Time:
        """The factor of the data, unitless."""

    @abc.abstractmethod
    def sigma(self, t: Time) -> Time:
        """The standard deviation of the noise, in the units of the data."""

    @abc.abstractmethod
    def t_of_log_snr(self, log_snr: Time) -> Time:
        """The inverse of `log_snr`."""

    def log_snr(self, t: Time) -> Time:
        """ln(alpha^2 / sigma^2), strictly decreasing in t."""
        return 2 * (jnp.log(self.alpha(t)) - jnp.log(self.sigma(t)))

    def noised(self, x_0: Array, z: Array, t: Time) -> Array:
        """x_t = alpha x_0 + sigma z, x_0 and z [b, ...] at times [] or [b]."""
        return expand(self.alpha(t), x_0) * x_0 + expand(self.sigma(t), x_0) * z

    def perturb(self, key: Keys, x_0: Array, t: Time) -> Array:
        """Draws x_t given x_0 [b, ...], with one key or one for each example."""
        return self.noised(x_0, normal(key, x_0.shape, x_0.dtype), t)

    # The prior N(0, prior_std^2 I) is about the law of x at t_max, whatever the data.

    @property
    def prior_std(self) -> float:
        """Standard deviation of the prior, in the units of the data."""
        return 1.0

    def prior_sample(self, key: Keys, shape: tuple[int, ...], dtype: Any = float) -> Array:
        """Draws x [*shape] from the prior, with one key or one for each example."""
        return self.prior_std * normal(key, shape, dtype)

    def prior_log_prob(self, x: Float[Array, "b ..."]) -> Float[Array, " b"]:
        """Log-density of the prior at x, nats."""
        z = x.reshape(x.shape[0], -1) / self.prior_std
        log_norm = z.shape[1] * (math.log(self.prior_std) + math.log(2 * math.pi) / 2)
        return -jnp.sum(z**2, axis=1) / 2 - log_norm

    # The views of a denoiser's value x_0 = E[x_0 | x_t].

    def eps(self, x_t: Array, t: Time, x_0: Array) -> Array:
        """The noise `E[z | x_t] = (x_t - alpha x_0) / sigma`."""
        return (x_t - expand(self.alpha(t), x_t) * x_0) / expand(self.sigma(t), x_t)

    def score(self, x_t: Array, t: Time, x_0: Array) -> Array:
        """The score `grad log p_t(x_t) = -E[z | x_t] / sigma` (Tweedie's formula)."""
        return -self.eps(x_t, t, x_0) / expand(self.sigma(t), x_t)

    def velocity(self, x_t: Array, t: Time, x_0: Array) -> Array:
        """dx/dt of the probability-flow ODE, `alpha' E[x_0 | x_t] + sigma' E[z | x_t]`.

        Equal to `f x - g^2 score / 2` (Song et al. 2021, eq. 13), but finite where alpha is 0.
        """
        d_alpha, d_sigma = derivative(self.alpha, t), derivative(self.sigma, t)
        return expand(d_alpha, x_t) * x_0 + expand(d_sigma, x_t) * self.eps(x_t, t, x_0)


def derivative(schedule, t: Time) -> Time:
    """d schedule / dt at every entry of t, by forward differentiation."""
    t = jnp.asarray(t)
    return jax.jvp(schedule, (t,), (jnp.ones_like(t),))[1]


def finite_log_snr(sde: SDE, t: float, user: str, instead: str) -> float:
    """The log-SNR at time t, for a `user` that needs it finite.

    Raises:
      ValueError: it is infinite, since alpha or sigma is 0. The message names the user and tells
        what to do instead.
    """
    with jax.ensure_compile_time_eval():
        log_snr = float(sde.log_snr(jnp.asarray(t, float)))
    if not math.isfinite(log_snr):
        raise ValueError(
            f"{user} needs a finite log-SNR, and that of {sde} is {log_snr} at t={t}: {instead}"
        )
    return log_snr


def coefficients(sde: SDE, t: Time) -> tuple[Time, Time]:
    """`f` and `g^2` of the forward process `dx = f(t) x dt + g(t) dw` (1/time, data^2/time).

    f = alpha'/alpha and g^2 = d sigma^2/dt - 2 f sigma^2 (Karras et al. 2022, app. B). At a step of
    `DDPM`, where both jump, they are those of the interval before it, through which a sampler
    goes.
    """
    sigma = sde.sigma(t)
    f = derivative(sde.alpha, t) / sde.alpha(t)
    return f, 2 * sigma * (derivative(sde.sigma, t) - f * sigma)


class LogAlphaSDE(SDE):
    """Variance-preserving processes, stated by ln alpha: sigma^2 = 1 - alpha^2."""

    @abc.abstractmethod
    def log_alpha(self, t: Time) -> Time: ...

    @abc.abstractmethod
    def t_of_log_alpha(self, log_alpha: Time) -> Time: ...

    def alpha(self, t):
        return jnp.exp(self.log_alpha(t))

    def sigma(self, t):
        return jnp.sqrt(-jnp.expm1(2 * self.log_alpha(t)))

    def t_of_log_snr(self, log_snr):
        return self.t_of_log_alpha(jax.nn.log_sigmoid(log_snr) / 2)


@dataclass(frozen=True, kw_only=True)
class VP(LogAlphaSDE):
    """Variance preserving: `dx = -beta/2 x dt + sqrt(beta) dw`, beta(t) from beta_min to beta_max.

    ln alpha = -t^2 (beta_max - beta_min)/4 - t beta_min/2 (Song et al. 2021, eq. 11 and 33).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-5
    t_max: float = 1.0

    def log_alpha(self, t):
        return -t * (t * (self.beta_max - self.beta_min) / 4 + self.beta_min / 2)

    def t_of_log_alpha(self, log_alpha):
        # The positive root of a t^2 + b t + log_alpha = 0, in the form that does not cancel.
        a, b = (self.beta_max - self.beta_min) / 4, self.beta_min / 2
        return -2 * log_alpha / (b + jnp.sqrt(b**2 - 4 * a * log_alpha))


class SubVP(VP):
    """Sub-variance preserving: alpha of VP, sigma = 1 - alpha^2 (Song et al. 2021, eq. 14)."""

    def sigma(self, t):
        return -jnp.expm1(2 * self.log_alpha(t))

    def t_of_log_snr(self, log_snr):
        # sigma/alpha = 1/alpha - alpha = 2 sinh(-ln alpha)
        return self.t_of_log_alpha(-jnp.arcsinh(jnp.exp(-log_snr / 2) / 2))


@dataclass(frozen=True, kw_only=True)
class Cosine(SDE):
    """alpha = cos(a(t)) / cos(a(0)), a = (t + s)/(1 + s) pi/2, sigma^2 = 1 - alpha^2.

    Nichol & Dhariwal 2021 (arXiv:2102.09672, eq. 17). t_max stops where alpha is about that of VP
    at its end; at t = 1 the log-SNR would be infinite.
    """

    s: float = 0.008
    t_min: float = 1e-5
    t_max: float = 0.9946

    @property
    def _rate(self) -> float:
        return math.pi / 2 / (1 + self.s)

    def alpha(self, t):
        return jnp.sin((1 - t) * self._rate) / math.cos(self.s * self._rate)

    def sigma(self, t):
        # cos^2 a0 - cos^2 a = sin(a - a0) sin(a + a0)
        product = jnp.sin(t * self._rate) * jnp.sin((t + 2 * self.s) * self._rate)
        return jnp.sqrt(product) / math.cos(self.s * self._rate)

    def t_of_log_snr(self, log_snr):
        a0 = self.s * self._rate
        alpha2, sigma2 = jax.nn.sigmoid(log_snr), jax.nn.sigmoid(-log_snr)
        sin = jnp.sqrt(sigma2 + alpha2 * math.sin(a0) ** 2)
        return jnp.arctan2(sin, jnp.sqrt(alpha2) * math.cos(a0)) / self._rate - self.s


@dataclass(frozen=True, kw_only=True)
class VE(SDE):
    """Variance exploding: alpha = 1, sigma = sigma_min (sigma_max/sigma_min)^t.

    g = sigma sqrt(2 ln(sigma_max/sigma_min)) (Song et al. 2021, eq. 9 and 31).
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: float = 1e-5
    t_max: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"{self}: sigma_min must be above 0 and below sigma_max")

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    @property
    def prior_std(self):
        return self.sigma_min * math.exp(self.t_max * self._rate)

    def alpha(self, t):
        return jnp.ones_like(t)

    def sigma(self, t):
        return self.sigma_min * jnp.exp(t * self._rate)

    def t_of_log_snr(self, log_snr):
        return (-log_snr / 2 - math.log(self.sigma_min)) / self._rate


@dataclass(frozen=True, kw_only=True)
class EDM(SDE):
    """alpha = 1, sigma = t: time is the noise level (Karras et al. 2022, arXiv:2206.00364)."""

    t_min: float = 0.002
    t_max: float = 80.0

    @property
    def prior_std(self):
        return self.t_max

    def alpha(self, t):
        return jnp.ones_like(t)

    def sigma(self, t):
        return t

    def t_of_log_snr(self, log_snr):
        return jnp.exp(-log_snr / 2)


@dataclass(frozen=True, kw_only=True)
class Flow(SDE):
    """Rectified flow: alpha = 1 - t, sigma = t (Liu et al. 2022, Lipman et al. 2022).

    t_max stops short of 1, where the log-SNR would be infinite; on a uniform grid `ddim`,
    `ancestral` and `dpmpp` also take `t_max=1.0`.
    """

    t_min: float = 1e-5
    t_max: float = 0.999

    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t

    def t_of_log_snr(self, log_snr):
        return jax.nn.sigmoid(-log_snr / 2)
