r"""Processes between two data sets: x_0 at time 0, and x_1 at t_max, where others have noise.

Take any Gaussian process with alpha and sigma, and pin both of its ends. With
R = SNR(t_max)/SNR(t), what lies between them is

    x_t = a x_0 + b x_1 + c z
    a = alpha (1 - R)     b = R alpha/alpha(t_max)     c = sigma sqrt(1 - R)

so c^2 is proportional to a b. Pinned at x_0 alone, the process goes back from x_t to x_s by
`posterior(sde, t, s)`, whatever x_1 is. So the reverse SDE of a bridge needs no more than
D = E[x_0 | x_t], and is, letter by letter, the reverse SDE of the process: `ancestral` and every
other solver that draws all of the noise serve unchanged, begun at samples of x_1 (Peluchetti 2021;
Shi et al. 2023, arXiv:2303.16852; Liu et al. 2023, arXiv:2302.05872). Its drift and its noise are
those of `interpolants` (Albergo et al. 2023, arXiv:2303.08797) for the one diffusion at which
E[x_1 | x_t] drops out, g^2 = 2 c^2 d ln(b/c)/dt.

Solvers of the ODE are right where c = 0: there b plays the role of sigma, and x_1 that of the
noise. `Flow` is such a process: x_t = (1 - t) x_0 + t x_1.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from score_sde.processes.gaussian import SDE, Time
from score_sde.types import expand

__all__ = ["Brownian", "Trigonometric"]  # what a config can name


class Weights(NamedTuple):
    """`x_t = a x_0 + b x_1 + c z`, each of the shape of t."""

    a: Time
    b: Time
    c: Time


def between(sde: SDE, t: Time) -> Weights:
    """The law of x_t given both ends, of any process with alpha > 0 at t_max."""
    end = jnp.asarray(sde.t_max, t.dtype)
    log_share = sde.log_snr(end) - sde.log_snr(t)
    free = -jnp.expm1(log_share)  # 1 - R
    alpha = sde.alpha(t)
    b = jnp.exp(log_share) * alpha / sde.alpha(end)
    return Weights(alpha * free, b, sde.sigma(t) * jnp.sqrt(free))


def noise_between(sde: SDE, x_0: Array, x_1: Array, z: Array, t: Time) -> Array:
    """The noise n with which `alpha x_0 + sigma n` is on the bridge, x_0, x_1, z [b, ...]:

        n = sqrt(1 - R) z + R (alpha/sigma) (x_1/alpha(t_max) - x_0)

    So a bridge is the process with a noise that leans towards x_1.
    """
    end = jnp.asarray(sde.t_max, t.dtype)
    log_share = sde.log_snr(end) - sde.log_snr(t)
    lean = jnp.exp(log_share + sde.log_snr(t) / 2)
    free = jnp.sqrt(-jnp.expm1(log_share))
    return expand(free, z) * z + expand(lean, z) * (x_1 / sde.alpha(end) - x_0)


@dataclass(frozen=True, kw_only=True)
class Ends(SDE):
    """Bridges that state the weights a and b of the two ends: c^2 = variance a b. As a process
    alpha = a + b and sigma^2 = variance b (a + b).

    variance: of the noise, data^2. The Schroedinger bridge of this process has the plan with the
        least E|x_0 - x_1|^2/2 + variance KL.
    t_max is 1, where a = 0 and b = 1.
    """

    variance: float = 1.0
    t_min: float = 1e-4
    t_max: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.variance <= 0:
            raise ValueError(
                f"{self}: variance must be above 0; without noise take the process Flow and the "
                "objective interpolant"
            )

    @abc.abstractmethod
    def ends(self, t: Time) -> tuple[Time, Time]:
        """a and b."""

    @abc.abstractmethod
    def t_of_ratio(self, ratio: Time) -> Time:
        """The inverse of a/b."""

    def alpha(self, t):
        return sum(self.ends(t))

    def sigma(self, t):
        a, b = self.ends(t)
        return jnp.sqrt(self.variance * b * (a + b))

    def t_of_log_snr(self, log_snr):
        return self.t_of_ratio(self.variance * jnp.exp(log_snr) - 1)  # SNR = (1 + a/b)/variance

    def prior_sample(self, key, shape, dtype=float):
        raise ValueError(_BEGINS)

    def prior_log_prob(self, x):
        raise ValueError(f"{_BEGINS}; their density is not known, so neither is that of samples")


_BEGINS = (
    "a bridge begins at examples of another data set, and not at noise: set "
    "conditioner='starts(text=...)', which reads them"
)


@dataclass(frozen=True, kw_only=True)
class Brownian(Ends):
    """Brownian bridges, a = 1 - t and b = t: alpha = 1, sigma^2 = variance t. Albergo et al. 2023
    write c = sqrt(2 e t (1 - t)), so e = variance/2."""

    def ends(self, t):
        return 1 - t, t

    def alpha(self, t):
        return jnp.ones_like(t)

    def sigma(self, t):
        return jnp.sqrt(self.variance * t)

    def t_of_ratio(self, ratio):
        return 1 / (1 + ratio)


@dataclass(frozen=True, kw_only=True)
class Trigonometric(Ends):
    """a = cos(pi t/2) and b = sin(pi t/2): between independent ends of unit variance, x_t has
    almost unit variance too."""

    def ends(self, t):
        return jnp.sin((1 - t) * math.pi / 2), jnp.sin(t * math.pi / 2)

    def t_of_ratio(self, ratio):
        return jnp.arctan2(jnp.ones_like(ratio), ratio) * (2 / math.pi)
