"""PNDM: pseudo numerical methods, in the noise prediction.

The letters of the equations are those of `score_sde.solvers`.
"""

from __future__ import annotations

from jaxtyping import Array

from score_sde.processes import SDE
from score_sde.solvers.compose import start_with
from score_sde.solvers.multistep import multistep
from score_sde.types import Solver

__all__ = ["pndm"]


def pndm(sde: SDE, skip_prk: bool = False) -> Solver:
    """PNDM (Liu et al. 2022, arXiv:2202.09778, alg. 2):

        x~_s = x~_t + (rho_s - rho_t) e
        e = (e1 + 2 e2 + 2 e3 + e4)/6                               the first three steps
        e = (55 eps_0 - 59 eps_1 + 37 eps_2 - 9 eps_3)/24           the rest

    e1 to e4 are the stages of the classical Runge-Kutta method, each reached by the first line.
    skip_prk: PLMS, the sampler of Stable Diffusion 1, as its code and diffusers have it. The first
        step is Heun's, e = (eps_0 + eps(x_s, s))/2 with x_s by e = eps_0; the next two are those of
        Adams and Bashforth of orders 2 and 3. `ipndm(variable_step=False)` starts by order 1.

    Order 2, deterministic, one evaluation a step: three more in each of the first three steps, or
    with skip_prk one more in the first. For grids that are smooth in the time of the process, to
    reproduce; `deis` and `lms` have the coefficients of unequal steps.
    """
    plms = multistep(sde, 4, "eps", "index")
    if skip_prk:
        return start_with(_pseudo_heun(sde), 1, plms)
    return start_with(_pseudo_runge_kutta(sde), 3, plms)


def _transfer(sde: SDE, x: Array, t: Array, s: Array, eps: Array) -> Array:
    """x~_s = x~_t + (rho_s - rho_t) eps, of x."""
    change = sde.sigma(s) / sde.alpha(s) - sde.sigma(t) / sde.alpha(t)
    return sde.alpha(s) * (x / sde.alpha(t) + change * eps)


def _pseudo_heun(sde: SDE) -> Solver:
    """Heun's method, moving by DDIM."""

    def step(noise, denoiser, x, t, s, state):
        def eps(x, time):
            return sde.eps(x, time, denoiser(x, time))

        e1 = eps(x, t)
        e2 = eps(_transfer(sde, x, t, s, e1), s)
        return _transfer(sde, x, t, s, (e1 + e2) / 2), state

    return Solver(lambda x, times: (), step)


def _pseudo_runge_kutta(sde: SDE) -> Solver:
    """Equations 12 and 13 there: the classical Runge-Kutta method, moving by DDIM."""

    def step(noise, denoiser, x, t, s, state):
        def transfer(eps, end):
            return _transfer(sde, x, t, end, eps)

        def eps(x, time):
            return sde.eps(x, time, denoiser(x, time))

        middle = (t + s) / 2
        e1 = eps(x, t)
        e2 = eps(transfer(e1, middle), middle)
        e3 = eps(transfer(e2, middle), middle)
        e4 = eps(transfer(e3, s), s)
        return transfer((e1 + 2 * e2 + 2 * e3 + e4) / 6, s), state

    return Solver(lambda x, times: (), step)
