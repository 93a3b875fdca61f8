"""Denoising in which the network also estimates its own error at each noise level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.model import Model
from score_sde.training.objective import Loss, Objective
from score_sde.training.objectives.denoising import denoising
from score_sde.training.time_law import TimeLaw
from score_sde.training.weighting import Weighting

__all__ = ["uncertainty"]  # what a config can name


def uncertainty(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    weighting: Weighting,
    drop_cond: float = 0.0,
) -> Objective:
    """The loss of EDM2 (Karras et al. 2023, arXiv:2312.02696, eq. 21),

        L(t) / e^u(t) + u(t)

    where L is the loss of `denoising` and u the network's `log_variance` of its noise level. For a
    fixed network the best u is ln L(t), and all noise levels then count alike: the gradient is that
    of ln L(t), on average.

    Raises:
      ValueError: the network has no `log_variance`; drop_cond is not a probability.
    """
    plain = denoising(
        model, conditioner, time_law=time_law, weighting=weighting, drop_cond=drop_cond
    )
    return plain._replace(losses=weighed(model, plain.losses), weighted=None)


def weighed(model: Model, losses: Callable[..., Loss]) -> Callable[..., Loss]:
    """L / e^u + u of losses L, with u the network's `log_variance`.

    losses: `(*frozen, params, key, batch, training) -> Loss`.

    Raises:
      ValueError: the network has no `log_variance`.
    """
    if not hasattr(model.net, "log_variance"):
        raise ValueError(
            f"the network {type(model.net).__name__} does not estimate its error: take "
            "edm2.EDM2UNet, or the objective denoising"
        )

    def of_network(*arguments):
        *_, params, _key, _batch, _training = arguments
        loss = losses(*arguments)
        noise = model.parametrization.c_noise(model.sde, loss.t)
        u: Any = model.net.apply({"params": params}, noise, method="log_variance")
        return Loss(loss.value * jnp.exp(-u) + u, loss.t)

    return of_network
