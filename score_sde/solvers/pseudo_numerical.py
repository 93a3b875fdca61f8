"""PNDM: pseudo numerical methods, in the noise prediction."""

from __future__ import annotations

from score_sde.processes import SDE
from score_sde.solvers.compose import start_with
from score_sde.solvers.multistep import multistep
from score_sde.types import Solver

__all__ = ["pndm"]


def pndm(sde: SDE, skip_prk: bool = False) -> Solver:
    """PNDM (Liu et al. 2022, arXiv:2202.09778, alg. 2): order 2, deterministic.

    The first three steps are pseudo Runge-Kutta (four evaluations each), the rest pseudo linear
    multistep (one), with the classical coefficients of Adams and Bashforth for equal steps: for
    grids that are smooth in the time of the process. skip_prk starts at orders 1, 2, 3 instead.
    To reproduce; `deis` and `lms` have the coefficients that unequal steps want.
    """
    plms = multistep(sde, 4, "eps", "index")
    return plms if skip_prk else start_with(_pseudo_runge_kutta(sde), 3, plms)


def _pseudo_runge_kutta(sde: SDE) -> Solver:
    """Equations 12 and 13 there: RK4 whose increments are transfers by DDIM."""

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
