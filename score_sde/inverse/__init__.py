"""Methods that sample x_0 given y = A(x_0) + noise z:
`score_sde.inverse.NAME(sde, observation, **options) -> Method`.

`inverse/operators.py` has operators A, and `inverse/observation.py` observations y.
"""

from score_sde.inverse import guiding, particles, replacing, spectral
from score_sde.inverse.guiding import *  # noqa: F403
from score_sde.inverse.method import Method as Method
from score_sde.inverse.observation import Observation as Observation
from score_sde.inverse.observation import consistent as consistent
from score_sde.inverse.observation import observe as observe
from score_sde.inverse.observation import observed as observed
from score_sde.inverse.operators import SVD as SVD
from score_sde.inverse.operators import Operator as Operator
from score_sde.inverse.operators import pseudo_inverse as pseudo_inverse
from score_sde.inverse.particles import *  # noqa: F403
from score_sde.inverse.replacing import *  # noqa: F403
from score_sde.inverse.spectral import *  # noqa: F403

__all__: list[str] = []  # what a config can name; a checker reads these lines
__all__ += guiding.__all__
__all__ += particles.__all__
__all__ += replacing.__all__
__all__ += spectral.__all__
