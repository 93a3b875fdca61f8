"""Denoisers that are guided: towards a condition, or away from a model that knows less.

With two denoisers of one process, D_pos that knows more than D_neg, all of these follow

    D = D_neg + w (D_pos - D_neg)            or, in scores,  s = s_neg + w (s_pos - s_neg)

which at w = 1 is D_pos alone, and beyond goes on in the direction from one to the other: at each
noise level the score of p_pos^w p_neg^(1-w). (No process has these densities as its marginals, so
the law of samples at w > 1 has no closed form.) A *pair* evaluates both, a *weight* is a number or
a schedule `t -> w`, and `guide` joins them; thresholding is in `thresholding`.

At the end are what a config can name, constructors `(sde, times, **options) -> Guidance`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.conditioning.conditions import interleave
from score_sde.processes import SDE, Time
from score_sde.types import Cond, Denoiser, Grid, expand

__all__ = [
    "autoguidance",
    "cfg_pp",
    "classifier",
    "classifier_free",
    "unguided",
]  # what a config can name

OfCond = Callable[[Cond], Denoiser]
"""The denoiser of a condition."""

Pair = Callable[[Array, Array], tuple[Array, Array]]
"""`(x_t [b, ...], t [] or [b]) -> (D_pos, D_neg)`."""

Weight = float | Array | Callable[[Time], Time]
"""A number, or a schedule `t -> w` of the shape of t."""


# Pairs


def in_one_batch(of_cond: OfCond, cond: Cond, other: Cond) -> Pair:
    """One denoiser under two conditions of the same parts, by one call of twice the batch."""
    denoiser = of_cond(interleave(cond, other))

    def pair(x_t, t):
        twice = jnp.repeat(x_t, 2, axis=0)  # in the order of `interleave`
        both = denoiser(twice, jnp.repeat(t, 2) if t.ndim else t)
        positive, negative = jnp.moveaxis(both.reshape(-1, 2, *both.shape[1:]), 1, 0)
        return positive, negative

    return pair


def of_two(denoiser: Denoiser, other: Denoiser) -> Pair:
    """Two denoisers of one process, such as a network and a smaller or less trained one (Karras et
    al. 2024, arXiv:2406.02507)."""
    return lambda x_t, t: (denoiser(x_t, t), other(x_t, t))


# What pairs become


def guide(pair: Pair, weight: Weight, rescale: float = 0.0) -> Denoiser:
    """D_neg + w (D_pos - D_neg): of the pair (conditional, unconditional) classifier-free guidance
    (Ho & Salimans 2022, arXiv:2207.12598, eq. 6, whose w is this one less 1).

    rescale: phi of Lin et al. 2023 (arXiv:2305.08891, eq. 15-16): D is brought this far, from 0 to
        1, towards the standard deviation that D_pos has over the dimensions of an example.
    """

    def denoise(x_t, t):
        positive, negative = pair(x_t, t)
        w = weight(t) if callable(weight) else jnp.asarray(weight)
        # in this form w = 1 is D_pos to the last bit
        guided = positive + expand((w - 1).astype(x_t.dtype), x_t) * (positive - negative)
        if not rescale:
            return guided
        wanted, found = (_std(x) for x in (positive, guided))
        ratio = jnp.where(found > 0, wanted / jnp.where(found > 0, found, 1), 1)
        return guided * expand(1 + rescale * (ratio - 1), guided)

    return denoise


def _std(x: Float[Array, "b ..."]) -> Float[Array, " b"]:
    return jnp.std(x.reshape(len(x), -1), axis=1)


def with_classifier(
    sde: SDE,
    denoiser: Denoiser,
    log_prob: Callable[[Array, Array], Array],
    scale: float | Array = 1.0,
) -> Denoiser:
    """D + scale (sigma^2/alpha) grad_x ln p(label | x_t): the score plus scale times the gradient
    (Dhariwal & Nichol 2021, arXiv:2105.05233, sec. 4; by Tweedie's formula in D).

    log_prob: `(x_t [b, ...], t) -> ln p(label | x_t) [b]`, each of its own example.

    With the true posterior and the unconditional denoiser it is classifier-free guidance of that
    weight. Where alpha is 0, x_t tells nothing of the label and D stays.
    """

    def denoise(x_t, t):
        gradient = jax.grad(lambda x: jnp.sum(log_prob(x, t)))(x_t)
        alpha = sde.alpha(t)
        gain = jnp.where(alpha > 0, sde.sigma(t) ** 2 / jnp.where(alpha > 0, alpha, 1), 0)
        return denoiser(x_t, t) + scale * expand(gain, x_t) * gradient

    return denoise


# Weights that depend on the noise level


def within(sde: SDE, weight: float, low: float, high: float) -> Callable[[Time], Time]:
    """The weight where ln(alpha^2/sigma^2) is in [low, high], and 1, no guidance, elsewhere
    (Kynkaanniemi et al. 2024, arXiv:2404.07724)."""

    def schedule(t):
        log_snr = sde.log_snr(t)
        return jnp.where((low <= log_snr) & (log_snr <= high), weight, jnp.ones_like(log_snr))

    return schedule


def cfg_pp_weight(sde: SDE, times: Grid, strength: float) -> Callable[[Time], Time]:
    """The weight with which a step of DDIM is one of CFG++ (Chung et al. 2024, arXiv:2406.08070).

    CFG++ denoises with the guided prediction and adds the unguided noise: x_s = alpha_s D_w +
    sigma_s eps_neg with w = strength. Since eps_neg - eps_w = (alpha/sigma) w (D_pos - D_neg), its
    step is that of DDIM with

        w(t) = strength / (1 - e^-h),    h = ln(alpha_s/sigma_s) - ln(alpha_t/sigma_t)

    s the time after t in the grid. Past the end of the grid, where the next noise level is zero, w
    is the strength. For strengths from 0 to 1.
    """

    def schedule(t):
        grid = times.astype(t.dtype)
        lam = sde.log_snr(grid) / 2
        h = jnp.append(jnp.diff(lam), jnp.inf)
        # the step that begins at t, or that t lies in
        index = jnp.searchsorted(-grid, -t, side="right") - 1
        return -strength / jnp.expm1(-h[jnp.maximum(index, 0)])

    return schedule


# What a config can name


class Guide(NamedTuple):
    """The checkpoint that guides. step: None for the newest. denoises: whether it must be a
    denoiser, else a classifier. ema_length: of its average; None as its own config says."""

    workdir: str
    step: int | None
    denoises: bool
    ema_length: float | None = None


class Guidance(NamedTuple):
    """guided: `(of_cond, of_guide) -> ((cond, null) -> Denoiser)`. `of_guide` makes a denoiser of a
        condition or, if the guide is a classifier, the log-probability `(x_t, t) -> [b]`. `null` is
        the condition to lead away from: the one that says nothing, or a negative one.
    guide: the checkpoint behind of_guide; None if there is none.
    drops: whether the network is also called without its condition, which it must have learnt.
    """

    guided: Callable[[OfCond, Callable[[Cond], Any]], Callable[[Cond, Cond], Denoiser]]
    guide: Guide | None = None
    drops: bool = False

    @property
    def is_of_labels(self) -> bool:
        """Whether it needs a label, even if the network is unconditional."""
        return self.drops or (self.guide is not None and not self.guide.denoises)


def unguided(sde: SDE, times: Grid) -> Guidance:
    """Nothing is changed."""
    return Guidance(lambda of_cond, of_guide: lambda cond, null: of_cond(cond))


def classifier_free(
    sde: SDE,
    times: Grid,
    weight: float = 1.5,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
) -> Guidance:
    """Away from the same network without its condition (`guide`), by one call of twice the batch.

    interval: (low, high) of log-SNR; outside of it the weight is 1 (`within`).
    """
    schedule = _schedule(sde, weight, interval)

    def guided(of_cond, of_guide):
        return lambda cond, null: guide(in_one_batch(of_cond, cond, null), schedule, rescale)

    return Guidance(guided, drops=True)


def cfg_pp(sde: SDE, times: Grid, strength: float = 0.6) -> Guidance:
    """CFG++ for the solver `ddim` (`cfg_pp_weight`); with others its schedule of weights.

    Raises:
      ValueError: the grid has one step, as that of a solver which chooses its own steps.
    """
    if len(times) < 3:
        raise ValueError(
            "it goes by the steps of the grid, and the grid has one: choose a solver that takes "
            "those steps, such as ddim, and set sampling.steps"
        )
    schedule = cfg_pp_weight(sde, times, strength)

    def guided(of_cond, of_guide):
        return lambda cond, null: guide(in_one_batch(of_cond, cond, null), schedule)

    return Guidance(guided, drops=True)


def classifier(
    sde: SDE, times: Grid, workdir: str, scale: float = 1.0, step: int | None = None
) -> Guidance:
    """Towards the label, by the classifier of another workdir (`with_classifier`). The guided
    network may be unconditional."""

    def guided(of_cond, of_guide):
        return lambda cond, null: with_classifier(sde, of_cond(cond), of_guide(cond), scale)

    return Guidance(guided, Guide(workdir, step, denoises=False))


def autoguidance(
    sde: SDE,
    times: Grid,
    workdir: str,
    weight: float = 2.0,
    interval: tuple[float, float] | None = None,
    step: int | None = None,
    ema_length: float | None = None,
) -> Guidance:
    """Away from a worse network under the same condition, the checkpoint of another workdir (Karras
    et al. 2024, arXiv:2406.02507). Its errors have the same direction and are larger.

    step, ema_length: of that workdir; the length as `sampling.ema_length`.
    """
    schedule = _schedule(sde, weight, interval)

    def guided(of_cond, of_guide):
        return lambda cond, null: guide(of_two(of_cond(cond), of_guide(cond)), schedule)

    return Guidance(guided, Guide(workdir, step, True, ema_length))


def _schedule(sde: SDE, weight: float, interval: tuple[float, float] | None) -> Weight:
    if interval is None:
        return weight
    if len(interval) != 2 or not interval[0] < interval[1]:
        raise ValueError(f"interval={interval} is not (low, high), two log-SNRs with low < high")
    return within(sde, weight, *interval)
