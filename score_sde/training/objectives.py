"""What training minimises: losses of examples, and their mean as `(loss, metrics)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.conditioning import conditions
from score_sde.models.model import Model
from score_sde.processes import SDE
from score_sde.training.time_law import TimeLaw
from score_sde.training.weighting import Weighting, network_weight, simple
from score_sde.types import Key, PyTree, expand

Batch = dict[str, Any]
"""`{"x": data [b, ...]}` and, for a conditional model, `"cond"`."""


class Loss(NamedTuple):
    """Of each example its loss, and the time t that was drawn for it."""

    value: Float[Array, " b"]
    t: Float[Array, " b"]


Losses = Callable[[PyTree, Key, Batch], Loss]
"""`(params, key, batch) -> loss of each example`."""

LevelError = Callable[[Model, PyTree, Key, Batch, Array], Float[Array, " b"]]
"""`(model, params, key, batch, t []) -> error of each example` at one noise level: a name that
tells what it is, and a number between 0 and about 1."""

Objective = Callable[[PyTree, Key, Batch], tuple[Float[Array, ""], dict[str, Array]]]
"""`(params, key, batch) -> (loss, metrics)`. A metric is a number [], or a part and a weight [2]
whose means are divided in the end: all may be averaged over parts of a batch, and over steps."""


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
        return Loss(weight / law.density(model.sde, t) * error, t)

    return losses


def dropping(losses: Losses, rate: float) -> Losses:
    """The losses of examples that have lost their conditions with probability `rate`, so that one
    network learns the conditional and the unconditional denoiser (Ho & Salimans 2022,
    arXiv:2207.12598, alg. 1).

    Raises:
      ValueError: the rate is no probability.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"drop_cond={rate} is not between 0 and 1")

    def dropped(params, key, batch):
        key_drop, key_losses = jax.random.split(key)
        cond = conditions.drop(key_drop, batch["cond"], rate)
        return losses(params, key_losses, {**batch, "cond": cond})

    return dropped if rate else losses


def classification(model: Model, law: TimeLaw, *, train: bool = True) -> Losses:
    """Cross-entropy, nats, of the logits that the network gives x_t for batch["cond"]["label"]:

        E_{t ~ law} [ -ln p(label | x_t, t) / density(t) ]

    The classifier for guidance (Dhariwal & Nichol 2021, arXiv:2105.05233, sec. 4.1). Its minimum
    over all functions is the exact posterior of the class at every t.

    train: whether dropout is on.
    """

    def losses(params, key, batch):
        key_time, key_noise, key_dropout = jax.random.split(key, 3)
        t = law.sample(key_time, model.sde, len(batch["x"]), batch["x"].dtype)
        dropout = key_dropout if train else None
        logits = _logits(model, params, key_noise, batch, t, dropout)
        log_prob = conditions.log_prob(logits, batch["cond"]["label"])
        return Loss(-log_prob / law.density(model.sde, t), t)

    return losses


def classification_error(
    model: Model, params: PyTree, key: Key, batch: Batch, t: Float[Array, ""]
) -> Float[Array, " b"]:
    """1 where the likeliest class at time t is not the label, else 0; without dropout."""
    logits = _logits(model, params, key, batch, jnp.broadcast_to(t, len(batch["x"])), None)
    return (jnp.argmax(logits, axis=1) != batch["cond"]["label"]).astype(logits.dtype)


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
    x_0, z, x_t = _diffuse(model, key, batch, t)
    a, b = model.parametrization.target(model.sde.alpha(t), model.sde.sigma(t))
    target = expand(a, x_0) * x_0 + expand(b, x_0) * z
    output = model.network(params, x_t, t, batch.get("cond"), dropout)
    return ((output - target) ** 2).reshape(len(x_0), -1)


def _logits(model, params, key, batch, t, dropout) -> Float[Array, "b n"]:
    _, _, x_t = _diffuse(model, key, batch, t)
    return model.network(params, x_t, t, None, dropout)


def _diffuse(model, key, batch, t) -> tuple[Array, Array, Array]:
    """x_0, the noise z and x_t."""
    x_0 = batch["x"]
    z = jax.random.normal(key, x_0.shape, x_0.dtype)
    return x_0, z, expand(model.sde.alpha(t), x_0) * x_0 + expand(model.sde.sigma(t), x_0) * z


class Levels(NamedTuple):
    """Ranges of noise levels, from the least noise to the most.

    names: of each of them, with its range of log-SNR. times: between one and the next [n - 1].
    """

    names: tuple[str, ...]
    times: Float[Array, " n-1"]

    def split(self, loss: Loss) -> dict[str, Float[Array, "2"]]:
        """By name what the examples within each range add to the mean loss, and their share of the
        batch. A range without an example has 0 of both, and all parts together are the loss."""
        index = jnp.searchsorted(self.times.astype(loss.t.dtype), loss.t, side="right")
        inside = index[:, None] == jnp.arange(len(self.names), dtype=index.dtype)[None]
        part = jnp.mean(jnp.where(inside, loss.value[:, None], 0), axis=0)
        share = jnp.mean(inside.astype(loss.value.dtype), axis=0)
        return dict(zip(self.names, jnp.stack([part, share], axis=1), strict=True))


def levels(law: TimeLaw, sde: SDE, count: int = 5) -> Levels:
    """The ranges that a law draws equally many times from."""
    times = law.quantile(sde, jnp.arange(count + 1, dtype=jnp.float32) / count)
    times = jnp.clip(times, sde.t_min, sde.t_max)
    edges = np.asarray(sde.log_snr(times))  # falling
    names = [f"{i}_log_snr_{edges[i + 1]:.1f}_to_{edges[i]:.1f}" for i in range(count)]
    return Levels(tuple(names), times[1:-1])


def mean(losses: Losses, levels: Levels) -> Objective:
    """The mean over the batch, which is also the metric `loss`, and its parts by noise level,
    `loss_by_level/NAME`."""

    def objective(params, key, batch):
        drawn = losses(params, key, batch)
        loss = jnp.mean(drawn.value)
        by_level = {f"loss_by_level/{name}": part for name, part in levels.split(drawn).items()}
        return loss, {"loss": loss, **by_level}

    return objective
