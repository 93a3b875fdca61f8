"""Distribution matching distillation: noised samples of a generator get the teacher's scores."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.model import Model
from score_sde.training.distribution_matching import generator_and_critic, scale
from score_sde.training.objective import Objective
from score_sde.training.objectives.denoising import denoising
from score_sde.training.teacher import Teacher
from score_sde.training.time_law import TimeLaw
from score_sde.training.weighting import Weighting

__all__ = ["dmd2"]  # what a config can name


def dmd2(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    weighting: Weighting,
    teacher: Teacher | None = None,
    critic_rate: float = 5.0,
) -> Objective:
    """DMD2 (Yin et al. 2024, arXiv:2405.14867) without its GAN: the generator's x moves along

        -(D_fake(x_t, t) - D_real(x_t, t)) / mean |x - D_real|,    loss 1/2 |x - stop(x - that)|^2

    with D_real the teacher, D_fake the critic, a denoiser of what the generator makes
    (`distribution_matching`). Without the division it is `sigma^2/alpha^2` times the gradient of
    KL(p_fake || p_real) of x_t. The paper takes five steps with the critic for each of the
    generator; here both move at each step, the critic at `critic_rate` times the learning rate.

    Sample with `flow_map(gamma=0.0)` in one step.

    time_law: of both. weighting: of the critic's loss (`denoising`).

    Raises:
      ValueError: critic_rate is not positive. When it is trained, ConfigError: there is no teacher,
        or it has another network.
    """

    def match(x, x_t, t, real, fake):
        by_teacher = real(x_t, t)
        pull = (fake(x_t, t) - by_teacher) / scale(x, by_teacher)
        square = (x - lax.stop_gradient(x - pull)) ** 2 / 2
        return jnp.mean(square.reshape(len(x), -1), axis=1)

    critic = denoising(model, conditioner, time_law=time_law, weighting=weighting)
    options = {"time_law": time_law, "teacher": teacher, "critic_rate": critic_rate}
    return generator_and_critic(model, critic, match, **options)
