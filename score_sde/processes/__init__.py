"""Noising processes by name, and distributions whose denoiser is known (`processes.exact`)."""

from score_sde.processes import chains, discrete, gaussian
from score_sde.processes.chains import *  # noqa: F403
from score_sde.processes.discrete import *  # noqa: F403
from score_sde.processes.discrete import MASK as MASK
from score_sde.processes.discrete import Discrete as Discrete
from score_sde.processes.discrete import TokenLaw as TokenLaw
from score_sde.processes.gaussian import *  # noqa: F403
from score_sde.processes.gaussian import SDE as SDE
from score_sde.processes.gaussian import Time as Time
from score_sde.processes.gaussian import coefficients as coefficients
from score_sde.processes.gaussian import derivative as derivative
from score_sde.processes.gaussian import finite_log_snr as finite_log_snr
from score_sde.processes.jumps import flow as flow
from score_sde.processes.jumps import jump as jump
from score_sde.processes.jumps import jump_value as jump_value
from score_sde.processes.posterior import Posterior as Posterior
from score_sde.processes.posterior import posterior as posterior
from score_sde.processes.process import Process as Process
from score_sde.processes.tilt import Tilt as Tilt
from score_sde.processes.tilt import Tilted as Tilted

__all__: list[str] = []  # what a config can name; a checker reads these lines
__all__ += gaussian.__all__
__all__ += chains.__all__
__all__ += discrete.__all__
