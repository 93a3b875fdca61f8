r"""Solvers of discrete processes, x [b, l] of whole numbers, masks -1.

`unmask` and `tau_leaping` change each token independently of the others in a step, though their law
joins them. So they are exact in the limit of small steps: their error falls as 1/n for n steps.
`first_hitting` is exact. `confident` is not, however small the steps are, nor is `remask` with an
eta that does not fall with 1/n.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.processes import MASK, Discrete, TokenLaw
from score_sde.types import (
    Denoiser,
    Keys,
    Solver,
    categorical,
    each_with,
    uniform,
)

__all__ = ["confident", "first_hitting", "remask", "tau_leaping", "unmask"]

Transition = Callable[[Denoiser, Int[Array, "b l"], Array, Array], TokenLaw]
"""`(denoiser, x, t [], s []) -> TokenLaw` of x_s, the tokens independent given x."""


def of_transition(transition: Transition) -> Solver:
    """The solver that draws from a transition in each step."""

    def step(noise, denoiser, x, t, s, state):
        law = transition(denoiser, x, t, s)
        return law.sample(noise.at(t, s).key).astype(x.dtype), state

    return Solver(lambda x, times: (), step, asks="probabilities")


def unmask(process: Discrete) -> Solver:
    """Ancestral sampling: each token of x_s from its exact law given x_t and D,

        p(x_s | x_t) = sum_k D_k q(x_s | x_t, x_0 = k)

    (Austin et al. 2021, arXiv:2107.03006, eq. 4). Of `Masking`, a mask is revealed with probability
    (alpha_s - alpha_t)/(1 - alpha_t). Of any process it is also the "analytic" step of Lou et al.
    2023 (arXiv:2310.16834, sec. 4.2), since the ratios of p_t follow from D. One evaluation a step.
    """
    return of_transition(ancestral_law(process))


def ancestral_law(process: Discrete) -> Transition:
    """The transition of `unmask`."""
    return lambda denoiser, x, t, s: process.reverse(x, t, s, denoiser(x, t))


def tau_leaping(process: Discrete) -> Solver:
    """Euler's method on the rates of the reverse chain (Campbell et al. 2022, arXiv:2205.14987,
    sec. 4.2): each token jumps at most once in a step, with probability min(1, (t - s) rate).

    A step to a time without noise is that of `unmask`: there the rates are infinite. With
    `Masking` and the linear schedule it is `unmask` itself. One evaluation a step.
    """
    return of_transition(leaping_law(process))


def leaping_law(process: Discrete) -> Transition:
    """The transition of `tau_leaping`."""

    def transition(denoiser, x, t, s):
        x_0 = denoiser(x, t)
        expected = (t - s).astype(x_0.dtype) * process.reverse_rates(x, t, x_0)
        total = jnp.sum(expected, axis=-1, keepdims=True)
        to = jnp.where(total > 0, expected / jnp.where(total > 0, total, 1), 0)
        stays = 1 - jnp.minimum(total, 1)
        known = (x != MASK)[..., None]
        here = jax.nn.one_hot(x, x_0.shape[-1], dtype=x_0.dtype)
        value = jnp.where(known, (1 - stays) * to + stays * here, to)
        leap = TokenLaw(value, jnp.where(known, 0, stays)[..., 0])
        last, exact = process.noise(s) == 0, process.reverse(x, t, s, x_0)
        return jax.tree.map(lambda a, b: jnp.where(last, a, b), exact, leap)

    return transition


def remask(process: Discrete, eta: float | Array = 0.1) -> Solver:
    """Ancestral sampling that masks known tokens again, so that a mistake can be mended (ReMDM,
    Wang et al. 2025, arXiv:2503.00307, eq. 9, with the capped schedule): with probability

        sigma = min(eta, (1 - alpha_s)/alpha_t)

    a known token becomes a mask, and a mask is revealed with probability
    (alpha_s - (1 - sigma) alpha_t)/(1 - alpha_t). Given x_0, x_s has the law of the process for
    every sigma. eta 0 is `unmask`. For `Masking`. One evaluation a step.

    Raises:
      ValueError: eta is not in [0, 1], or the process has no masks.
    """
    _check_absorbing("remask", process)
    if isinstance(eta, int | float) and not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1], not {eta}")
    return of_transition(remasking_law(process, eta))


def remasking_law(process: Discrete, eta: float | Array) -> Transition:
    """The transition of `remask`."""

    def transition(denoiser, x, t, s):
        x_0 = denoiser(x, t)
        alpha, noise_t, noise_s = process.alpha(t), process.noise(t), process.noise(s)
        cap = jnp.where(alpha > 0, noise_s / jnp.where(alpha > 0, alpha, 1), 1)
        sigma = jnp.minimum(jnp.asarray(eta, t.dtype), cap)
        stays = (noise_s - sigma * alpha) / noise_t
        masked = jnp.where(x == MASK, jnp.maximum(stays, 0), sigma)
        return TokenLaw(x_0, masked.astype(x_0.dtype))

    return transition


def confident(process: Discrete) -> Solver:
    """Reveals the masks of which the network is surest (MaskGIT, Chang et al. 2022,
    arXiv:2202.04200, without its temperature): a value of each is drawn of D, and those whose value
    is most probable are kept, so many that round(l (1 - alpha_s)) masks are left.

    It is biased: sequences with a probable start come too often, however small the steps are. With
    few steps samples of trained networks look better for it. For `Masking`. One evaluation a step.

    Raises:
      ValueError: the process has no masks.
    """
    _check_absorbing("confident", process)

    def step(noise, denoiser, x, t, s, state):
        x_0 = denoiser(x, t)
        token = categorical(noise.at(t, s).key, x_0).astype(x.dtype)
        sure = jnp.take_along_axis(x_0, token[..., None].astype(jnp.int32), axis=-1)[..., 0]
        sure = jnp.where(x == MASK, sure, jnp.inf)
        rank = jnp.argsort(jnp.argsort(sure, axis=1), axis=1)  # 0 for the least sure
        left = jnp.round(x.shape[1] * process.noise(s)).astype(rank.dtype)
        return jnp.where((x == MASK) & (rank >= left), token, x), state

    return Solver(lambda x, times: (), step, asks="probabilities")


def first_hitting(process: Discrete) -> Solver:
    """The exact reverse chain of masks (Zheng et al. 2024, arXiv:2409.02908, alg. 1): of n masks at
    t the next is revealed where the noise is (1 - alpha_t) u^(1/n), u uniform. All are equally
    likely to be the one, and its value is drawn of D there.

    The samples have exactly the law that D describes, on any grid. An evaluation for each token.
    For `Masking`.

    Raises:
      ValueError: the process has no masks.
    """
    _check_absorbing("first_hitting", process)

    def init(x, times):
        return jnp.zeros(x.shape[0], jnp.int32)

    def step(noise, denoiser, x, t, s, nfe):
        keys = each_with(noise.at(t, s).key, jax.random.split, x.shape[1])
        last = process.noise(s)

        def reveal(carry, key):
            x, level, nfe = carry
            key_time, key_which, key_value = each_with(key, jax.random.split, 3)
            left = jnp.sum(x == MASK, axis=1)
            u = 1 - uniform(key_time, left.shape, level.dtype)  # above 0
            level = level * u ** (1 / jnp.maximum(left, 1).astype(level.dtype))
            goes = (left > 0) & (level > last)
            x_0 = denoiser(x, process.t_of_noise(jnp.maximum(level, last)))
            order = uniform(key_which, x.shape, level.dtype)
            which = jnp.argmax(jnp.where(x == MASK, order, -1), axis=1)
            value = _chosen(key_value, x_0, which).astype(x.dtype)
            here = jax.nn.one_hot(which, x.shape[1], dtype=bool) & goes[:, None]
            return (jnp.where(here, value[:, None], x), level, nfe + goes.astype(nfe.dtype)), None

        level = jnp.broadcast_to(process.noise(t), x.shape[:1])
        (x, _, nfe), _ = jax.lax.scan(reveal, (x, level, nfe), keys)
        return x, nfe

    return Solver(init, step, nfe=lambda nfe: nfe, adaptive=True, asks="probabilities")


def _chosen(key: Keys, x_0: Float[Array, "b l v"], which: Int[Array, " b"]) -> Int[Array, " b"]:
    """A value of the token `which` of each example."""
    law = jnp.take_along_axis(x_0, which[:, None, None], axis=1)[:, 0]
    return categorical(key, law)


def _check_absorbing(solver: str, process: Discrete) -> None:
    if not (process.discrete and process.absorbing):
        raise ValueError(f"{solver} reveals masks, and {process} has none: take unmask")
