"""Measures of a denoiser's errors by noise level, and of copies among its samples.

Three measures are taken at n times. Each makes x_t = alpha x_0 + sigma z with fresh noise for every
example, and gives the root of a mean square with its standard error:

- `score_error`: the distance of the noise prediction from an exact one;
- `jacobian_asymmetry`: whether the field is a gradient;
- `fokker_planck_residual`: whether the scores of different times belong to one process.

An example where `mask` [b] is false does not count, so that a batch can be filled up to a multiple
of the devices. What is drawn for an example depends only on its place.

`nearest` and `memorisation` tell whether samples are copies of the training data. All are pure
functions. The caller compiles them, with the parameters of a network as arguments.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from score_sde.evaluation.solver_error import Estimate, mean
from score_sde.processes import SDE, coefficients, derivative
from score_sde.types import Denoiser, Key, real_dtype

Times = Float[Array, " n"]
Mask = Bool[Array | np.ndarray, " b"]


class ByNoiseLevel(NamedTuple):
    """A measure at n noise levels. log_snr: ln(alpha^2/sigma^2). value: the root of a mean square.
    standard_error: by how much the root grows if the mean square grows by its standard error (so
    it is finite where the value is 0)."""

    log_snr: Float[Array, " n"]
    value: Float[Array, " n"]
    standard_error: Float[Array, " n"]


# The field


def score_error(
    key: Key,
    sde: SDE,
    denoiser: Denoiser,
    truth: Denoiser,
    x: Float[Array, "b ..."],
    times: Times,
    *,
    mask: Mask | None = None,
) -> ByNoiseLevel:
    """RMS over examples and coordinates of the error of the noise prediction,
    `alpha/sigma (D - D*)`, unitless. It is sigma times the error of the score.

    truth: D*, the denoiser of a known distribution, or the ideal one of a data set
        (`exact.dequantized`, `exact.Dataset`). A network that does not memorise differs from the
        latter.
    x: data, from which the noisy x_t are made.
    """

    def squares(key, x_t, t):
        error = sde.alpha(t) / sde.sigma(t) * (denoiser(x_t, t) - truth(x_t, t))
        return mean_square(error), jnp.ones(len(x_t), x_t.dtype)

    return by_level(key, sde, x, times, mask, squares)


def jacobian_asymmetry(
    key: Key,
    sde: SDE,
    denoiser: Denoiser,
    x: Float[Array, "b ..."],
    times: Times,
    *,
    mask: Mask | None = None,
    probes: int | None = None,
    view: Callable[[Array, Array, Array], Array] | None = None,
) -> ByNoiseLevel:
    """`|J - J^T| / |J|`, Frobenius norms, of the Jacobian of the score at x_t.

    It is 0 for a gradient field, such as every true score, 2 for a pure rotation, and about sqrt(2)
    for a matrix of independent entries. Both norms are RMS over the examples.

    probes: None takes every direction, with two products with J for each dimension of x. k takes k
        Rademacher probes v, the same ones for `J v` and `J^T v`: E|J v - J^T v|^2 = |J - J^T|^2
        (Hutchinson 1990).
    view: `(x_t, t, x_0) -> field`, by default `sde.score`. With `lambda x_t, t, x_0: x_0` the field
        is the denoiser. Its Jacobian lacks the large multiple of the identity that the score's has
        at little noise.

    Raises:
      ValueError: probes is less than 1.
    """
    _check_probes(probes, 1)

    def squares(key, x_t, t):
        def field(x):
            return (view or sde.score)(x, t, denoiser(x, t))

        _, transposed = jax.vjp(field, x_t)

        def along(v):
            forward = jax.jvp(field, (x_t,), (v,))[1]
            return mean_square(forward - transposed(v)[0]), mean_square(forward)

        of_directions = jax.vmap(along)(_directions(key, x_t, probes))
        return tuple(jnp.sum(a, axis=0) for a in of_directions)

    return by_level(key, sde, x, times, mask, squares)


def fokker_planck_residual(
    key: Key,
    sde: SDE,
    denoiser: Denoiser,
    x: Float[Array, "b ..."],
    times: Times,
    *,
    mask: Mask | None = None,
    probes: int | None = None,
) -> ByNoiseLevel:
    """RMS of the residual of the score Fokker-Planck equation (Lai et al. 2023, arXiv:2210.04296).

    The density of `dx = f(t) x dt + g(t) dw` has
    `d_t log p = -f d - f x . s + g^2/2 (div s + |s|^2)`, s = grad log p. Its gradient is

        r = d_t s - grad[ g^2/2 (div s + |s|^2) - f x . s ] = 0

    (f d does not depend on x). The result is the RMS over examples and coordinates of
    `sigma r / |d log_snr/dt|`: the error of the noise prediction's change per unit of log-SNR. It
    is unitless and, for a gradient field, the same whatever process the denoiser is read on. A
    field that is exact for other data has no residual.

    probes: None takes the exact divergence, with a third derivative in every direction; it is for
        few dimensions. k >= 2 takes k Rademacher probes. The mean square is then the mean product
        of different probes, which has no bias from their spread; where it is negative the value is
        0.

    Raises:
      ValueError: probes is less than 2.
    """
    _check_probes(probes, 2)

    def squares(key, x_t, t):
        f, g2 = coefficients(sde, t)
        unit = sde.sigma(t) / derivative(sde.log_snr, t)

        def score(x, t):
            return sde.score(x, t, denoiser(x, t))

        def rest(x):  # the terms under the gradient, without the divergence
            s = score(x, t)
            return jnp.sum(g2 / 2 * s**2 - f * x * s)

        def divergence(x, v):
            return jnp.sum(v * jax.jvp(lambda x: score(x, t), (x,), (v,))[1])

        change = jax.jvp(lambda t: score(x_t, t), (t,), (jnp.ones_like(t),))[1]
        known = unit * (change - jax.grad(rest)(x_t))
        directions = _directions(key, x_t, probes)
        of_directions = jax.vmap(jax.grad(divergence), in_axes=(None, 0))(x_t, directions)
        moved = unit * g2 / 2 * of_directions
        ones = jnp.ones(len(x_t), x_t.dtype)
        if probes is None:
            return mean_square(known - jnp.sum(moved, axis=0)), ones
        each = known[None] - moved
        pairs = mean_square(jnp.sum(each, axis=0)) - jnp.sum(jax.vmap(mean_square)(each), axis=0)
        return pairs / (probes * (probes - 1)), ones

    return by_level(key, sde, x, times, mask, squares)


def by_level(
    key: Key,
    sde: SDE,
    x: Float[Array, "b ..."],
    times: Times,
    mask: Mask | None,
    squares: Callable[[Key, Array, Array], tuple[Array, ...]],
) -> ByNoiseLevel:
    """The root of `sum a / sum b` over examples, where `squares(key, x_t, t) -> (a [b], b [b])`."""
    mask = jnp.ones(len(x), bool) if mask is None else jnp.asarray(mask)
    average = functools.partial(jnp.mean, where=mask)
    root_of_count = jnp.sqrt(jnp.sum(mask).astype(x.dtype))

    def at_time(inputs):
        key, t = inputs
        key_noise, key_probes = jax.random.split(key)
        a, b = squares(key_probes, sde.perturb(key_noise, x, t), t)
        ratio = average(a) / average(b)
        spread = jnp.std(a - ratio * b, ddof=1, where=mask) / root_of_count / average(b)
        square = jnp.maximum(ratio, 0)
        return jnp.sqrt(square), jnp.sqrt(square + spread) - jnp.sqrt(square)

    times = times.astype(x.dtype)
    value, error = jax.lax.map(at_time, (jax.random.split(key, len(times)), times))
    return ByNoiseLevel(sde.log_snr(times), value, error)


def _directions(key, x, probes):
    """[directions, b, ...]: the basis of an example's space, or probes for each example."""
    if probes is not None:
        drawn = jax.random.rademacher(key, (len(x), probes, *x.shape[1:]), x.dtype)
        return jnp.swapaxes(drawn, 0, 1)
    size = math.prod(x.shape[1:])
    basis = jnp.eye(size, dtype=x.dtype).reshape(size, 1, *x.shape[1:])
    return jnp.broadcast_to(basis, (size, *x.shape))


def mean_square(x: Float[Array, "b ..."]) -> Float[Array, " b"]:
    """The mean over the coordinates, for each example."""
    return jnp.mean(x.reshape(len(x), -1) ** 2, axis=1)


def _check_probes(probes, least):
    if probes is not None and probes < least:
        raise ValueError(f"probes must be None (every direction) or at least {least}, not {probes}")


# Copies


class Nearest(NamedTuple):
    """distance: the Euclidean distance to the nearest point, in the units of x. index: of that
    point. ratio: of the distances to the nearest and the second nearest point; 0 for a copy."""

    distance: Float[Array, " n"]
    index: Int[Array, " n"]
    ratio: Float[Array, " n"]


def nearest(x: Num[Array, "n ..."], points: Num[Array, "m ..."], *, block: int = 256) -> Nearest:
    """The point nearest to each x, and its distance relative to the next nearest.

    The n m distances are never in memory at once: `block` samples meet `block` points at a time.
    Inner products find the two nearest points. Their distances are then computed from differences,
    so that a copy is at exactly 0. Points whose distances agree to rounding may be exchanged.
    Integers are taken as numbers.

    Raises:
      ValueError: there are fewer than two points.
    """
    if len(points) < 2:
        raise ValueError(f"two neighbours need at least 2 points, not {len(points)}")
    with jax.default_matmul_precision("highest"):
        return _nearest(x, points, block)


@functools.partial(jax.jit, static_argnames="block")
def _nearest(x, points, block):
    dtype = real_dtype(x)
    x, points = (jnp.asarray(a).reshape(len(a), -1).astype(dtype) for a in (x, points))
    center = jnp.mean(points, axis=0)  # inner products of short vectors lose fewer digits
    chunks = jnp.pad(points - center[None], ((0, -len(points) % block), (0, 0)))
    chunks = chunks.reshape(-1, block, points.shape[1])
    firsts = block * jnp.arange(len(chunks))

    def search(one):
        def narrow(best, inputs):
            chunk, first = inputs
            index = first + jnp.arange(block)
            # without |x|^2, which is the same for all points
            square = jnp.sum(chunk**2, axis=1) - 2 * chunk @ (one - center)
            square = jnp.where(index < len(points), square, jnp.inf)
            squares, indices = (
                jnp.concatenate(pair) for pair in zip(best, (square, index), strict=True)
            )
            smallest, at = jax.lax.top_k(-squares, 2)
            return (-smallest, indices[at]), None

        start = jnp.full(2, jnp.inf, dtype), jnp.zeros(2, firsts.dtype)
        (_, found), _ = jax.lax.scan(narrow, start, (chunks, firsts))
        distance = jnp.sqrt(jnp.sum((one[None] - points[found]) ** 2, axis=1))
        order = jnp.argsort(distance)
        first, second = distance[order[0]], distance[order[1]]
        return first, found[order[0]], first / jnp.where(first > 0, second, 1)

    return Nearest(*jax.lax.map(search, x, batch_size=block))


class Memorisation(NamedTuple):
    """closer: the probability that a sample is closer to the training data than a held-out example
    is (1/2 without copying). copied: the share of samples whose distance to the nearest training
    example is less than a third of that to the next. copied_held_out: the same share of held-out
    examples, which are no copies."""

    closer: Estimate
    copied: Estimate
    copied_held_out: Estimate


COPY = 1 / 3


def memorisation(samples: Nearest, held_out: Nearest) -> Memorisation:
    """Whether samples are copies, from their neighbours in the training data and those of examples
    that the training has not seen.

    closer is the statistic of Mann & Whitney, as in Meehan et al. 2020 (arXiv:2004.05675). Ties
    count half, and the standard error is that of DeLong et al. 1988. It detects samples that are
    all a little too close. copied is the criterion of Yoon et al. 2023, for single copies.
    """
    ours, theirs = (np.sort(np.asarray(a.distance, np.float64)) for a in (samples, held_out))

    def share_above(values, of):
        """For each value, the share of the sorted `of` that is above it."""
        sides = [np.searchsorted(of, values, side) for side in ("left", "right")]
        return 1 - np.mean(sides, axis=0) / len(of)

    above, below = share_above(ours, theirs), 1 - share_above(theirs, ours)
    spread = math.hypot(*(mean(a.tolist()).standard_error for a in (above, below)))
    copies = (
        mean((np.asarray(a.ratio) < COPY).astype(float).tolist()) for a in (samples, held_out)
    )
    return Memorisation(Estimate(float(np.mean(above)), spread), *copies)
