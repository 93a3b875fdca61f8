"""Solvers by name: `score_sde.solvers.NAME(sde, **options) -> Solver`.

Each carries x along one step of a grid; `score_sde.sampling.sample` is the loop that runs them.
"""

from score_sde.solvers.adaptive import *  # noqa: F403
from score_sde.solvers.langevin import *  # noqa: F403
from score_sde.solvers.multistep import *  # noqa: F403
from score_sde.solvers.reverse_sde import *  # noqa: F403
from score_sde.solvers.runge_kutta import *  # noqa: F403
