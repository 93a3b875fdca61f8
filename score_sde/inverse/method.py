"""The type of all methods for inverse problems."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from score_sde.types import Denoiser, Solver


def _as_it_is(a):
    return a


class Method(NamedTuple):
    """How to sample x_0 given y: by changing the denoiser, the solver, or both.

        solver, denoiser = method.solver(solver), method.denoiser(denoiser)

    A method with a solver of its own ignores the one it is given.
    """

    denoiser: Callable[[Denoiser], Denoiser] = _as_it_is
    solver: Callable[[Solver], Solver] = _as_it_is
