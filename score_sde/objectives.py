"""What training minimises: losses of examples, and their mean as `(loss, metrics)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.model import Model
from score_sde.time_law import TimeLaw
from score_sde.types import Key, PyTree, expand
from score_sde.weighting import Weighting, network_weight, simple

Batch = dict[str, Any]
"""`{"x": data [b, ...]}` and, for a conditional model, `"cond"`."""

Losses = Callable[[PyTree, Key, Batch], Float[Array, " b"]]
"""`(params, key, batch) -> loss of each example`."""

Objective = Callable[[PyTree, Key, Batch], tuple[Float[Array, ""], dict[str, Array]]]


def denoising(
    model: Model, law: TimeLaw, weighting: Weighting, *, reduction: str = "mean", train: bool = True
) -> Losses:
    """Denoising score matching (Vincent 2011; Song et al. 2021, eq. 7), for any process,
    parametrization, weighting and law of t:

        E_{t ~ law} [ w(t) / density(t) |F(c_in x_t, c_noise) - target|^2 ],  target = a x_0 + b z

    The error is that of the network's output, so that no digits are lost where sigma is small; w is
    `weighting.network_weight`, so that the value is that of the weighted noise error whatever the
    parametrization. The discrete losses of DDPM and SMLD are those with `time_law.grid_points`.

    reduction: "mean" over the dimensions of an example, or "sum", half of their sum (the two
        conventions of Song et al. 2021; with the likelihood weighting "sum" is in nats).
    train: whether dropout is on.

    Raises:
      ValueError: the reduction is not known.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"unknown reduction {reduction!r}: one of mean, sum")

    def losses(params, key, batch):
        key_time, key_noise, key_dropout = jax.random.split(key, 3)
        t = law.sample(key_time, model.sde, len(batch["x"]), batch["x"].dtype)
        dropout = key_dropout if train else None
        square = _square(model, params, key_noise, batch, t, dropout)
        error = jnp.mean(square, axis=1) if reduction == "mean" else jnp.sum(square, axis=1) / 2
        weight = network_weight(weighting, model.parametrization, model.sde, t)
        return weight / law.density(model.sde, t) * error

    return losses


def noise_error(
    model: Model, params: PyTree, key: Key, batch: Batch, t: Float[Array, ""]
) -> Float[Array, " b"]:
    """`|z - z^|^2` at time t, a mean over dimensions, without dropout: 1 where nothing is known of
    the noise. The same whatever the parametrization."""
    t = jnp.broadcast_to(t, len(batch["x"]))
    weight = network_weight(simple(), model.parametrization, model.sde, t)
    return weight * jnp.mean(_square(model, params, key, batch, t, None), axis=1)


def _square(model, params, key, batch, t, dropout) -> Float[Array, "b d"]:
    """`|F - target|^2` of each dimension."""
    x_0, sde = batch["x"], model.sde
    z = jax.random.normal(key, x_0.shape, x_0.dtype)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    x_t = expand(alpha, x_0) * x_0 + expand(sigma, x_0) * z
    a, b = model.parametrization.target(alpha, sigma)
    target = expand(a, x_0) * x_0 + expand(b, x_0) * z
    output = model.network(params, x_t, t, batch.get("cond"), dropout)
    return ((output - target) ** 2).reshape(len(x_0), -1)


def mean(losses: Losses) -> Objective:
    """The mean over the batch, which is also the metric `loss`."""

    def objective(params, key, batch):
        loss = jnp.mean(losses(params, key, batch))
        return loss, {"loss": loss}

    return objective
