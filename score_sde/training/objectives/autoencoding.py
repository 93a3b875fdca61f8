"""An autoencoder with a Gaussian latent space."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.codecs import moments
from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.model import Model
from score_sde.training.objective import Loss, Objective
from score_sde.training.perceptual import Features, distance
from score_sde.training.time_law import TimeLaw
from score_sde.types import PyTree, as_pytree

__all__ = ["autoencoding"]  # what a config can name


def autoencoding(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    error: str = "l2",
    kl_weight: float = 1e-6,
    perceptual: Features | None = None,
    perceptual_weight: float = 1.0,
    equivariance: float = 0.0,
) -> Objective:
    """The objective of a variational autoencoder (Kingma & Welling 2013, arXiv:1312.6114):

        E_{z ~ q(z|x)} [ sum |x - decode(z)|^p ] + kl_weight KL(q(z|x) || N(0, 1))

    sums over the n dimensions of an example, in latent diffusion with p = 1 and a weight of 1e-6
    (Rombach et al. 2022, arXiv:2112.10752). With p = 2 the error is |x - decode(z)|^2 / 2, so that
    the weight beta is that of a beta-VAE whose decoder has the variance 1: of a linear one on
    Gaussian data the kept directions have the column norms^2 l_i - beta, l_i > beta the variances.

    error: "l1" or "l2".
    perceptual: features of `training.perceptual`, which add perceptual_weight n times the mean
        square by which those of x and decode(z) differ.
    equivariance: how often, from 0 to 1, an example and its latents are turned by the same quarter
        turns before they are compared (EQ-VAE, Kouzelis et al. 2025, arXiv:2502.09509): so the
        latent space turns with the image.

    There is no adversarial term. Latent diffusion weighs one by the ratio of two gradients at the
    last layer, which a loss of one number for each example does not have.

    The network has methods `encode` and `decode`, as `nets.autoencoder.AutoencoderKL`. The process
    is not read: t is drawn, and the loss does not depend on it.

    Raises:
      ValueError: an unknown error, a negative weight, or a share that is not between 0 and 1.
    """
    _check(model, error, (kl_weight, perceptual_weight), equivariance)
    apply = functools.partial(_apply, model)

    def losses(perceptual, params, key, batch, training):
        key_time, key_latent, key_turn = jax.random.split(key, 3)
        x = batch["x"]
        t = time_law.sample(key_time, model.sde, len(x), x.dtype)
        found = apply(params, x, "encode")
        z = moments.sample(key_latent, found)
        if equivariance and training is not None:
            x, z = turned(key_turn, equivariance, x, z)
        y = apply(params, z, "decode")
        value = _difference(x, y, error) + kl_weight * moments.kl(found)
        if perceptual is not None:
            value = value + perceptual_weight * x[0].size * distance(perceptual, x, y)
        return Loss(value, t)

    def error_at(params, key, batch, t):
        """The squared error of the decoded mean, as a share of the variance of the batch."""
        x = batch["x"]
        square = (x - _rebuilt(model, params, x)) ** 2
        return jnp.mean(square.reshape(len(x), -1), axis=1) / jnp.var(x)

    def result(params, cond):
        return lambda x, t: _rebuilt(model, params, x)

    features = None if perceptual is None else as_pytree(perceptual)
    frozen = jax.tree_util.Partial(losses, features)
    return Objective(frozen, error_at, "reconstruction_error", result, gives="reconstruction")


def _check(model: Model, error: str, weights: tuple[float, ...], equivariance: float) -> None:
    if error not in ("l1", "l2"):
        raise ValueError(f"unknown error {error!r}: one of l1, l2")
    if min(weights) < 0 or not 0 <= equivariance <= 1:
        raise ValueError(
            f"kl_weight and perceptual_weight, {weights}, must be 0 or more, and equivariance="
            f"{equivariance} from 0 to 1"
        )
    if not hasattr(model.net, "decode"):
        raise ValueError(
            f"net {type(model.net).__name__} is no autoencoder: take net.name="
            "'autoencoder.AutoencoderKL'"
        )


def _apply(model: Model, params: PyTree, x: Array, method: str) -> Array:
    found: Any = model.net.apply({"params": params}, x, method=method)
    return found


def _rebuilt(model: Model, params: PyTree, x: Array) -> Array:
    """What the decoder makes of the mean of the posterior."""
    mean, _ = moments.mean_and_std(_apply(model, params, x, "encode"))
    return _apply(model, params, mean, "decode")


def _difference(x: Array, y: Array, error: str) -> Float[Array, " b"]:
    distance = jnp.abs(x - y) if error == "l1" else (x - y) ** 2 / 2
    return jnp.sum(distance.reshape(len(x), -1), axis=1)


def turned(key: Array, share: float, *arrays: Array) -> tuple[Array, ...]:
    """Arrays [b, n, n, c], each example turned by the same random quarter turns, at least one, with
    probability `share`."""
    key_share, key_turns = jax.random.split(key)
    size = len(arrays[0])
    turns = jax.random.randint(key_turns, (size,), 1, 4)
    turns = jnp.where(jax.random.bernoulli(key_share, share, (size,)), turns, 0)

    def turn(x):
        each = jnp.stack([jnp.rot90(x, k, axes=(1, 2)) for k in range(4)])
        return each[turns, jnp.arange(size)]

    return tuple(map(turn, arrays))
