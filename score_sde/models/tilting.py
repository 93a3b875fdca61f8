"""Laws that are tilted: by a reward, p e^r, or by powers of several, prod_i p_i^beta_i.

With V_t(x_t) = ln E[e^r(x_0) | x_t] the law p e^r / Z is noised to p_t e^V_t / Z, so its denoiser
is

    D + (sigma^2/alpha) grad V_t

`with_classifier` with V_t for ln p(label | x_t). V_t is known for exact laws
(`processes.exact_tilted`) and is learnt by a noisy classifier. Elsewhere r(D(x_t)) takes its
place, as in DPS (`of_estimate`). Then, and for powers, samples of a plain solver have another law;
those of the solver `feynman_kac` do not. It is given a `Tilted`, which `alone`, `between`,
`product`, `rewarded` and `valued` make.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.models.pairs import Pair
from score_sde.models.rewards import Reward
from score_sde.processes import SDE, Tilt, Tilted, Time
from score_sde.types import Denoiser, expand

Value = Callable[[Array, Array], Array]
"""`(x_t [b, ...], t) -> V [b]`, each of its own example."""


def with_classifier(
    sde: SDE, denoiser: Denoiser, log_prob: Value, scale: float | Array = 1.0
) -> Denoiser:
    """D + scale (sigma^2/alpha) grad_x ln p(label | x_t): the score plus scale times the gradient
    (Dhariwal & Nichol 2021, arXiv:2105.05233, sec. 4; by Tweedie's formula in D).

    log_prob: `(x_t [b, ...], t) -> ln p(label | x_t) [b]`, each of its own example.

    With the true posterior and the unconditional denoiser it is classifier-free guidance of that
    weight. Where alpha is 0, x_t tells nothing of the label and D stays.
    """

    def denoise(x_t, t, *s):
        gradient = jax.grad(lambda x: jnp.sum(log_prob(x, t)))(x_t)
        return denoiser(x_t, t, *s) + scale * expand(_gain(sde, t), x_t) * gradient

    return denoise


def of_estimate(denoiser: Denoiser, reward: Reward) -> Value:
    """r(D(x_t, t)) for V_t = ln E[e^r(x_0) | x_t], which it is where nothing is left to draw."""
    return lambda x_t, t: reward(denoiser(x_t, t))


def alone(denoiser: Denoiser) -> Tilted:
    """The law of the denoiser itself: all weights are 1."""

    def denoise(x_t, t, *s):
        mean = denoiser(x_t, t)
        return Tilt(mean) if s else mean

    return denoise


def between(pair: Pair, weight: float | Array) -> Tilted:
    """p_pos^w p_neg^(1-w), what classifier-free guidance of weight w is after:
    sum_i beta_i |D_i - D|^2 = -w (w - 1) |D_pos - D_neg|^2."""

    def denoise(x_t, t, *s):
        positive, negative = pair(x_t, t)
        towards = positive - negative
        # in this form w = 1 is D_pos to the last bit
        mean = positive + (weight - 1) * towards
        return Tilt(mean, -weight * (weight - 1) * _square(towards)) if s else mean

    return denoise


def product(
    sde: SDE, each: Callable[..., Sequence[Array]], powers: Sequence[float] = (1.0, 1.0)
) -> Tilted:
    """prod_i p_i^beta_i: a product of experts, a law tempered to a power, or a geometric mean.

    each: `(x_t, t) -> (D_1, D_2, ...)`, such as a `Pair`. powers: beta_i, with a sum above 0.

    Raises:
      ValueError: the sum is not above 0; when called, there are not as many powers as denoisers.
    """
    total = float(sum(powers))
    if not total > 0:
        raise ValueError(f"powers={tuple(powers)} must have a sum above 0")

    def denoise(x_t, t, *s):
        parts = [*zip(powers, each(x_t, t), strict=True)]
        mean = functools.reduce(operator.add, [b / total * part for b, part in parts])
        if s:
            spread = [b * _square(part - mean) for b, part in parts]
            return Tilt(mean, functools.reduce(operator.add, spread), total=total)
        if total == 1:
            return mean
        return total * mean + (1 - total) / expand(sde.alpha(t), x_t) * x_t

    return denoise


def rewarded(sde: SDE, denoiser: Denoiser, reward: Reward) -> Tilted:
    """p e^r, with r(D(x_t, t)) for V_t: one evaluation and one gradient through it. At the end x_0
    is taken for D(x, t_min) (Singhal et al. 2025, arXiv:2501.06848)."""

    def at(x_t, t):
        mean = denoiser(x_t, t)
        value = reward(mean)
        return jnp.sum(value), (mean, value)

    return _with_value(sde, at)


def valued(sde: SDE, denoiser: Denoiser, value: Value, scale: float | Array = 1.0) -> Tilted:
    """p e^(scale V), V_t = `value` at every noise level, such as ln p(label | x_t) of a noisy
    classifier; the law is that of V at t_min."""

    def at(x_t, t):
        found = scale * value(x_t, t)
        return jnp.sum(found), (denoiser(jax.lax.stop_gradient(x_t), t), found)

    return _with_value(sde, at)


def _with_value(
    sde: SDE, at: Callable[[Array, Array], tuple[Array, tuple[Array, Array]]]
) -> Tilted:
    """`at(x_t, t) -> (sum of V, (D, V))`. Its gradient is that of the sum."""

    def denoise(x_t, t, *s):
        gradient, (mean, value) = jax.grad(at, has_aux=True)(x_t, t)
        if s:
            return Tilt(mean, value=value, gradient=gradient)
        return mean + expand(_gain(sde, t), x_t) * gradient

    return denoise


def _gain(sde: SDE, t: Time) -> Time:
    """sigma^2/alpha, 0 where alpha is."""
    alpha = sde.alpha(t)
    return jnp.where(alpha > 0, sde.sigma(t) ** 2 / jnp.where(alpha > 0, alpha, 1), 0)


def _square(a: Float[Array, "b ..."]) -> Float[Array, " b"]:
    return jnp.sum((a**2).reshape(len(a), -1), axis=1)
