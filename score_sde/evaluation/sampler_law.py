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


def law_after(
    solver: Solver,
    denoiser: Denoiser,
    times: Grid,
    start: Normal,
    *,
    denoise: bool = False,
) -> Normal:
    """The law of x at times[-1], for x at times[0] of the law `start`, by the solver with an affine
    denoiser of each dimension by itself, such as `Normal.denoiser`. With `denoise` the last x is
    replaced by its D, as in `sampling.sample`.

    Raises:
      ValueError: the solver chooses its own steps, or its output is not affine in the start and its
        noise (Langevin steps, whose size depends on norms).
    """
    if solver.adaptive:
        raise ValueError("a solver that chooses its own steps has no law in closed form")
    d, steps = len(start.mean), len(times) - 1
    count = _draws(solver, denoiser, times, d)

    def end(x: Array, draws: Array) -> Array:
        """x [d] at the end; draws [steps, count, d]."""

        def step(carry, inputs):
            x, state = carry
            t, s, given = inputs
            return solver.step(_Given(given), denoiser, x, t, s, state), None

        first = (x[None], solver.init(x[None], times))
        (x, _), _ = jax.lax.scan(step, first, (times[:-1], times[1:], draws))
        return (denoiser(x, times[-1]) if denoise else x)[0]

    zero, nothing = jnp.zeros(d, times.dtype), jnp.zeros((steps, count, d), times.dtype)
    base = end(zero, nothing)
    of_start = end(zero + 1, nothing) - base
    units = jnp.eye(steps * count, dtype=times.dtype).reshape(steps * count, steps, count, 1)
    of_noise = jax.lax.map(lambda unit: end(zero, nothing + unit), units) - base[None]
    _check_affine(end, base, of_start, of_noise, units)
    mean = base + of_start * start.mean
    return Normal(mean, of_start**2 * start.variance + jnp.sum(of_noise**2, axis=0))


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


def budget(
    solver: Solver,
    sde: SDE,
    times: Grid,
    data: Normal,
    distance: Callable[[Normal, Normal], Float[Array, " d"]] = Normal.frechet,
    *,
    denoise: bool = False,
) -> Budget:
    """Where the error of a sampler comes from, for each dimension of the data.

    distance: of two laws, by default `Normal.frechet`; or `Normal.kl`.
    """
    denoiser = data.denoiser(sde)
    first, last = (data.noised(sde, t) for t in (times[0], times[-1]))
    prior = Normal(jnp.zeros_like(first.mean), jnp.full_like(first.mean, sde.prior_std**2))

    def after(start: Normal) -> Normal:
        return law_after(solver, denoiser, times, start, denoise=denoise)

    # the flow of a Gaussian keeps (x - mean)/std
    scale = jnp.sqrt(last.variance / first.variance)
    flowed = Normal(last.mean + scale * (prior.mean - first.mean), scale**2 * prior.variance)
    end = data if denoise else last
    return Budget(
        distance(data, after(prior)),
        distance(last, flowed),
        distance(data, last),
        distance(end, after(first)),
    )


class _Given:
    """Noise that is given, in the order in which the solver asks for it."""

    def __init__(self, draws: Array):
        self.draws, self.used = draws, [0]

    def __call__(self, t: Array, s: Array, shape: tuple[int, ...]) -> Array:
        draw = self.draws[self.used[0]]
        self.used[0] += 1
        return jnp.broadcast_to(draw, shape)

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


def _check_affine(end, base, of_start, of_noise, units) -> None:
    """Raises a ValueError unless the end of a random combination is that of its parts."""
    random = np.random.default_rng(0).normal(size=1 + len(units))
    first, weights = random[0], jnp.asarray(random[1:], base.dtype)
    draws = jnp.tensordot(weights, units, 1)
    found = end(first * jnp.ones_like(base), jnp.broadcast_to(draws, draws.shape[:2] + base.shape))
    wanted = base + first * of_start + jnp.tensordot(weights, of_noise, 1)
    size = float(jnp.abs(wanted).max())
    if not (np.isfinite(size) and np.allclose(found, wanted, rtol=1e-3, atol=1e-3 * size)):
        raise ValueError("the output of this solver is not affine in its start and its noise")
