"""Fine-tuning to a reward, by adjoint matching."""

from __future__ import annotations

import jax

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.model import Model
from score_sde.models.rewards import Reward
from score_sde.training import lean_adjoint
from score_sde.training.objective import Objective
from score_sde.training.objectives.denoising import noise_error
from score_sde.training.teacher import Teacher, required, start_from
from score_sde.training.time_law import TimeLaw
from score_sde.training.weighting import Weighting
from score_sde.types import as_pytree

__all__ = ["adjoint_matching"]  # what a config can name


def adjoint_matching(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    weighting: Weighting,
    reward: Reward,
    teacher: Teacher | None = None,
    steps: int = 20,
    tau: float = 1.0,
    times_per_path: int = 4,
    anneal: int = 0,
) -> Objective:
    """Adjoint matching (Domingo-Enrich et al. 2024, arXiv:2409.08861, alg. 1): the teacher is
    changed to draw from its own law times e^r, up to a constant (`lean_adjoint`). The student
    starts as the teacher. No data are read: a batch says the conditions, and how many.

    With tau = 1 the result is E[x_0 | x_t] of the tilted law, for all solvers, likelihoods and
    guidance. With another tau it is the D that a solver of this stochasticity needs, such as
    `sa_solver(order=1, tau=...)`, and it reaches a part of the tilt alone. The error by noise level
    is that of the given data, which are of another law than the student's.

    time_law: where the steps of the paths end, which are its quantiles.
    weighting: of the regression; it does not move the optimum.
    steps, tau: of the sampler that makes the paths. Its optimum is off by the order of a step.
    times_per_path: how many examples of a batch are one path. More are cheaper and more alike.
    anneal: over so many steps of training the reward grows from 0 to r. It does not move the
        optimum, and at first keeps the gradients of a steep reward small.

    Raises:
      ValueError: as `lean_adjoint.matching`. When it is trained, ConfigError: there is no teacher,
        or it has another network.
    """
    match = lean_adjoint.matching(
        model,
        time_law=time_law,
        weighting=weighting,
        steps=steps,
        tau=tau,
        times_per_path=times_per_path,
        anneal=anneal,
    )

    def losses(teacher, reward, params, key, batch, training):
        return match(required(teacher), reward, params, key, batch, training)

    return Objective(
        jax.tree_util.Partial(losses, teacher, as_pytree(reward)),
        noise_error(model),
        "noise_error",
        model.denoiser,
        init=None if teacher is None else start_from(teacher, model),
    )
