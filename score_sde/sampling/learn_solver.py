"""Times and step coefficients learned for one model and a small number of evaluations.

    train, held_out = (pairs(key, sde, denoiser, (784,), count) for key, count in ...)
    fitted = fit(key, sde, denoiser, train, held_out, n=5)
    save("FILE", fitted.coefficients, held_out_error=fitted.held_out_error)

then `--config.sampling.grid='learned(path="FILE")' --config.sampling.steps=5` with the solver of
the same name, or `solvers.learned_coefficients.solver(sde, fitted.coefficients)`.

The recipe. Start from the times of least local error (`dynamic_programming`), with the coefficients
of an exponential integrator. Then let all numbers of the most general linear sampler
(`solvers/learned_coefficients.py`) descend the squared distance between its ends and those of the
probability-flow ODE, by the gradient through the whole sampler: first by Adam on small batches,
then, where evaluations are cheap, by L-BFGS on all pairs, which follows narrow valleys to the
ground. Keep the numbers of least error on starts that no gradient has seen.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from score_sde import sampling
from score_sde.processes import EDM, SDE
from score_sde.runtime.progress import progress
from score_sde.sampling import grids
from score_sde.sampling.dynamic_programming import dynamic_programming
from score_sde.solvers.learned_coefficients import (
    LearnedCoefficients,
    load,
    save,
    solver,
    times,
)
from score_sde.solvers.multistep import multistep
from score_sde.solvers.runge_kutta import singlestep
from score_sde.types import Denoiser, Grid, Key, PyTree, real_dtype

__all__ = ["Fitted", "Pairs", "dynamic_programming", "fit", "load", "pairs", "save"]


class Pairs(NamedTuple):
    """Starts at t_max, and E[x_0 | x] at the end of the flow from each: [count, ...]."""

    start: Float[Array, "count ..."]
    end: Float[Array, "count ..."]


class Fitted(NamedTuple):
    """A learned sampler; its RMS errors on the pairs of the gradient, and on the held-out ones."""

    coefficients: LearnedCoefficients
    train_error: float
    held_out_error: float


def pairs(
    key: Key,
    sde: SDE,
    denoiser: Denoiser,
    shape: tuple[int, ...],
    count: int,
    *,
    batch_size: int = 512,
    steps: int = 128,
    dtype: np.dtype | type = float,
) -> Pairs:
    """Draws starts from the prior and follows the flow from each.

    The flow takes `steps` steps of order 3, equal in log-SNR, of 3 evaluations each, and one more
    evaluation at the end: the error falls with the cube of steps.
    """
    reference = singlestep(sde, 3, "x0")
    grid = grids.log_snr(sde, steps)
    start = sde.prior_sample(key, (count, *shape), dtype)

    @jax.jit
    def end(x):
        return sampling.sample(key, reference, denoiser, x, grid, denoise=True).x

    ends = []
    with progress(count, "pair", "flow") as bar:
        for i in range(0, count, batch_size):
            ends.append(np.asarray(end(start[i : i + batch_size])))
            bar.update(len(ends[-1]))
    return Pairs(start, jnp.asarray(np.concatenate(ends)))


def fit(
    key: Key,
    sde: SDE,
    denoiser: Denoiser,
    train: Pairs,
    held_out: Pairs,
    n: int,
    *,
    start: Grid | None = None,
    order: int = 1,
    coefficients: bool = True,
    steps: int = 1000,
    batch_size: int = 128,
    learning_rate: float = 0.03,
    polish: int = 0,
    check_every: int = 50,
) -> Fitted:
    """Learns the sampler of n evaluations with the least RMS error of its ends.

    train, held_out: from two keys. Hundreds of pairs for each free number, n (n + 7)/2 + 2 of them,
        are enough; fewer let it fit these pairs and no others.
    start: n + 1 times to start from; by default those of `dynamic_programming` on the first 256
        pairs.
    order: of the multistep method in the data that gives the coefficients to start from.
    coefficients: False learns only the times between t_max and t_min and keeps the coefficients of
        the multistep method; the times then serve as a grid for it.
    steps, batch_size, learning_rate: of Adam, with a cosine decay.
    polish: iterations of L-BFGS after that, each one or a few passes over all pairs, which are held
        in memory at once; worth while only in float64.
    check_every: how often the held-out error is measured, in steps.

    The gradient keeps what the denoiser keeps, n times; `jax.checkpoint(network)` keeps its input.

    Raises:
      ValueError: pairs that are in both sets, or a start of another length.
    """
    _check_apart(train, held_out)
    if start is None:
        few = train.start[:256]
        start = dynamic_programming(sde, denoiser, few, n, free_start=coefficients)
    if len(start) != n + 1:
        raise ValueError(f"start has {len(start)} times, not n + 1 = {n + 1}")
    dtype = real_dtype(train.start)
    with jax.ensure_compile_time_eval():
        ends = sde.log_snr(jnp.asarray([sde.t_max, sde.t_min], dtype))
        log_snrs = sde.log_snr(jnp.asarray(start, dtype))
    make = functools.partial(_coefficients, ends, order)
    squares = _mean_square(key, sde, denoiser, make)
    error = functools.partial(_root_mean, jax.jit(squares), max(batch_size, 512))
    loss = _log(squares)
    phases = (_adam(loss, train, steps, batch_size, learning_rate), _lbfgs(loss, train, polish))
    params, least = _descend(
        key,
        phases,
        _parameters(ends, log_snrs, coefficients),
        lambda params: error(params, held_out),
        check_every,
        f"learned sampler, {n} evaluations",
    )
    return Fitted(jax.jit(make)(params), error(params, train), least)


def _check_apart(train: Pairs, held_out: Pairs) -> None:
    seen, unseen = ({x.tobytes() for x in np.asarray(a.start)} for a in (train, held_out))
    if seen & unseen:
        raise ValueError("training and held-out pairs share starts: draw them with two keys")


def _mean_square(key: Key, sde: SDE, denoiser: Denoiser, make: Callable) -> Callable:
    """`(params, pairs) -> []`, the squared error of the ends of the sampler `make(params)`."""

    def mean_square(params, batch):
        numbers = make(params)
        x = sampling.sample(key, solver(sde, numbers), denoiser, batch.start, times(sde, numbers)).x
        return jnp.mean((x - batch.end) ** 2)

    return mean_square


def _log(squares: Callable) -> Callable:
    return lambda params, batch: jnp.log(squares(params, batch))


def _root_mean(squares: Callable, size: int, params: PyTree, all_pairs: Pairs) -> float:
    """The root of the mean of `squares` over all pairs, so many at a time."""
    parts = [
        (len(part.start), squares(params, part))
        for i in range(0, len(all_pairs.start), size)
        for part in [jax.tree.map(lambda a, i=i: a[i : i + size], all_pairs)]
    ]
    return float(np.sqrt(sum(m * value for m, value in parts) / sum(m for m, _ in parts)))


class _Phase(NamedTuple):
    """A descent: `start: params -> state`, and `total` steps `((params, state), key) -> ((params,
    state), None)`."""

    name: str
    start: Callable
    step: Callable
    total: int


def _adam(
    loss: Callable, train: Pairs, steps: int, batch_size: int, learning_rate: float
) -> _Phase:
    adam = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1)), b2=0.99),
    )

    def step(carry, key):
        params, state = carry
        chosen = jax.random.randint(key, (batch_size,), 0, len(train.start))
        gradient = jax.grad(loss)(params, jax.tree.map(lambda a: a[chosen], train))
        with jax.numpy_dtype_promotion("standard"):  # optax mixes floats and integer counts
            updates, state = adam.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    return _Phase("Adam", adam.init, step, steps)


def _lbfgs(loss: Callable, train: Pairs, steps: int) -> _Phase:
    lbfgs = optax.lbfgs(memory_size=30)
    full = functools.partial(loss, batch=train)

    def step(carry, _):
        params, state = carry
        with jax.numpy_dtype_promotion("standard"):
            value, gradient = optax.value_and_grad_from_state(full)(params, state=state)
            updates, state = lbfgs.update(
                gradient, state, params, value=value, grad=gradient, value_fn=full
            )
        return (optax.apply_updates(params, updates), state), None

    return _Phase("L-BFGS", lbfgs.init, step, steps)


def _descend(
    key: Key,
    phases: tuple[_Phase, ...],
    params: PyTree,
    error: Callable[[PyTree], float],
    check_every: int,
    title: str,
) -> tuple[PyTree, float]:
    """The parameters of least error, and that error. Each phase starts from the best so far."""
    best = (params, error(params))
    with progress(sum(phase.total for phase in phases), "step", title) as bar:
        for name, start, step, total in phases:
            run = jax.jit(lambda carry, keys, step=step: jax.lax.scan(step, carry, keys)[0])
            carry = best[0], start(best[0])
            keys = jax.random.split(jax.random.fold_in(key, total), max(total, 1))[:total]
            for i in range(0, total, check_every):
                carry = run(carry, keys[i : i + check_every])
                now = error(carry[0])
                if now < best[1]:
                    best = carry[0], now
                bar.set_postfix_str(f"{name}, held-out error {now:.3g}, least {best[1]:.3g}")
                bar.update(min(check_every, total - i))
    return best


def _parameters(ends, log_snrs, coefficients) -> dict[str, Array]:
    """What descends: the logarithms of the gaps between log-SNRs and, relative to those of the
    multistep method, the coefficients."""
    n = len(log_snrs) - 1
    if not coefficients:
        return {"gaps": jnp.log(jnp.diff(log_snrs))}
    # A first time at t_max itself could not move: the logarithm of a gap of 0 has no slope.
    first = jnp.maximum(log_snrs[:1] - ends[:1], 1e-3 * (ends[1] - ends[0]))
    zero = jnp.zeros((), log_snrs.dtype)
    return {
        "gaps": jnp.log(jnp.concatenate([first, jnp.diff(log_snrs)])),
        "start": zero,
        "linear": jnp.full((n,), zero),
        "weights": jnp.full((n, n), zero),
    }


def _coefficients(ends, order, params) -> LearnedCoefficients:
    """The coefficients of these parameters."""
    fractions = jnp.cumsum(jax.nn.softmax(params["gaps"]))
    if "linear" not in params:
        fractions = jnp.concatenate([jnp.zeros_like(fractions[:1]), fractions])
    log_snrs = (ends[0] + (ends[1] - ends[0]) * fractions).at[-1].set(ends[1])
    noise = jnp.exp(-log_snrs / 2)
    n = len(log_snrs) - 1
    # In x/alpha every process is EDM, whose time is the noise level.
    usual, _ = multistep(EDM(), order).init(jnp.zeros((1,), noise.dtype), noise)
    weights = jnp.pad(usual.predict[:, :n], ((0, 0), (0, max(n - order, 0))))
    start = noise[0] / jnp.exp(-ends[0] / 2)
    if "linear" not in params:
        return LearnedCoefficients(ends[0], log_snrs, jnp.ones_like(start), usual.linear, weights)
    whole = (1 - noise[1:] / noise[:-1])[:, None]
    return LearnedCoefficients(
        ends[0],
        log_snrs,
        start * (1 + params["start"]),
        usual.linear * (1 + params["linear"]),
        jnp.tril(weights + whole * params["weights"]),
    )
