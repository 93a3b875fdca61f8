"""Guidance whose direction loses a part: what `guidance.guide` takes for d = D_pos - D_neg.

    D = D_pos + (w - 1) (d - proj_u d),    proj_u d = (<d, u>/|u|^2) u

The inner products are over one example. Two papers leave out two parts: adaptive projected guidance
that along D_pos, CFG-Zero* that along the velocity of D_neg. In an example of one number nothing is
left. Neither costs an evaluation.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from score_sde.models.guidance_weights import Weight, weight_at
from score_sde.processes import SDE, Time
from score_sde.types import Denoiser, expand

Change = Callable[[Array, Time, Array, Array], Array]
"""`(x_t [b, ...], t [] or [b], D_pos, D_neg) -> d`, what takes the place of D_pos - D_neg."""


def along_mean(eta: float = 0.0, norm: float | None = None) -> Change:
    """Adaptive projected guidance (Sadat et al. 2024, arXiv:2410.02416, alg. 1): the part along
    D_pos, which raises the contrast, is multiplied by eta.

    norm: d is shortened to this length first, over all numbers of an example, if it is longer. (So
        it grows with the root of their number: the paper has 2.5 for 64x64x4, 15 for 128x128x4.)

    The paper's momentum is left out: it needs the d of earlier steps, and a Denoiser has no memory.
    """

    def change(x_t, t, positive, negative):
        difference = positive - negative
        if norm is not None:
            square = _inner(difference, difference)
            difference = difference * (norm / jnp.sqrt(jnp.maximum(square, norm**2)))
        return difference - (1 - eta) * _projection(difference, positive)

    return change


def along_velocity(sde: SDE) -> Change:
    """CFG-Zero* (Fan et al. 2025, arXiv:2503.18886, eq. 8-11): D_neg is replaced by the D whose
    velocity is s v_neg, with s = <v_pos, v_neg>/|v_neg|^2. So d loses its part along v_neg.

    The velocity is that of the rectified flow, v = z - x_0, as in the paper. On another process it
    is that of the rectified flow with the same noise level (`flow_map`): with y = x_t/(alpha +
    sigma), v is y - D up to a factor. So guidance does not depend on how a process scales x, which
    the velocity dx/dt of its own ODE would.
    """

    def change(x_t, t, positive, negative):
        difference = positive - negative
        return difference - _projection(difference, _of_unit_sum(sde, x_t, t) - negative)

    return change


def held(sde: SDE, denoiser: Denoiser, until: Time, weight: Weight) -> Denoiser:
    """The "zero init" of CFG-Zero*: before the time `until`, which is noisier, the velocity is 0.

    With the velocity of `along_velocity` it is D = y = x_t/(alpha + sigma), for which any solver
    of the ODE leaves y as it is: on the rectified flow x itself. On another process x follows
    alpha + sigma, which keeps its noise at the scale of the noise level. (If x itself stood still,
    that of EDM would be too large for the levels that follow.) Where the weight is 1, D stays.
    """

    def denoise(x_t, t, *s):
        still = (t > until.astype(t.dtype)) & (weight_at(weight, t) != 1)
        return jnp.where(expand(still, x_t), _of_unit_sum(sde, x_t, t), denoiser(x_t, t, *s))

    return denoise


def _of_unit_sum(sde: SDE, x_t: Array, t: Time) -> Array:
    """x_t of the rectified flow with the same noise level, whose alpha + sigma is 1."""
    return x_t / expand(sde.alpha(t) + sde.sigma(t), x_t)


def _inner(a: Array, b: Array) -> Array:
    """Of each example, [b, 1, ...]."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)), keepdims=True)


def _projection(a: Array, onto: Array) -> Array:
    """The part of a along another array, of each example; 0 where that is 0."""
    square = _inner(onto, onto)
    share = jnp.where(square > 0, _inner(a, onto) / jnp.where(square > 0, square, 1), 0)
    return share * onto
