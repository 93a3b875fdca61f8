"""Laws on the torus, the space of d angles of period L, for processes with alpha 1 (`EDM`, `VE`).

`x_t = x_0 + sigma z`, with whole periods taken off, is the heat flow of the torus: the transition
density is the wrapped normal, sum_n N(x - x_0 + n L; 0, sigma^2) in each angle. Without taking them
off, x_t is any of the points that are whole periods apart, so everything is written for R^d, with
periodic densities, and the denoiser is

    D(x, t) = x + sigma^2 grad ln p_t(x),    D(x + n L, t) = D(x, t) + n L

the mean of x_0, x_t being at x. The steps of solvers are sums in which the factors of x and of D
add up to 1 where alpha is 1, so they go from x + n L to where they go from x, plus n L. No solver
needs to know of the period: `wrap` is called once, at the end. The prior N(0, sigma_max^2) is
uniform on the torus but for e^(-2 (pi sigma_max/L)^2), 3e-9 at sigma_max = L.
(De Bortoli et al. 2022, arXiv:2202.02763; Jing et al. 2022, arXiv:2206.01729.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.processes.gaussian import SDE
from score_sde.types import Denoiser, Key, expand

_IMAGES = 9  # periods to either side that count: e^(-(9 L/sigma)^2/2) is lost


def wrap(x: Array, period: float = 1.0) -> Array:
    """x without whole periods, in [0, period)."""
    return jnp.mod(x, period)


@dataclass(frozen=True, eq=False)
class WrappedMixture:
    """A mixture of k normal laws with independent angles, wrapped onto the torus.

    weights [k] (positive, sum 1), means [k, d], stds [k, d]. period: L, of every angle; standard
    deviations of x_t are to be at most two of it.
    """

    weights: Float[Array, " k"]
    means: Float[Array, "k d"]
    stds: Float[Array, "k d"]
    period: float = 1.0

    def sample(self, key: Key, n: int) -> Float[Array, "n d"]:
        """Draws n points in [0, period)^d."""
        key_component, key_noise = jax.random.split(key)
        k = jax.random.categorical(key_component, jnp.log(self.weights), shape=(n,))
        z = jax.random.normal(key_noise, (n, self.means.shape[1]), self.means.dtype)
        return wrap(self.means[k] + self.stds[k] * z, self.period)

    def log_prob(self, sde: SDE, x: Float[Array, "b d"], t: Array) -> Float[Array, " b"]:
        """Log-density of x_t on the torus, nats.

        Raises:
          ValueError: alpha is not 1 at t_max.
        """
        _check(sde)
        return self._log_prob(x, sde.sigma(jnp.asarray(t, x.dtype)))

    def denoiser(self, sde: SDE) -> Denoiser:
        """x + sigma^2 grad ln p_t(x).

        Raises:
          ValueError: alpha is not 1 at t_max.
        """
        _check(sde)

        def denoise(x_t, t):
            sigma = sde.sigma(jnp.asarray(t, x_t.dtype))
            score = jax.grad(lambda x: jnp.sum(self._log_prob(x, sigma)))(x_t)
            return x_t + expand(sigma, x_t) ** 2 * score

        return denoise

    def _log_prob(self, x, sigma):
        std = jnp.sqrt(self.stds[None] ** 2 + jnp.broadcast_to(sigma, len(x))[:, None, None] ** 2)
        # the nearest of the points that are whole periods apart, then those around it
        away = x[:, None] - self.means[None]
        away = away - self.period * jnp.round(away / self.period)
        images = self.period * jnp.arange(-_IMAGES, _IMAGES + 1, dtype=x.dtype)
        square = ((away[..., None] + images[None, None, None]) / std[..., None]) ** 2
        log_normal = -square / 2 - jnp.log(std * math.sqrt(2 * math.pi))[..., None]
        of_angles = jnp.sum(jax.nn.logsumexp(log_normal, axis=-1), axis=-1)
        return jax.nn.logsumexp(jnp.log(self.weights)[None] + of_angles, axis=-1)


def _check(sde: SDE) -> None:
    """Raises a ValueError unless alpha is 1."""
    with jax.ensure_compile_time_eval():
        alpha = float(sde.alpha(jnp.asarray(sde.t_max, float)))
    if alpha != 1:
        raise ValueError(f"{sde} scales x, which a torus does not allow: take EDM or VE")
