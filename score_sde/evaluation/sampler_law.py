r"""The exact law of a sampler's output on Gaussian data, without a draw.

For data N(m, diag(l)) the denoiser is affine and acts on each dimension by itself:

    D = m + alpha l/(alpha^2 l + sigma^2) (x - alpha m)

So a solver of fixed steps is affine in the start and in its noise, and its output is normal. Its
coefficients follow from runs on 0 and on unit vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.processes import SDE, Time
from score_sde.types import Denoiser, Grid, Solver, expand


class Normal(NamedTuple):
    """A normal law of independent dimensions: mean [d] and variance [d]."""

    mean: Float[Array, " d"]
    variance: Float[Array, " d"]

    def noised(self, sde: SDE, t: Time) -> Normal:
        """The law of x_t, where this is that of x_0."""
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        return Normal(alpha * self.mean, alpha**2 * self.variance + sigma**2)

    def denoiser(self, sde: SDE) -> Denoiser:
        """E[x_0 | x_t] of x_t [b, d]."""
        mean, variance = self.mean[None], self.variance[None]

        def denoise(x, t):
            alpha, sigma = (expand(a, x) for a in (sde.alpha(t), sde.sigma(t)))
            gain = alpha * variance / (alpha**2 * variance + sigma**2)
            return mean + gain * (x - alpha * mean)

        return denoise

    def kl(self, other: Normal) -> Float[Array, " d"]:
        """KL(other | self) of each dimension, nats: how many more the law self needs for samples of
        other."""
        ratio = other.variance / self.variance
        away = (other.mean - self.mean) ** 2 / self.variance
        return (ratio - 1 - jnp.log(ratio) + away) / 2

    def frechet(self, other: Normal) -> Float[Array, " d"]:
        """The squared Wasserstein-2 distance of each dimension; its sum is the Frechet distance."""
        std = jnp.sqrt(self.variance) - jnp.sqrt(other.variance)
        return (self.mean - other.mean) ** 2 + std**2


class Affine(NamedTuple):
    """What a sampler does with x of each dimension: x_end = base + gain x_start + noise of this
    variance. All [d]."""

    base: Float[Array, " d"]
    gain: Float[Array, " d"]
    variance: Float[Array, " d"]

    def __call__(self, start: Normal) -> Normal:
        """The law of x at the end, for x of the law `start` at first."""
        return Normal(
            self.base + self.gain * start.mean, self.gain**2 * start.variance + self.variance
        )


def affine(
    solver: Solver, denoiser: Denoiser, times: Grid, d: int, *, denoise: bool = False
) -> Affine:
    """What the solver does along the times with an affine denoiser of each of d dimensions by
    itself, such as `Normal.denoiser`. With `denoise` the last x is replaced by its D, as in
    `sampling.sample`.

    The result is NaN where the output is not affine in the start and its noise, as with Langevin
    steps, whose size depends on norms.

    Raises:
      ValueError: the solver chooses its own steps.
    """
    if solver.adaptive:
        raise ValueError("a solver that chooses its own steps has no law in closed form")
    steps, count = len(times) - 1, _draws(solver, denoiser, times, d)
    # The start and the draws: all 0, the start alone, each draw alone, all at random.
    random = jnp.asarray(np.random.default_rng(0).normal(size=1 + steps * count), times.dtype)
    units = jnp.eye(1 + steps * count, dtype=times.dtype)
    rows = jnp.concatenate([0 * random[None], units, random[None]])

    def end(row):
        """Of a batch of its own, so that a step size that depends on the batch is seen."""
        x, draws = jnp.broadcast_to(row[:1], (1, d)), row[1:].reshape(steps, count)

        def step(carry, inputs):
            x, state = carry
            t, s, given = inputs
            return solver.step(_Given(given), denoiser, x, t, s, state), None

        (x, _), _ = jax.lax.scan(step, (x, solver.init(x, times)), (times[:-1], times[1:], draws))
        return (denoiser(x, times[-1]) if denoise else x)[0]

    x = jax.vmap(end)(rows)
    base, of_each = x[0], x[1:-1] - x[:1]
    wanted = base + random @ of_each
    right = jnp.all(jnp.abs(x[-1] - wanted) <= 1e-3 * jnp.max(jnp.abs(wanted)))
    found = Affine(base, of_each[0], jnp.sum(of_each[1:] ** 2, axis=0))
    return Affine(*(jnp.where(right, a, jnp.nan) for a in found))


def law_after(
    solver: Solver, denoiser: Denoiser, times: Grid, start: Normal, *, denoise: bool = False
) -> Normal:
    """The law of x at times[-1], for x at times[0] of the law `start` (`affine`)."""
    return affine(solver, denoiser, times, len(start.mean), denoise=denoise)(start)


class Budget(NamedTuple):
    """The distances of a sampler's output from the data, and of its parts.

    whole: of the output. prior: of the exact flow from the prior. truncation: of the data at the
    last time. discretisation: of the solver from the exact law at t_max, to the law at the last
    time.
    """

    whole: Float[Array, " d"]
    prior: Float[Array, " d"]
    truncation: Float[Array, " d"]
    discretisation: Float[Array, " d"]


Distance = Callable[[Normal, Normal], Float[Array, " d"]]


def budget(
    solver: Solver,
    sde: SDE,
    times: Grid,
    data: Normal,
    distance: Distance = Normal.frechet,
    *,
    denoise: bool = False,
) -> Budget:
    """Where the error of a sampler comes from, for each dimension of the data.

    distance: of two laws, by default `Normal.frechet`; or `Normal.kl`.
    """
    run = affine(solver, data.denoiser(sde), times, len(data.mean), denoise=denoise)
    return budget_of(run, sde, times, data, distance, denoise=denoise)


def budget_of(
    run: Affine,
    sde: SDE,
    times: Grid,
    data: Normal,
    distance: Distance = Normal.frechet,
    *,
    denoise: bool = False,
) -> Budget:
    """`budget` of a sampler that is known by what it does."""
    first, last = (data.noised(sde, t) for t in (times[0], times[-1]))
    prior = prior_of(sde, data)
    # the flow of a Gaussian keeps (x - mean)/std
    scale = jnp.sqrt(last.variance / first.variance)
    flowed = Normal(last.mean + scale * (prior.mean - first.mean), scale**2 * prior.variance)
    return Budget(
        distance(data, run(prior)),
        distance(last, flowed),
        distance(data, last),
        distance(data if denoise else last, run(first)),
    )


def prior_of(sde: SDE, data: Normal) -> Normal:
    """The law from which samplers start, in the dimensions of the data."""
    return Normal(jnp.zeros_like(data.mean), jnp.full_like(data.mean, sde.prior_std**2))


class _Given:
    """Noise that is given, in the order in which the solver asks for it."""

    def __init__(self, draws: Array):
        self.draws, self.used = draws, [0]

    def __call__(self, t: Array, s: Array, shape: tuple[int, ...]) -> Array:
        draw = self.draws[self.used[0]]
        self.used[0] += 1
        return jnp.broadcast_to(draw, shape)

    def levy(self, t: Array, s: Array, shape: tuple[int, ...], power: float) -> tuple[Array, Array]:
        """The next two draws."""
        return self(t, s, shape), self(t, s, shape)

    def fold(self, number: int | Array) -> Any:
        """The next draws."""
        return self


class _Counting(_Given):
    """Zeros, and how many were asked for."""

    def __init__(self):
        super().__init__(jnp.zeros(()))

    def __call__(self, t: Array, s: Array, shape: tuple[int, ...]) -> Array:
        self.used[0] += 1
        return jnp.zeros(shape, t.dtype)


def _draws(solver: Solver, denoiser: Denoiser, times: Grid, d: int) -> int:
    """How many draws a step takes."""
    noise: Any = _Counting()
    x = jnp.zeros((1, d), times.dtype)

    def step(x):
        return solver.step(noise, denoiser, x, times[0], times[1], solver.init(x, times))

    jax.eval_shape(step, x)
    return noise.used[0]
