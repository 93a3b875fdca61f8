"""Score identity distillation: a generator that brings the critic's scores to the teacher's."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.model import Model
from score_sde.training.distribution_matching import generator_and_critic, scale
from score_sde.training.objective import Objective
from score_sde.training.objectives.denoising import denoising
from score_sde.training.teacher import Teacher
from score_sde.training.time_law import TimeLaw
from score_sde.training.weighting import Weighting

__all__ = ["sid"]  # what a config can name


def sid(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    weighting: Weighting,
    teacher: Teacher | None = None,
    alpha: float = 1.2,
    critic_rate: float = 5.0,
) -> Objective:
    """SiD (Zhou et al. 2024, arXiv:2404.04057), of the generator's x:

        E[ (D_real - D_fake) . ((D_real - x) - alpha (D_real - D_fake)) / stop(mean |x - D_real|) ]

    with D_real(x_t, t) the teacher, and D_fake the critic, a denoiser of what the generator makes
    (`distribution_matching`). Gradients go through both networks to x. For a perfect critic and
    without the division the value is (1 - alpha) E |D_real - D_fake|^2, since E[x | x_t] = D_fake;
    its gradient is another, since the critic is held fixed.

    Sample with `flow_map(gamma=0.0)` in one step.

    time_law: of both. weighting: of the critic's loss (`denoising`).

    Raises:
      ValueError: critic_rate is not positive. When it is trained, ConfigError: there is no teacher,
        or it has another network.
    """

    def match(x, x_t, t, real, fake):
        by_teacher = real(x_t, t)
        value = identity(x, by_teacher, fake(x_t, t), alpha) / scale(x, by_teacher)
        return jnp.mean(value.reshape(len(x), -1), axis=1)

    critic = denoising(model, conditioner, time_law=time_law, weighting=weighting)
    options = {"time_law": time_law, "teacher": teacher, "critic_rate": critic_rate}
    return generator_and_critic(model, critic, match, **options)


def identity(x: Array, real: Array, fake: Array, alpha: float) -> Float[Array, "b ..."]:
    """The loss of each number, before the division."""
    return (real - fake) * ((real - x) - alpha * (real - fake))
