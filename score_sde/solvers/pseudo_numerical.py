"""PNDM: pseudo numerical methods, in the noise prediction.

The letters of the equations are those of `score_sde.solvers`.
"""

from __future__ import annotations

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
    skip_prk: starts with Adams-Bashforth of orders 1, 2, 3 instead.

    Order 2, four evaluations in each of the first three steps and then one, deterministic. For
    grids that are smooth in the time of the process, to reproduce; `deis` and `lms` have the
    coefficients of unequal steps.
    """
    plms = multistep(sde, 4, "eps", "index")
    return plms if skip_prk else start_with(_pseudo_runge_kutta(sde), 3, plms)


def _pseudo_runge_kutta(sde: SDE) -> Solver:
    """Equations 12 and 13 there: the classical Runge-Kutta method, moving by DDIM."""

    def step(noise, denoiser, x, t, s, state):
        def transfer(eps, end):
            change = sde.sigma(end) / sde.alpha(end) - sde.sigma(t) / sde.alpha(t)
            return sde.alpha(end) * (x / sde.alpha(t) + change * eps)

        def eps(x, time):
            return sde.eps(x, time, denoiser(x, time))

        middle = (t + s) / 2
        e1 = eps(x, t)
        e2 = eps(transfer(e1, middle), middle)
        e3 = eps(transfer(e2, middle), middle)
        e4 = eps(transfer(e3, s), s)
        return transfer((e1 + 2 * e2 + 2 * e3 + e4) / 6, s), state

    return Solver(lambda x, times: (), step)
