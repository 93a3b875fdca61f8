"""Flow matching between two data sets, without noise."""

from __future__ import annotations

from jaxtyping import Array, Float

from score_sde.conditioning.conditioner import Conditioner
from score_sde.conditioning.starts import START
from score_sde.errors import ConfigError
from score_sde.models.model import Model
from score_sde.training.objective import Batch, Objective
from score_sde.training.objectives.denoising import with_noise
from score_sde.training.time_law import TimeLaw
from score_sde.training.weighting import Weighting

__all__ = ["interpolant"]  # what a config can name


def interpolant(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    weighting: Weighting,
    drop_cond: float = 0.0,
) -> Objective:
    """`denoising` with x_1, an example of another data set, in the place of the noise: flow
    matching between two data sets, the interpolant without noise of Albergo & Vanden-Eijnden 2022
    (arXiv:2209.15571),

        E_{t ~ law} [ w(t) / density(t) |F(c_in x_t, c_noise) - target|^2 ],
        x_t = alpha x_0 + sigma x_1,    target = a x_0 + b x_1

    With D = E[x_0 | x_t], E[x_1 | x_t] = (x_t - alpha D)/sigma. So all solvers of the ODE serve
    unchanged, begun at x_1; `Flow(t_max=1.0)` begins exactly there. x_1 is the condition "start" of
    the conditioner `starts`. How x_0 and x_1 of a batch are paired, `data.augment` says
    (`data.couplings`): a coupling that is near to optimal transport makes paths straight (Tong et
    al. 2023, arXiv:2302.00482).

    Stochastic solvers are not right with the result, since it gives no score.

    Raises:
      ValueError: drop_cond is not a probability. In training, ConfigError: a batch without x_1.
    """

    def noise(key, batch, t):
        return start_of(batch)

    made = with_noise(noise, model, conditioner, time_law, weighting, drop_cond)
    return made._replace(noisy=False)


def start_of(batch: Batch) -> Float[Array, "b ..."]:
    """x_1 of each example.

    Raises:
      ConfigError: the conditioner gives none.
    """
    found = (batch.get("cond") or {}).get(START)
    if found is None:
        raise ConfigError(
            "an objective of two data sets needs examples of both: set "
            "conditioner=\"starts(text='nothing', part='source')\""
        )
    return found
