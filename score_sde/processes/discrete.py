r"""Processes of tokens: each token changes by itself, and with probability alpha(t) it has not yet.

    q(x_t | x_0) = alpha onehot(x_0) + (1 - alpha) pi

pi is a mask (`Masking`), or uniform over all values (`Uniform`). Tokens are whole numbers
x [b, l] from 0 to v - 1. A `Denoiser` gives the posterior mean of their one-hot vectors,
probabilities D [b, l, v] with D_k = p(x_0 = k | x_t) for each token. All that sampling and bounds
need follows from it: with r_k = D_k / q(x_t | x_0 = k), a token of an earlier x_s has the law
q(x_t | x_s) sum_k r_k q(x_s | x_0 = k).
"""

from __future__ import annotations

import abc
import functools
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from score_sde.config import build
from score_sde.processes.gaussian import Time, derivative
from score_sde.processes.schedules import Schedule
from score_sde.types import Keys, categorical, each_with, expand, uniform

__all__ = ["Masking", "Uniform"]  # what a config can name

MASK = -1
"""The token that says nothing."""


class TokenLaw(NamedTuple):
    """The law of tokens that are independent of one another.

    value: [b, l, v], the law of the value, if the token is no mask. masked: [b, l], the probability
        of the mask.
    """

    value: Float[Array, "b l v"]
    masked: Float[Array, "b l"]

    def sample(self, key: Keys) -> Int[Array, "b l"]:
        """Draws tokens, with one key or one for each example."""
        key_value, key_mask = each_with(key, jax.random.split, 2)
        token = categorical(key_value, self.value)
        # uniform numbers are below 1: a probability of 0 or 1 is kept exactly
        masked = uniform(key_mask, self.masked.shape, self.masked.dtype) < self.masked
        return jnp.where(masked, jnp.asarray(MASK, token.dtype), token)


@dataclass(frozen=True, kw_only=True)
class Discrete(abc.ABC):
    """A `Process` of tokens on the times [t_min, t_max].

    schedule: of alpha, a name in `processes.schedules`, or a `Schedule`.
    absorbing: whether a token changes once, to a mask.
    """

    discrete: ClassVar[bool] = True
    absorbing: ClassVar[bool]

    schedule: str | Schedule = "linear"
    t_min: float = 0.0
    t_max: float = 1.0

    def __post_init__(self):
        if not 0 <= self.t_min < self.t_max <= 1:
            raise ValueError(f"{self}: times must be 0 <= t_min < t_max <= 1")
        _ = self._alpha  # an unknown schedule is an error now

    @functools.cached_property
    def _alpha(self) -> Schedule:
        given = self.schedule
        return build("processes.schedules", given) if isinstance(given, str) else given

    def alpha(self, t: Time) -> Time:
        """The probability that a token has not changed."""
        return self._alpha.alpha(t)

    def noise(self, t: Time) -> Time:
        """1 - alpha, with all its digits where it is small."""
        return self._alpha.noise(t)

    def t_of_noise(self, noise: Time) -> Time:
        """The inverse of `noise`."""
        return self._alpha.t_of_noise(noise)

    def log_snr(self, t: Time) -> Time:
        """ln(alpha / (1 - alpha)), strictly decreasing; it orders noise levels as that of Gaussian
        processes does."""
        return jnp.log(self.alpha(t)) - jnp.log(self.noise(t))

    def t_of_log_snr(self, log_snr: Time) -> Time:
        """The inverse of `log_snr`."""
        return self.t_of_noise(jax.nn.sigmoid(-log_snr))

    def rate(self, t: Time) -> Time:
        """-alpha'/alpha, changes of a token in a unit of t; finite where alpha is 0."""
        return -derivative(self.alpha, t) / jnp.maximum(self.alpha(t), 1e-30)

    def revealing_rate(self, t: Time) -> Time:
        """-alpha'/(1 - alpha), of which a mask is revealed in a unit of t backwards; 0 where there
        is no noise."""
        noise = self.noise(t)
        noisy = noise > 0
        return jnp.where(noisy, -derivative(self.alpha, t), 0) / jnp.where(noisy, noise, 1)

    def perturb(self, key: Keys, x_0: Int[Array, "b l"], t: Time) -> Int[Array, "b l"]:
        """Draws x_t given x_0 at times [] or [b], with one key or one for each example."""
        key_which, key_new = each_with(key, jax.random.split, 2)
        u = uniform(key_which, x_0.shape, t.dtype)
        new = self.prior_sample(key_new, x_0.shape, x_0.dtype)
        return jnp.where(u < expand(self.noise(t), x_0), new, x_0)

    @abc.abstractmethod
    def prior_sample(
        self, key: Keys, shape: tuple[int, ...], dtype: Any = jnp.int32
    ) -> Int[Array, "..."]:
        """Draws tokens [*shape] of pi, with one key or one for each example."""

    @abc.abstractmethod
    def evidence(self, x_t: Int[Array, "b l"], t: Time, values: int) -> Float[Array, "b l v"]:
        """q(x_t | x_0 = k) for each value k, up to a factor for each token."""

    @abc.abstractmethod
    def reverse(
        self, x_t: Int[Array, "b l"], t: Time, s: Time, x_0: Float[Array, "b l v"]
    ) -> TokenLaw:
        """The law of each token of x_s at the earlier s, given x_t and probabilities x_0 = D. It is
        exact where D is, for each token by itself."""

    @abc.abstractmethod
    def reverse_rates(
        self, x_t: Int[Array, "b l"], t: Time, x_0: Float[Array, "b l v"]
    ) -> Float[Array, "b l v"]:
        """How often each token of x_t changes to each other value in a unit of t, backwards in time
        (Campbell et al. 2022, arXiv:2205.14987, prop. 1, in terms of D); 0 for its own value."""

    @abc.abstractmethod
    def prior_entropy(self, dtype: Any) -> Float[Array, ""]:
        """KL(q(x_T | x_0) | prior) of a token at t_max, nats."""

    @abc.abstractmethod
    def check_values(self, values: int) -> None:
        """Raises a ValueError if the process is of tokens with another number of values."""


@dataclass(frozen=True, kw_only=True)
class Masking(Discrete):
    """Tokens become masks, the token -1 (D3PM's absorbing process, Austin et al. 2021,
    arXiv:2107.03006; in continuous time Sahoo et al. 2024, arXiv:2406.07524, and Shi et al. 2024,
    arXiv:2406.04329). Its exact D does not depend on t."""

    absorbing = True

    def prior_entropy(self, dtype):
        """0, or infinite where tokens are still known at t_max."""
        noise = self.noise(jnp.asarray(self.t_max, dtype))
        return jnp.where(noise < 1, jnp.inf, jnp.zeros_like(noise))

    def check_values(self, values):
        """All are right."""

    def prior_sample(self, key, shape, dtype=jnp.int32):
        """Masks."""
        return jnp.full(shape, MASK, _integer(dtype))

    def evidence(self, x_t, t, values):
        """1 for a mask, which tells nothing; else one-hot."""
        known = jax.nn.one_hot(x_t, values, dtype=t.dtype)
        return jnp.where(_wide(x_t == MASK), jnp.ones_like(known), known)

    def reverse(self, x_t, t, s, x_0):
        """A mask is revealed with probability (alpha_s - alpha_t)/(1 - alpha_t), to a draw of D."""
        stays = expand(self.noise(s) / self.noise(t), x_t)
        return TokenLaw(x_0, jnp.where(x_t == MASK, stays, jnp.zeros_like(stays)).astype(x_0.dtype))

    def reverse_rates(self, x_t, t, x_0):
        """-alpha'/(1 - alpha) D for a mask."""
        rate = jnp.where(x_t == MASK, expand(self.revealing_rate(t), x_t), 0)
        return _wide(rate).astype(x_0.dtype) * x_0


@dataclass(frozen=True, kw_only=True)
class Uniform(Discrete):
    """Tokens become any of the v values, all equally often (Hoogeboom et al. 2021,
    arXiv:2102.05379; Schiff et al. 2024, arXiv:2412.10193).

    values: v.
    """

    values: int = 2

    absorbing = False

    def __post_init__(self):
        super().__post_init__()
        if self.values < 2:
            raise ValueError(f"values must be at least 2, not {self.values}")

    def prior_sample(self, key, shape, dtype=jnp.int32):
        """Each value equally often."""
        u = uniform(key, shape, jnp.float32)  # below 1
        return jnp.floor(u * self.values).astype(_integer(dtype))

    def evidence(self, x_t, t, values):
        """alpha + (1 - alpha)/v for its own value, (1 - alpha)/v for others."""
        self.check_values(values)
        other = _wide(expand(self.noise(t), x_t)) / values
        return (
            _wide(expand(self.alpha(t), x_t)) * jax.nn.one_hot(x_t, values, dtype=t.dtype) + other
        )

    def reverse(self, x_t, t, s, x_0):
        """q(x_t | x_s) sum_k r_k q(x_s | x_0 = k)."""
        kept = self.alpha(t) / self.alpha(s)  # from s to t
        back = _wide(expand(kept, x_t)) * jax.nn.one_hot(x_t, self.values, dtype=t.dtype)
        back = back + _wide(expand(1 - kept, x_t)) / self.values
        law = back.astype(x_0.dtype) * self._marginal(x_t, t, s, x_0)
        return TokenLaw(law, jnp.zeros_like(law[..., 0]))

    def reverse_rates(self, x_t, t, x_0):
        """rate/v times sum_k r_k q(x = y | x_0 = k), to each other value y."""
        rate = (self.rate(t) / self.values).astype(x_0.dtype)
        to = self._marginal(x_t, t, t, x_0)
        other = 1 - jax.nn.one_hot(x_t, self.values, dtype=x_0.dtype)
        return _wide(expand(rate, x_t)) * other * to

    def _marginal(self, x_t, t, s, x_0):
        """sum_k r_k q(x_s = y | x_0 = k) for each value y."""
        r = x_0 / self.evidence(x_t, t, self.values).astype(x_0.dtype)
        alpha, noise = (
            _wide(expand(a, x_t)).astype(x_0.dtype) for a in (self.alpha(s), self.noise(s))
        )
        return alpha * r + noise / self.values * jnp.sum(r, axis=-1, keepdims=True)

    def prior_entropy(self, dtype):
        """0 where nothing is left of x_0."""
        alpha, noise = (a(jnp.asarray(self.t_max, dtype)) for a in (self.alpha, self.noise))
        own, other = alpha + noise / self.values, noise / self.values
        xlogy = jax.scipy.special.xlogy
        return xlogy(own, own * self.values) + (self.values - 1) * xlogy(other, other * self.values)

    def check_values(self, values):
        """As that of `Discrete`."""
        if values != self.values:
            raise ValueError(
                f"the tokens have {values} values, and the process {self.values}: set "
                f"Uniform(values={values})"
            )


def _wide(a: Float[Array, "..."] | Bool[Array, "..."]) -> Array:
    """With an axis for values behind; a single number stays as it is."""
    return a[..., None] if a.ndim else a


def _integer(dtype: Any) -> Any:
    return dtype if jnp.issubdtype(dtype, jnp.integer) else jnp.int32
