"""Solvers by name: `score_sde.solvers.NAME(sde, **options) -> Solver`.

Each carries x along one step of a grid; `score_sde.sampling.sample` is the loop that runs them.

The equations of the docstrings take a step from time t to the earlier s, with

    D = D(x_t, t)                      the denoiser's value, E[x_0 | x_t]
    eps = (x_t - alpha_t D)/sigma_t    the noise that it implies; eps(x, t) in general
    D_j, eps_j                         those of j steps before; D_0 = D
    x~ = x/alpha, rho = sigma/alpha, lambda = -ln rho, h = lambda_s - lambda_t
    z                                  standard normal
"""

from score_sde.solvers import (
    adams,
    adaptive_pair,
    correctors,
    first_order,
    learned_coefficients,
    ode,
    pseudo_numerical,
    restarting,
    reverse_sde,
    runge_kutta,
    stochastic_runge_kutta,
    tokens,
    weighted,
)
from score_sde.solvers.adams import *  # noqa: F403
from score_sde.solvers.adaptive_pair import *  # noqa: F403
from score_sde.solvers.compose import chain as chain
from score_sde.solvers.compose import exact_start as exact_start
from score_sde.solvers.compose import start_with as start_with
from score_sde.solvers.correctors import *  # noqa: F403
from score_sde.solvers.correctors import annealed_langevin as annealed_langevin
from score_sde.solvers.correctors import langevin as langevin
from score_sde.solvers.first_order import *  # noqa: F403
from score_sde.solvers.learned_coefficients import *  # noqa: F403
from score_sde.solvers.ode import *  # noqa: F403
from score_sde.solvers.pseudo_numerical import *  # noqa: F403
from score_sde.solvers.restarting import *  # noqa: F403
from score_sde.solvers.reverse_sde import *  # noqa: F403
from score_sde.solvers.runge_kutta import *  # noqa: F403
from score_sde.solvers.stochastic_runge_kutta import *  # noqa: F403
from score_sde.solvers.tokens import *  # noqa: F403
from score_sde.solvers.weighted import *  # noqa: F403
from score_sde.solvers.weighted import log_z as log_z

__all__: list[str] = []  # what a config can name; a checker reads these lines
__all__ += ode.__all__
__all__ += adaptive_pair.__all__
__all__ += correctors.__all__
__all__ += first_order.__all__
__all__ += adams.__all__
__all__ += pseudo_numerical.__all__
__all__ += restarting.__all__
__all__ += reverse_sde.__all__
__all__ += runge_kutta.__all__
__all__ += stochastic_runge_kutta.__all__
__all__ += learned_coefficients.__all__
__all__ += tokens.__all__
__all__ += weighted.__all__
