"""What the objectives of tokens share: noised tokens, the network's probabilities of them, and the
mean of a loss over tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.model import Model
from score_sde.processes import Discrete
from score_sde.training.objective import Batch, Loss, Objective
from score_sde.training.objectives.denoising import dropping
from score_sde.training.time_law import TimeLaw
from score_sde.types import Key, PyTree

TokenLoss = Callable[[Discrete, Array, Array, Array, Array], Float[Array, "b l"]]
"""`(process, x_0 [b, l], x_t [b, l], t [b], D [b, l, v]) -> [b, l]`, nats of each token."""


class Noised(NamedTuple):
    """Noised tokens. weight: what the loss of each example counts."""

    t: Float[Array, " b"]
    x_t: Int[Array, "b l"]
    weight: Float[Array, " b"]


def token_objective(
    model: Model,
    conditioner: Conditioner,
    loss: TokenLoss,
    noise: Callable[[Key, Int[Array, "b l"]], Noised],
    drop_cond: float,
) -> Objective:
    """The mean over tokens of a loss.

    noise: `(key, x_0) -> Noised`. drop_cond: how often an example loses its condition in training.

    Raises:
      ValueError: the process is not of tokens; drop_cond is no probability.
    """
    process, dropped = process_of(model), dropping(conditioner, drop_cond)

    def losses(params, key, batch, training):
        if training is not None:
            key, batch = dropped(key, batch)
        key_noise, key_dropout = jax.random.split(key)
        x_0 = batch["x"]
        noised = noise(key_noise, x_0)
        dropout = None if training is None else key_dropout
        found = model.denoiser(params, batch.get("cond"), dropout)(noised.x_t, noised.t)
        value = jnp.mean(loss(process, x_0, noised.x_t, noised.t, found), axis=1)
        return Loss(noised.weight * value, noised.t)

    return Objective(
        losses, token_error(model), "token_error", model.denoiser, gives="probabilities"
    )


def process_of(model: Model) -> Discrete:
    """The process of tokens.

    Raises:
      ValueError: it is of real numbers.
    """
    process: Any = model.sde
    if not process.discrete:
        raise ValueError(f"it learns tokens, and sde is {process}: set sde='Masking'")
    return process


def by_time(model: Model, time_law: TimeLaw) -> Callable[[Key, Int[Array, "b l"]], Noised]:
    """Noise at times of the law. The mean of weight times f(t) is the integral of f over t."""

    def noise(key, x_0):
        process = model.sde
        key_time, key_noise = jax.random.split(key)
        t = time_law.sample(key_time, process, len(x_0))
        span = process.t_max - process.t_min
        return Noised(t, process.perturb(key_noise, x_0, t), span / time_law.density(process, t))

    return noise


def token_error(model: Model) -> Callable[[PyTree, Key, Batch, Array], Float[Array, " b"]]:
    """`(params, key, batch, t) -> -ln D(x_0) / ln v`, a mean over tokens: 1 for a network that
    knows nothing of any."""

    def error_at(params, key, batch, t):
        x_0 = batch["x"]
        t = jnp.broadcast_to(t, x_0.shape[:1])
        x_t = model.sde.perturb(key, x_0, t)
        found = model.denoiser(params, batch.get("cond"))(x_t, t)
        return jnp.mean(surprise(found, x_0), axis=1) / jnp.log(found.shape[-1])

    return error_at


def surprise(found: Float[Array, "b l v"], x_0: Int[Array, "b l"]) -> Float[Array, "b l"]:
    """-ln D(x_0) of each token, nats; finite where D is 0."""
    chosen = jnp.take_along_axis(found, x_0[..., None].astype(jnp.int32), axis=-1)[..., 0]
    return -jnp.log(jnp.maximum(chosen, jnp.finfo(chosen.dtype).tiny))
