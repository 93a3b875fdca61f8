"""A generator of one step and a critic, trained together against a teacher.

The parameters are {"generator", "critic"}, two copies of one network. The generator makes x of the
noise at t_max: the D of a jump from there. The critic learns to denoise what the generator makes,
and the generator is moved by how the critic and the teacher differ on its noised x. Both losses are
one number, in which neither moves the other's parameters, so that one optimiser takes both steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from score_sde.models.model import Model
from score_sde.training.objective import Loss, Objective
from score_sde.training.teacher import Teacher, required, start_from
from score_sde.training.time_law import TimeLaw
from score_sde.types import Denoiser, as_pytree, expand

Match = Callable[[Array, Array, Array, Denoiser, Denoiser], Float[Array, " b"]]
"""`(x, x_t, t, teacher, critic) -> [b]`, whose gradient with respect to x moves the generator."""


def generator_and_critic(
    model: Model,
    critic: Objective,
    match: Match,
    *,
    time_law: TimeLaw,
    teacher: Teacher | None,
    critic_rate: float,
) -> Objective:
    """The objective of both.

    critic: the loss of the critic, whose data are what the generator makes.
    critic_rate: the critic's learning rate in units of the generator's.

    Raises:
      ValueError: critic_rate is not positive.
    """
    if not critic_rate > 0:
        raise ValueError(f"critic_rate must be above 0, not {critic_rate}")
    sde = model.sde

    def losses(teacher, params, key, batch, training):
        key_start, key_time, key_noise, key_critic = jax.random.split(key, 4)
        size, cond = len(batch["x"]), batch.get("cond")
        x_end = sde.prior_sample(key_start, batch["x"].shape, batch["x"].dtype)
        x = generated(model, params["generator"], cond, x_end)
        t = time_law.sample(key_time, sde, size, x.dtype)
        x_t = sde.perturb(key_noise, x, t)
        fixed = lax.stop_gradient(params["critic"])
        matched = match(x, x_t, t, required(teacher)(cond), model.denoiser(fixed, cond))
        of_critic = critic.losses(
            params["critic"], key_critic, {**batch, "x": lax.stop_gradient(x)}, training
        )
        return Loss(matched + of_critic.value, of_critic.t)

    def alone(key, batch):
        return model.init(key, batch["x"], batch["cond"])

    def error_at(params, key, batch, t):
        return critic.error_at(params["critic"], key, batch, t)

    def result(params, cond):
        return model.flow_map(params["generator"], cond)

    return Objective(
        jax.tree_util.Partial(losses, teacher),
        error_at,
        critic.error_name,
        result,
        gives="jump",
        init=_both(alone if teacher is None else start_from(teacher, model)),
        rates={"critic": critic_rate},
    )


def generated(model: Model, params: Any, cond: Any, x_end: Array) -> Array:
    """What the generator makes of x at t_max."""
    t = jnp.full(len(x_end), model.sde.t_max, x_end.dtype)
    return model.flow_map(params, cond)(x_end, t, jnp.full_like(t, model.sde.t_min))


LEAST = 1e-3  # of `scale`


def scale(x: Array, real: Array) -> Float[Array, "b ..."]:
    """mean |x - D| over the dimensions of an example, D the teacher's: the size of its gradient,
    which the published losses divide by; at least LEAST, for with little noise and few dimensions
    it may be 0."""
    size = jnp.mean(jnp.abs(x - real).reshape(len(x), -1), axis=1)
    return expand(lax.stop_gradient(jnp.maximum(size, LEAST)), x)


def _both(start: Callable) -> Callable:
    """`(key, batch) -> params` of both networks, which start alike."""

    def init(start, key, batch):
        one = start(key, batch)
        return {"generator": one, "critic": jax.tree.map(jnp.copy, one)}

    return jax.tree_util.Partial(init, as_pytree(start))
