"""Reflow: flow matching on pairs of a noise and the sample that a trained network makes of it."""

from __future__ import annotations

from score_sde.conditioning.conditioner import Conditioner
from score_sde.errors import ConfigError
from score_sde.models.model import Model
from score_sde.training.objective import Objective
from score_sde.training.objectives.denoising import denoising
from score_sde.training.teacher import Teacher, start_from
from score_sde.training.time_law import TimeLaw
from score_sde.training.weighting import Weighting

__all__ = ["reflow"]  # what a config can name


def reflow(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    weighting: Weighting,
    teacher: Teacher | None = None,
    drop_cond: float = 0.0,
) -> Objective:
    """Reflow (Liu et al. 2022, arXiv:2209.03003, alg. 1): `denoising` where the noise of an example
    is not drawn, but the z from which the teacher's ODE led to x_0,

        E_{t ~ law} [ w(t) / density(t) |F(c_in x_t, c_noise) - target|^2 ],
        x_t = alpha x_0 + sigma z,    target = a x_0 + b z

    On the rectified flow with the weighting "flow" it is theirs; weightings, laws and processes
    are those of `denoising`. The paths of the result cross less than the teacher's, so that few
    steps do; where the map from z to x_0 is affine, one step is exact. The student starts as the
    teacher.

    The result is E[x_0 | x_t] of the pairs. Its ODE has their law, so that likelihoods and
    deterministic solvers are right; stochastic solvers are not, since it gives no score.

    Pairs come with the batches: `--mode pairs` makes them in the teacher's workdir, and
    `objective.pairs` is the name of the file. Outside of training, where batches are data, the loss
    is that of `denoising`.

    Raises:
      ValueError: drop_cond is not a probability. In training, ConfigError: a batch without pairs,
        or the teacher has another network.
    """
    plain = denoising(
        model, conditioner, time_law=time_law, weighting=weighting, drop_cond=drop_cond
    )

    def losses(params, key, batch, training):
        if training is not None and "noise" not in batch:
            raise ConfigError(
                "reflow learns from pairs: set objective.teacher to a workdir where --mode pairs "
                "was run, and objective.pairs='pairs.npz'"
            )
        return plain.losses(params, key, batch, training)

    start = None if teacher is None else start_from(teacher, model)
    return plain._replace(losses=losses, init=start, weighted=None)
