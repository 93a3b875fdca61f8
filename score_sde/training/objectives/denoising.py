"""Denoising score matching."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.conditioning import conditions
from score_sde.conditioning.conditioner import Conditioner, null
from score_sde.models.model import Model
from score_sde.training.objective import (
    Batch,
    Loss,
    Objective,
    Training,
    WeightedError,
    law_now,
)
from score_sde.training.time_law import TimeLaw
from score_sde.training.weighting import Weighting, denoiser_weight, network_weight, simple
from score_sde.types import Key, PyTree, expand

__all__ = ["denoising"]  # what a config can name


class Prediction(NamedTuple):
    """What a network says of noised examples: its output, of which the first channels predict; what
    they should be; and x_t."""

    output: Float[Array, "b ..."]
    target: Float[Array, "b ..."]
    x_t: Float[Array, "b ..."]

    def square(self) -> Float[Array, "b d"]:
        """The squared error of each dimension."""
        error = self.output[..., : self.target.shape[-1]] - self.target
        return (error**2).reshape(len(error), -1)


Noises = Callable[[Key, Batch, Array], Float[Array, "b ..."]]
"""`(key, batch, t [b]) -> the noise of each example`, of the shape of x."""


def noise_of(key: Key, batch: Batch, t: Array | None = None) -> Float[Array, "b ..."]:
    """The noise of each example: that which the batch states, or a draw."""
    stated, x_0 = batch.get("noise"), batch["x"]
    return jax.random.normal(key, x_0.shape, x_0.dtype) if stated is None else stated


def denoising(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    weighting: Weighting,
    drop_cond: float = 0.0,
    reduction: str = "mean",
) -> Objective:
    """Denoising score matching (Vincent 2011; Song et al. 2021, eq. 7), for any process,
    parametrization, weighting and law of t:

        E_{t ~ law} [ w(t) / density(t) |F(c_in x_t, c_noise) - target|^2 ],  target = a x_0 + b z

    The error is that of the network's output, so that no digits are lost where sigma is small. The
    weight w, `weighting.network_weight`, makes the value the same for every parametrization. With
    `time_law.grid_points` it is the discrete loss of DDPM and SMLD.

    drop_cond: how often an example loses its condition in training, so that one network learns the
        conditional and the unconditional denoiser (Ho & Salimans 2022, arXiv:2207.12598, alg. 1).
    reduction: "mean" over the dimensions of an example, or "sum", half of their sum (the two
        conventions of Song et al. 2021; with the likelihood weighting "sum" is in nats).

    Raises:
      ValueError: an unknown reduction, or drop_cond is not a probability.
    """
    made = with_noise(noise_of, model, conditioner, time_law, weighting, drop_cond, reduction)

    def weight(x_0, t):
        of_t = denoiser_weight(weighting, model.sde, t) / time_law.density(model.sde, t)
        return of_t if reduction == "mean" else of_t * x_0[0].size / 2

    return made._replace(weighted=WeightedError(time_law, weight))


def with_noise(
    noise: Noises,
    model: Model,
    conditioner: Conditioner,
    time_law: TimeLaw,
    weighting: Weighting,
    drop_cond: float,
    reduction: str = "mean",
) -> Objective:
    """`denoising` with a noise of another law. The result is E[x_0 | x_t] under it.

    Raises:
      ValueError: as `denoising`.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"unknown reduction {reduction!r}: one of mean, sum")
    draw = drawing(model, conditioner, time_law, drop_cond, noise)

    def losses(params, key, batch, training):
        t, predicted = draw(params, key, batch, training)
        square = predicted.square()
        error = jnp.mean(square, axis=1) if reduction == "mean" else jnp.sum(square, axis=1) / 2
        weight = network_weight(weighting, model.parametrization, model.sde, t)
        density = law_now(time_law, training).density(model.sde, t)
        return Loss(weight / density * error, t)

    return Objective(
        losses,
        noise_error(model, noise),
        "noise_error",
        model.denoiser,
        learning=time_law.learning,
    )


def drawing(
    model: Model,
    conditioner: Conditioner,
    time_law: TimeLaw,
    drop_cond: float,
    noise: Noises = noise_of,
) -> Callable[[PyTree, Key, Batch, Training | None], tuple[Float[Array, " b"], Prediction]]:
    """`(params, key, batch, training) -> (t, Prediction)`, for `denoising` and objectives with more
    terms: draws times and noise, unless the batch states its noise, and in training drops
    conditions.

    Raises:
      ValueError: drop_cond is not a probability.
    """
    dropped = dropping(conditioner, drop_cond)

    def draw(params, key, batch, training):
        if training is not None:
            key, batch = dropped(key, batch)
        key_time, key_noise, key_dropout = jax.random.split(key, 3)
        x_0, law = batch["x"], law_now(time_law, training)
        t = law.sample(key_time, model.sde, len(x_0), x_0.dtype)
        dropout = None if training is None else key_dropout
        return t, _predict(model, noise, params, key_noise, batch, t, dropout)

    return draw


def dropping(
    conditioner: Conditioner, drop_cond: float
) -> Callable[[Key, Batch], tuple[Key, Batch]]:
    """`(key, batch) -> (another key, batch)` in which each example has lost its condition with
    this probability (`denoising`).

    Raises:
      ValueError: it is no probability.
    """
    if not 0 <= drop_cond <= 1:
        raise ValueError(f"drop_cond={drop_cond} is not between 0 and 1")

    def dropped(key, batch):
        if not drop_cond:
            return key, batch
        key_drop, key = jax.random.split(key)
        nothing = null(conditioner, batch["cond"])
        cond = conditions.drop(key_drop, batch["cond"], nothing, drop_cond)
        return key, {**batch, "cond": cond}

    return dropped


def noise_error(
    model: Model, noise: Noises = noise_of
) -> Callable[[PyTree, Key, Batch, Array], Float[Array, " b"]]:
    """`(params, key, batch, t) -> |z - z^|^2`, a mean over dimensions; about 1 for a network that
    knows nothing. It does not depend on the parametrization."""

    def error_at(params, key, batch, t):
        t = jnp.broadcast_to(t, len(batch["x"]))
        weight = network_weight(simple(), model.parametrization, model.sde, t)
        square = _predict(model, noise, params, key, batch, t, None).square()
        return weight * jnp.mean(square, axis=1)

    return error_at


def _predict(
    model: Model,
    noise: Noises,
    params: PyTree,
    key: Key,
    batch: Batch,
    t: Array,
    dropout: Key | None,
) -> Prediction:
    x_0, z = batch["x"], noise(key, batch, t)
    x_t = model.sde.noised(x_0, z, t)
    a, b = model.parametrization.target(model.sde.alpha(t), model.sde.sigma(t))
    target = expand(a, x_0) * x_0 + expand(b, x_0) * z
    output = model.network(params, x_t, t, batch.get("cond"), dropout)
    return Prediction(output, target, x_t)
