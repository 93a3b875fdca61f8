r"""Strong order 1.5: Runge-Kutta methods that read the space-time Levy area of a Brownian path.

With kappa = 1 + tau^2, Y = x e^{tau^2 lambda}/sigma, m = e^{kappa lambda} and u = e^{2 tau^2
lambda}, the reverse SDE of stochasticity tau is one with additive noise,

    dY = D dm + dW(u)

For tau = 1 both clocks are the signal-to-noise ratio. Over a step let z and eta be W's change and
its space-time Levy area, both normalised to standard normal numbers (`Noise.levy`), and S =
sqrt(u_s - u_t). A method with two stages evaluates D at

    Y_i = Y_t + (m_i - m_t) D_1 + S (p_i z + q_i eta/sqrt(12))      m_i = m_t + c_i (m_s - m_t)
    Y_s = Y_t + (m_s - m_t) (b_1 D_1 + b_2 D_2) + S z

The letters of the equations are those of `score_sde.solvers`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.processes import SDE
from score_sde.solvers.exponential import NoiseLevel, noise_level, noise_level_at
from score_sde.types import Solver

__all__ = ["shark", "sra1"]


class _Stages(NamedTuple):
    """c of the second stage, b_2, and (p, q) of both."""

    c: float
    b: float
    first: tuple[float, float]
    second: tuple[float, float]


def sra1(sde: SDE, tau: float = 1.0) -> Solver:
    """SRA1 (Roessler 2010, doi:10.1137/09076636X) in the equation of this module:

        c_2 = 3/4     b = (1/3, 2/3)     (p, q)_1 = (0, 0)     (p, q)_2 = (3/4, 3/2)

    Strong order 1.5 along a path with `power=tau^2` (`sampling.paths`), weak order 2; two
    evaluations a step, stochastic. D is evaluated at x_t and at an x with as much noise as its time
    says: (p^2 + q^2/12) = c for both stages. For samples that converge one by one, such as pairs of
    a coarse and a fine grid; `dpmpp_sde` has half of its evaluations and strong order 1.

    Raises:
      ValueError: tau is not above 0; or, in a step, the path has another clock.
    """
    return _runge_kutta(sde, _Stages(3 / 4, 2 / 3, (0.0, 0.0), (3 / 4, 3 / 2)), tau)


def shark(sde: SDE, tau: float = 1.0) -> Solver:
    """ShARK (Foster, dos Reis & Strange 2023, arXiv:2210.17543, eq. 6.1) in the equation of this
    module:

        c_2 = 5/6     b = (2/5, 3/5)     (p, q)_1 = (0, 1)     (p, q)_2 = (5/6, 1)

    As `sra1`, with a smaller error on fine grids. For tau = 1 its first stage adds noise of std
    sigma_t sqrt((e^{2h} - 1)/12) to x_t, which the denoiser does not expect: for h up to
    1. With h = 2.3 on `exact.three_gaussians` its error is 1.8 times that of `sra1`.

    Raises:
      ValueError: as of `sra1`.
    """
    return _runge_kutta(sde, _Stages(5 / 6, 3 / 5, (0.0, 1.0), (5 / 6, 1.0)), tau)


def _runge_kutta(sde: SDE, stages: _Stages, tau: float) -> Solver:
    if not (isinstance(tau, int | float) and 0 < tau < math.inf):
        raise ValueError(f"tau must be a number above 0, not {tau}")
    kappa = 1 + tau**2

    def step(noise, denoiser, x, t, s, state):
        start, end = noise_level(sde, t), noise_level(sde, s)
        h = end.lam - start.lam
        back = jnp.log1p((stages.c - 1) * -jnp.expm1(-kappa * h)) / kappa
        middle = noise_level_at(sde, end.lam + back)
        z, eta = noise.levy(t, s, x.shape, tau**2)
        size = jnp.sqrt(-jnp.expm1(-2 * tau**2 * h))

        def noised(at: NoiseLevel, of: tuple[float, float]) -> Array:
            """The noise of a stage: S in the units of x at its level."""
            scale = size * at.sigma * jnp.exp(tau**2 * (end.lam - at.lam))
            return scale * (of[0] * z + of[1] / math.sqrt(12) * eta)

        def moved(at: NoiseLevel, x_0: Array) -> Array:
            linear = _kept(tau, start, at)
            return linear * x + (at.alpha - linear * start.alpha) * x_0

        first = x if stages.first == (0.0, 0.0) else x + noised(start, stages.first)
        d_1 = denoiser(first, t)
        d_2 = denoiser(moved(middle, d_1) + noised(middle, stages.second), middle.t)
        mean = (1 - stages.b) * d_1 + stages.b * d_2
        return moved(end, mean) + noised(end, (1.0, 0.0)), state

    return Solver(lambda x, times: (), step)


def _kept(tau: float, start: NoiseLevel, end: NoiseLevel) -> Float[Array, ""]:
    """What a step keeps of x."""
    return end.sigma / start.sigma * jnp.exp(tau**2 * (start.lam - end.lam))
