"""Denoisers that are guided: towards a condition, or away from a model that knows less.

With two denoisers of one process, D_pos that knows more than D_neg, all of these follow

    D = D_neg + w (D_pos - D_neg)            or, in scores,  s = s_neg + w (s_pos - s_neg)

which at w = 1 is D_pos alone, and beyond goes on in the direction from one to the other: at each
noise level the score of p_pos^w p_neg^(1-w). (No process has these densities as its marginals, so
the law of samples at w > 1 has no closed form; the solver `feynman_kac` draws from p_pos^w
p_neg^(1-w) itself, by weights.) A *pair* evaluates both, a *weight* is a number or
a schedule `t -> w` (`guidance_weights`), and `guide` joins them. In `projected` the direction loses
a part; thresholding is in `thresholding`.

At the end are what a config can name, constructors `(sde, times, **options) -> Guidance`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from score_sde.config import build
from score_sde.models import tilting
from score_sde.models.guidance_weights import (
    Weight,
    cfg_pp_weight,
    check_strength,
    checked,
    share,
)
from score_sde.models.pairs import OfCond as OfCond
from score_sde.models.pairs import Pair as Pair
from score_sde.models.pairs import guide as guide
from score_sde.models.pairs import in_one_batch as in_one_batch
from score_sde.models.pairs import of_two as of_two
from score_sde.models.projected import Change, along_mean, along_velocity, held
from score_sde.models.tilting import with_classifier as with_classifier
from score_sde.processes import SDE, Tilted
from score_sde.types import Cond, Denoiser, Grid, Needs, real_dtype

__all__ = [
    "apg",
    "autoguidance",
    "cfg_pp",
    "cfg_zero_star",
    "classifier",
    "classifier_free",
    "conditioned",
    "geometric",
    "rewarded",
    "text_and_image",
    "unguided",
]  # what a config can name

GUIDANCE = "guidance"
"""The number of a condition that says the weight, for a network that has learnt guided denoisers
(`training.objectives.lcm`)."""


class Guide(NamedTuple):
    """The checkpoint that guides. step: None for the newest. denoises: whether it must be a
    denoiser, else a classifier. ema_length: of its average; None as its own config says."""

    workdir: str
    step: int | None
    denoises: bool
    ema_length: float | None = None


class Guidance(NamedTuple):
    """guided: `(of_cond, of_guide) -> ((cond, other) -> Denoiser)`. `of_guide` makes a denoiser of
        a condition or, if the guide is a classifier, the log-probability `(x_t, t) -> [b]`. `other`
        is the condition to lead away from: the one that says nothing, or a negative one, for each
        example its own.
    guide: the checkpoint behind of_guide; None if there is none.
    drops: whether the network is also called with `other`. If that says nothing, the network must
        have learnt to do without its condition.
    numbers: those of a condition that the network must read.
    tokens: whether it is of probabilities of tokens, or of real numbers (False); None for both.
    tilted: as `guided`, the law that it is after, for solvers with weights; None if it has none.
    """

    guided: Callable[[OfCond, Callable[[Cond], Any]], Callable[[Cond, Cond], Denoiser]]
    guide: Guide | None = None
    drops: bool = False
    numbers: tuple[str, ...] = ()
    tokens: bool | None = False
    tilted: Callable[[OfCond, Callable[[Cond], Any]], Callable[[Cond, Cond], Tilted]] | None = None

    @property
    def is_of_labels(self) -> bool:
        """Whether it needs a label, even if the network is unconditional."""
        return self.drops or (self.guide is not None and not self.guide.denoises)


def unguided(sde: SDE, times: Grid) -> Guidance:
    """Nothing is changed."""

    def tilted(of_cond, of_guide):
        return lambda cond, other: tilting.alone(of_cond(cond))

    return Guidance(
        lambda of_cond, of_guide: lambda cond, other: of_cond(cond), tokens=None, tilted=tilted
    )


def classifier_free(
    sde: SDE,
    times: Grid,
    weight: float = 1.5,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
) -> Guidance:
    """Away from the same network without its condition (`guide`), by one call of twice the batch.

    interval: (low, high) of log-SNR; outside of it the weight is 1 (`guidance_weights.within`).

    Raises:
      ValueError: the interval is none, or the rescaling, a share, is not in [0, 1].
    """
    guidance = _in_one_batch(checked(sde, times, weight, interval), share("rescale", rescale))

    def tilted(of_cond, of_guide):
        return lambda cond, other: tilting.between(in_one_batch(of_cond, cond, other), weight)

    return guidance if interval or rescale else guidance._replace(tilted=tilted)


def apg(
    sde: SDE,
    times: Grid,
    weight: float = 3.0,
    eta: float = 0.0,
    norm: float | None = None,
    interval: tuple[float, float] | None = None,
) -> Guidance:
    """Adaptive projected guidance (`projected.along_mean`), for large weights: as
    `classifier_free`, without the part that makes contrast and saturation. eta = 1 without a norm
    is `classifier_free`.

    Raises:
      ValueError: the interval is none, or the norm is not positive.
    """
    if norm is not None and not norm > 0:
        raise ValueError(f"norm={norm} is no length above 0: leave it out for no limit")
    return _in_one_batch(checked(sde, times, weight, interval), change=along_mean(eta, norm))


def cfg_zero_star(
    sde: SDE,
    times: Grid,
    weight: float = 3.0,
    zero: float = 0.04,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
) -> Guidance:
    """CFG-Zero* (`projected.along_velocity`, `projected.held`): as `classifier_free`, without the
    part along the velocity of the unconditional model.

    zero: the share of the steps of the grid, rounded to whole steps, in which x is held at first:
        one of 20 steps, two of 50, none of 10. It is for a network that is worse than nothing at
        the highest noise levels. Where the weight is 1, x is not held.

    Raises:
      ValueError: the interval is none, or a share is not in [0, 1].
    """
    schedule = checked(sde, times, weight, interval)
    until = times[round(share("zero", zero) * (len(times) - 1))]

    def holding(denoiser):
        return held(sde, denoiser, until, schedule)

    change = along_velocity(sde)
    return _in_one_batch(schedule, share("rescale", rescale), change, holding)


def text_and_image(
    sde: SDE, times: Grid, text: float = 7.5, image: float = 1.5, part: str = "image"
) -> Guidance:
    """Two conditions with a weight each (Brooks et al. 2023, arXiv:2211.09800, eq. 3), by one call
    of three times the batch: `D(0, 0) + image (D(0, I) - D(0, 0)) + text (D(T, I) - D(0, I))`. A
    negative prompt takes the place of no text. part: of the condition, 0 where there is no image.
    """

    def guided(of_cond, of_guide):
        def with_two(cond, other):
            nothing = {**other, part: jnp.zeros_like(other[part])}
            each = in_one_batch(of_cond, cond, other, nothing)

            def denoise(x_t, *times):
                both, of_image, neither = each(x_t, *times)
                # in this form weights of 1 are D(T, I) to the last bit
                return both + (text - 1) * (both - of_image) + (image - 1) * (of_image - neither)

            return denoise

        return with_two

    return Guidance(guided, drops=True)


def conditioned(sde: SDE, times: Grid, weight: float = 3.0) -> Guidance:
    """The network itself at this weight, which it reads as the number cond["guidance"] (Meng et al.
    2022, arXiv:2210.03142, sec. 3.1; Luo et al. 2023, arXiv:2310.04378). One evaluation."""

    def guided(of_cond, of_guide):
        def at_weight(cond, other):
            def denoise(x_t, *times):
                told = jnp.full(len(x_t), weight, real_dtype(x_t))
                return of_cond({**cond, GUIDANCE: told})(x_t, *times)

            return denoise

        return at_weight

    return Guidance(guided, numbers=(GUIDANCE,))


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
    check_strength(strength)
    return _in_one_batch(cfg_pp_weight(sde, times, strength))


def classifier(
    sde: SDE, times: Grid, workdir: str, scale: float = 1.0, step: int | None = None
) -> Guidance:
    """Towards the label, by the classifier of another workdir (`with_classifier`). The guided
    network may be unconditional."""

    def guided(of_cond, of_guide):
        return lambda cond, other: with_classifier(sde, of_cond(cond), of_guide(cond), scale)

    def tilted(of_cond, of_guide):
        return lambda cond, other: tilting.valued(sde, of_cond(cond), of_guide(cond), scale)

    return Guidance(guided, Guide(workdir, step, denoises=False), tilted=tilted)


def rewarded(sde: SDE, times: Grid, reward: str) -> Guidance:
    """Towards a large reward, a function of `models.rewards` by name, whose gradient is taken at
    E[x_0 | x_t] as in DPS. Samples are not those of p e^r, but with the solver `feynman_kac`.

    Raises:
      ValueError: the reward reads a network: that is guidance by a `classifier`.
    """
    found = build("models.rewards", reward)
    if isinstance(found, Needs):
        raise ValueError(f"{reward} reads a network: take the guidance classifier(workdir=...)")

    def guided(of_cond, of_guide):
        return lambda cond, other: tilting.rewarded(sde, of_cond(cond), found)

    return Guidance(guided, tilted=guided)


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
    schedule = checked(sde, times, weight, interval)

    def guided(of_cond, of_guide):
        return lambda cond, other: guide(of_two(of_cond(cond), of_guide(cond)), schedule)

    def tilted(of_cond, of_guide):
        return lambda cond, other: tilting.between(of_two(of_cond(cond), of_guide(cond)), weight)

    guidance = Guidance(guided, Guide(workdir, step, True, ema_length))
    return guidance if interval else guidance._replace(tilted=tilted)


def geometric(sde: SDE, times: Grid, weight: float = 1.5) -> Guidance:
    """Of tokens: probabilities D proportional to D_pos^w D_neg^(1-w), D_neg those without the
    condition (Schiff et al. 2024, arXiv:2412.10193, eq. 12), by one call of twice the batch. At
    other weights than 1 the law of samples has no closed form."""

    def guided(of_cond, of_guide):
        def with_two(cond, other):
            pair = in_one_batch(of_cond, cond, other)

            def denoise(x_t, t):
                both = pair(x_t, t)
                if weight == 1:
                    return both[0]
                tiny = jnp.finfo(jnp.float32).tiny
                positive, negative = (jnp.log(jnp.maximum(d, tiny)) for d in both)
                return jax.nn.softmax(weight * positive + (1 - weight) * negative, axis=-1)

            return denoise

        return with_two

    return Guidance(guided, drops=True, tokens=True)


def _in_one_batch(
    weight: Weight,
    rescale: float = 0.0,
    change: Change | None = None,
    then: Callable[[Denoiser], Denoiser] = lambda denoiser: denoiser,
) -> Guidance:
    """Away from the same network under another condition. `then` changes the guided denoiser."""

    def guided(of_cond, of_guide):
        return lambda cond, other: then(
            guide(in_one_batch(of_cond, cond, other), weight, rescale, change)
        )

    return Guidance(guided, drops=True)
