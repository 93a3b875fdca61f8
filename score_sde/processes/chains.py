"""Discrete chains, read as paths in continuous time."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.processes.gaussian import VE, LogAlphaSDE

__all__ = ["DDPM", "SMLD"]  # what a config can name

MOST_STEPS = 10**6  # a chain keeps the variances of all its steps in memory


@dataclass(frozen=True, kw_only=True)
class DDPM(LogAlphaSDE):
    """The discrete chain of Ho et al. 2020 (arXiv:2006.11239), read as a path.

    Step i of num_steps stands at t = i / (num_steps - 1); there alpha^2 = prod_j<=i (1 - beta_j)
    exactly, and between steps ln alpha is linear (constant beta). beta_min and beta_max are the
    rates of the continuous limit: beta_i runs from beta_min/num_steps to beta_max/num_steps.

    schedule: "linear"; "scaled_linear" (linear in sqrt(beta)); "cosine" (Nichol & Dhariwal 2021,
    beta <= 0.999; the rates are not used).
    zero_terminal_snr: shifts and scales the alphas of the steps so that the last is exactly 0 and
        the first stays (Lin et al. 2023, arXiv:2305.08891, alg. 1). In the last interval alpha
        itself is linear. At t = 1 the log-SNR is -inf; alpha, sigma and velocity are finite. There
        x_0 does not follow from the noise, so the network must predict v, x_0 or flow. Train it
        with a weighting that is above 0 there (`weighting.v`, `truncated_snr`, `flow`), and sample
        by a solver in x_0 (`ddim`, `ancestral`, `dpmpp`, `unipc`, `sa_solver`, ...).
    """

    num_steps: int = 1000
    schedule: str = "linear"
    zero_terminal_snr: bool = False
    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 0.0
    t_max: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.schedule not in ("linear", "scaled_linear", "cosine"):
            raise ValueError(
                f"unknown schedule {self.schedule!r}: one of linear, scaled_linear, cosine"
            )
        if not 2 <= self.num_steps <= MOST_STEPS:
            raise ValueError(f"num_steps must be from 2 to {MOST_STEPS:,}, not {self.num_steps}")
        if not (self._scheduled_betas.min() > 0 and self._scheduled_betas.max() < 1):
            raise ValueError(
                f"beta_min={self.beta_min} and beta_max={self.beta_max} must be above 0 and below "
                f"num_steps={self.num_steps}, since beta_i = beta/num_steps is a variance"
            )

    @functools.cached_property
    def betas(self) -> np.ndarray:
        """The variances beta_i, float64 [num_steps], least noise first."""
        betas = self._scheduled_betas
        if not self.zero_terminal_snr:
            return betas
        alphas = np.sqrt(np.cumprod(1 - betas))
        shifted = alphas - alphas[-1]  # the scale, which keeps the first, leaves the ratios
        return np.append(betas[0], 1 - (shifted[1:] / shifted[:-1]) ** 2)

    @functools.cached_property
    def _scheduled_betas(self) -> np.ndarray:
        n = self.num_steps
        low, high = np.array([self.beta_min / n, self.beta_max / n])
        if self.schedule == "linear":
            return np.linspace(low, high, n)
        if self.schedule == "scaled_linear":
            return np.linspace(np.sqrt(low), np.sqrt(high), n) ** 2
        alpha2 = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - alpha2[1:] / alpha2[:-1], 0.999)

    @functools.cached_property
    def _finite_steps(self) -> tuple[np.ndarray, np.ndarray]:
        """The times and ln alpha of the steps with a finite ln alpha."""
        finite = self.betas[:-1] if self.zero_terminal_snr else self.betas
        log_alphas = np.cumsum(np.log1p(-finite)) / 2
        return np.linspace(0, 1, self.num_steps)[: len(finite)], log_alphas

    def _factors(self, t):
        """`(ln a, b)` with alpha = a b. After the last step with a finite ln alpha, a is constant
        and b falls linearly from 1 to 0."""
        times, log_alphas = (jnp.asarray(a, jnp.result_type(t)) for a in self._finite_steps)
        tail = jnp.ones_like(t)
        if self.zero_terminal_snr:
            tail = jnp.where(t > times[-1], (1 - t) / (1 - times[-1]), tail)
        return _interpolate(t, times, log_alphas), tail

    def log_alpha(self, t):
        log_a, tail = self._factors(t)
        return log_a + jnp.log(tail)

    def alpha(self, t):
        log_a, tail = self._factors(t)
        return jnp.exp(log_a) * tail

    def sigma(self, t):
        # Not from ln alpha, whose slope is infinite where alpha is 0.
        log_a, tail = self._factors(t)
        return jnp.sqrt(jnp.exp(2 * log_a) * (1 - tail) * (1 + tail) - jnp.expm1(2 * log_a))

    def t_of_log_alpha(self, log_alpha):
        times, log_alphas = (jnp.asarray(a, jnp.result_type(log_alpha)) for a in self._finite_steps)
        tail = jnp.exp(jnp.minimum(log_alpha - log_alphas[-1], 0))
        return jnp.interp(-log_alpha, -log_alphas, times) + (1 - times[-1]) * (1 - tail)


def _interpolate(x: Array, nodes: Array, values: Array) -> Array:
    """Linear between increasing nodes and constant beyond them. At a node the derivative is that of
    the interval before it; `jnp.interp` takes the interval after it."""
    i = jnp.clip(jnp.searchsorted(nodes, x, side="left"), 1, len(nodes) - 1)
    slope = (values[i] - values[i - 1]) / (nodes[i] - nodes[i - 1])
    inside = values[i] - (nodes[i] - x) * slope
    return jnp.where(x < nodes[0], values[0], jnp.where(x > nodes[-1], values[-1], inside))


@dataclass(frozen=True, kw_only=True)
class SMLD(VE):
    """The discrete noise levels of Song & Ermon 2019, read as a path: level i of num_steps at
    t = i / (num_steps - 1) is sigma_min (sigma_max/sigma_min)^t, so the path is that of VE."""

    num_steps: int = 1000
    t_min: float = 0.0
