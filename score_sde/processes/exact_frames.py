"""Video whose denoiser is known at any noise of each frame: a linear-Gaussian state space."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.processes.exact import Gaussian
from score_sde.processes.gaussian import SDE
from score_sde.types import Denoiser

_full_precision = jax.default_matmul_precision("highest")


@dataclass(frozen=True, eq=False)
class StateSpace:
    """Clips x [frames, d] of a hidden state that moves linearly (Kalman 1960),

        state_0 ~ N(mean, cov),  state_{f+1} = transition state_f + q,  q ~ N(0, drive)
        x_f = readout state_f + r,  r ~ N(0, error)

    mean [s], cov [s, s], transition [s, s], drive [s, s], readout [d, s], error [d, d].

    A noised clip is one of the same kind with other readouts and errors. So its denoiser is what
    the smoother of Kalman, Rauch, Tung and Striebel gives.
    """

    mean: Float[Array, " s"]
    cov: Float[Array, "s s"]
    transition: Float[Array, "s s"]
    drive: Float[Array, "s s"]
    readout: Float[Array, "d s"]
    error: Float[Array, "d d"]
    frames: int

    @property
    @_full_precision
    def law(self) -> Gaussian:
        """The normal law of all numbers of a clip, [frames d]."""
        means, covs, powers = [self.mean], [self.cov], [jnp.eye(len(self.mean))]
        for _ in range(self.frames - 1):
            means.append(self.transition @ means[-1])
            covs.append(self.transition @ covs[-1] @ self.transition.T + self.drive)
            powers.append(self.transition @ powers[-1])

        def across(i, j):
            """The covariance of frames i and j, without errors."""
            first, last = min(i, j), max(i, j)
            found = self.readout @ covs[first] @ powers[last - first].T @ self.readout.T
            return found if i <= j else found.T

        numbers = range(self.frames)
        cov = jnp.block([[across(i, j) for j in numbers] for i in numbers])
        errors = jnp.kron(jnp.eye(self.frames), self.error)
        return Gaussian(jnp.concatenate([self.readout @ m for m in means]), cov + errors)

    def denoiser(self, sde: SDE) -> Denoiser:
        """E[x_0 | x_t] of x_t [b, frames, d], at times [], [b] or, of each frame, [b, frames].

        With a = alpha and s = sigma of each number, and C the covariance of a clip, it is
        `m + C a (a C a + s^2)^-1 (x_t - a m)`.
        """
        law = self.law
        mean, cov = law.means[0], law.covs[0]

        @_full_precision
        def one(x, t):
            each = jnp.repeat(jnp.broadcast_to(t, self.frames), x.size // self.frames)
            a, s = sde.alpha(each), sde.sigma(each)
            noised = a[:, None] * cov * a[None] + jnp.diag(s**2)
            away = jnp.linalg.solve(noised, x.reshape(-1) - a * mean)
            return (mean + cov @ (a * away)).reshape(x.shape)

        def denoiser(x_t, t):
            t = jnp.asarray(t, x_t.dtype)
            t = jnp.broadcast_to(t, x_t.shape[: max(t.ndim, 1)])
            return jax.vmap(one)(x_t, t)

        return denoiser
