"""Times and step coefficients learned for one model and a small number of evaluations.

    train, held_out = (pairs(key, sde, denoiser, (784,), count) for key, count in ...)
    fitted = fit(key, sde, denoiser, train, held_out, n=5)
    save("FILE", fitted.table, held_out_error=fitted.held_out_error)

then `--config.sampling.grid='learned(path="FILE")' --config.sampling.steps=5` with the solver of
the same name, or `solvers.table.solver(sde, fitted.table)`.

The recipe. The times of least local error (`dynamic_programming`) with the coefficients of an
exponential integrator are the start. From there all numbers of the most general linear sampler
(`solvers/table.py`) descend the squared distance of its ends from those of the probability-flow
ODE, by the gradient through the whole sampler: first Adam on small batches, which finds the way,
then L-BFGS on all pairs, which follows narrow valleys to the ground where evaluations are cheap.
The table with the least error on starts that no gradient has seen is kept.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from score_sde import sampling
from score_sde.processes import EDM, SDE
from score_sde.runtime.progress import progress
from score_sde.sampling import grids
from score_sde.solvers.learned_table import Learned, load, save, solver, times
from score_sde.solvers.multistep import multistep
from score_sde.solvers.runge_kutta import singlestep
from score_sde.types import Denoiser, Grid, Key, real_dtype

__all__ = ["Fitted", "Learned", "Pairs", "dynamic_programming", "fit", "load", "pairs", "save"]


class Pairs(NamedTuple):
    """Starts at t_max, and E[x_0 | x] at the end of the flow from each: [count, ...]."""

    start: Float[Array, "count ..."]
    end: Float[Array, "count ..."]


class Fitted(NamedTuple):
    """A learned table; its RMS errors on the pairs of the gradient, and on the held-out ones."""

    table: Learned
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

    The flow takes 3 evaluations in each of `steps` steps of order 3, equal in log-SNR, and one
    more at the end: the error falls with their cube.
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


def dynamic_programming(
    sde: SDE,
    denoiser: Denoiser,
    x: Float[Array, "b ..."],
    n: int,
    *,
    candidates: int = 64,
    free_start: bool = False,
) -> Grid:
    """GITS: the n + 1 times on which the local errors of DDIM add up to the least.

    The cost of a step is the RMS distance, in x/alpha, between DDIM's step from the true state and
    the true state at its end (Chen et al. 2024, arXiv:2405.11326, eq. 10 and alg. 1), over the
    flows from x at t_max on `candidates + 1` times that are equal in log-SNR.

    free_start: the first time, else t_max, is chosen too, at the cost of x_T scaled down to it: the
        step of a denoiser that says 0, which needs no evaluation (Dockhorn et al. 2022,
        arXiv:2210.05475, sec. 3.2). Only a learned table starts so.

    Raises:
      ValueError: n is not from 1 to the number of candidates.
    """
    if not 1 <= n <= candidates:
        raise ValueError(f"n must be from 1 to candidates={candidates}, not {n}")
    grid = grids.log_snr(sde, candidates).astype(real_dtype(x))
    cost, jump = jax.jit(functools.partial(_local_errors, sde, denoiser))(x, grid)
    from_start = np.asarray(jump) if free_start else np.r_[0.0, np.full(candidates, np.inf)]
    return grid[_shortest_path(np.asarray(cost, np.float64), n, from_start)]


def _local_errors(sde, denoiser, x, grid):
    """`cost[i, j]` of DDIM's step from time i to time j > i, else infinite, and `jump[j]` from x at
    time 0 to time j without evaluation."""
    key = jax.random.key(0)  # nothing is drawn
    reference = singlestep(sde, 3, "x0")
    path = sampling.sample(key, reference, denoiser, x, grid, trajectory=True).trajectory
    data = jax.lax.map(lambda at: denoiser(*at).astype(path.dtype), (path, grid))
    path = path / sde.alpha(grid).reshape(-1, *[1] * x.ndim)
    noise = jnp.exp(-sde.log_snr(grid) / 2)

    def errors(i, value):
        def to(j):
            keep = noise[j] / noise[i]
            error = keep * path[i] + (1 - keep) * value - path[j]
            return jnp.sqrt(jnp.mean(error**2))

        return jax.lax.map(to, jnp.arange(len(grid)))

    index = jnp.arange(len(grid))
    cost = jax.lax.map(lambda i: errors(i, data[i]), index)
    later = index[None, :] > index[:, None]
    return jnp.where(later, cost, jnp.inf), errors(0, jnp.zeros_like(path[0]))


def _shortest_path(
    cost: Float[np.ndarray, "m m"], n: int, from_start: Float[np.ndarray, " m"]
) -> Int[np.ndarray, " n_plus_1"]:
    """The path of n steps to the last node of least cost, that of its first node included."""
    best, previous = from_start, []
    for _ in range(n):
        through = best[:, None] + cost
        previous.append(np.argmin(through, axis=0))
        best = np.min(through, axis=0)
    path = [len(cost) - 1]
    for row in reversed(previous):
        path.append(row[path[-1]])
    return np.array(path[::-1])


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
        are enough; few let it fit the pairs and no others.
    start: n + 1 times to start from; by default those of `dynamic_programming` on the first 256
        pairs.
    order: of the multistep method in the data that gives the coefficients to start from.
    coefficients: with False the times between t_max and t_min alone are learned, and the
        coefficients remain those of the multistep method; the times then serve as a grid for it.
    steps, batch_size, learning_rate: of Adam, with a cosine decay.
    polish: iterations of L-BFGS after that, each one or a few passes over all pairs, which are held
        in memory at once; float64 only makes them worth while.
    check_every: how often the held-out error is measured, in steps.

    The gradient keeps what the denoiser keeps, n times; `jax.checkpoint(network)` keeps its input.

    Raises:
      ValueError: pairs that are in both sets, or a start of another length.
    """
    seen, unseen = ({x.tobytes() for x in np.asarray(a.start)} for a in (train, held_out))
    if seen & unseen:
        raise ValueError("training and held-out pairs share starts: draw them with two keys")
    if start is None:
        few = train.start[:256]
        start = dynamic_programming(sde, denoiser, few, n, free_start=coefficients)
    if len(start) != n + 1:
        raise ValueError(f"start has {len(start)} times, not n + 1 = {n + 1}")
    dtype = real_dtype(train.start)
    with jax.ensure_compile_time_eval():
        ends = sde.log_snr(jnp.asarray([sde.t_max, sde.t_min], dtype))
        levels = sde.log_snr(jnp.asarray(start, dtype))
    make = functools.partial(_table, ends, order)
    params = _parameters(ends, levels, coefficients)

    def squares(params, batch):
        table = make(params)
        x = sampling.sample(key, solver(sde, table), denoiser, batch.start, times(sde, table)).x
        return jnp.mean((x - batch.end) ** 2)

    def loss(params, batch):
        return jnp.log(squares(params, batch))

    evaluate = jax.jit(squares)

    def error(params, all_pairs):
        size = max(batch_size, 512)
        parts = [
            (len(part.start), evaluate(params, part))
            for i in range(0, len(all_pairs.start), size)
            for part in [jax.tree.map(lambda a, i=i: a[i : i + size], all_pairs)]
        ]
        return float(np.sqrt(sum(m * value for m, value in parts) / sum(m for m, _ in parts)))

    adam = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1)), b2=0.99),
    )

    def adam_step(carry, step_key):
        params, state = carry
        chosen = jax.random.randint(step_key, (batch_size,), 0, len(train.start))
        gradient = jax.grad(loss)(params, jax.tree.map(lambda a: a[chosen], train))
        with jax.numpy_dtype_promotion("standard"):  # optax mixes floats and integer counts
            updates, state = adam.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    lbfgs = optax.lbfgs(memory_size=30)
    full = functools.partial(loss, batch=train)

    def lbfgs_step(carry, _):
        params, state = carry
        with jax.numpy_dtype_promotion("standard"):
            value, gradient = optax.value_and_grad_from_state(full)(params, state=state)
            updates, state = lbfgs.update(
                gradient, state, params, value=value, grad=gradient, value_fn=full
            )
        return (optax.apply_updates(params, updates), state), None

    best = (error(params, held_out), params)
    phases = (("Adam", adam, adam_step, steps), ("L-BFGS", lbfgs, lbfgs_step, polish))
    with progress(steps + polish, "step", f"learned sampler, {n} evaluations") as bar:
        for name, optimizer, body, total in phases:
            run = jax.jit(lambda carry, keys, body=body: jax.lax.scan(body, carry, keys)[0])
            carry = best[1], optimizer.init(best[1])
            keys = jax.random.split(jax.random.fold_in(key, total), max(total, 1))[:total]
            for i in range(0, total, check_every):
                carry = run(carry, keys[i : i + check_every])
                now = error(carry[0], held_out)
                if now < best[0]:
                    best = now, carry[0]
                bar.set_postfix_str(f"{name}, held-out error {now:.3g}, least {best[0]:.3g}")
                bar.update(min(check_every, total - i))
    return Fitted(jax.jit(make)(best[1]), error(best[1], train), best[0])


def _parameters(ends, levels, coefficients) -> dict[str, Array]:
    """What descends: logarithms of the gaps between levels and, relative to those of the multistep
    method, the coefficients."""
    n = len(levels) - 1
    if not coefficients:
        return {"gaps": jnp.log(jnp.diff(levels))}
    # A first level at t_max itself could not move: the logarithm of no gap has no slope.
    first = jnp.maximum(levels[:1] - ends[:1], 1e-3 * (ends[1] - ends[0]))
    zero = jnp.zeros((), levels.dtype)
    return {
        "gaps": jnp.log(jnp.concatenate([first, jnp.diff(levels)])),
        "start": zero,
        "linear": jnp.full((n,), zero),
        "weights": jnp.full((n, n), zero),
    }


def _table(ends, order, params) -> Learned:
    """The table of parameters."""
    fractions = jnp.cumsum(jax.nn.softmax(params["gaps"]))
    if "linear" not in params:
        fractions = jnp.concatenate([jnp.zeros_like(fractions[:1]), fractions])
    levels = (ends[0] + (ends[1] - ends[0]) * fractions).at[-1].set(ends[1])
    noise = jnp.exp(-levels / 2)
    n = len(levels) - 1
    # In x/alpha every process is EDM, with its noise level for time.
    usual, _ = multistep(EDM(), order).init(jnp.zeros((1,), noise.dtype), noise)
    weights = jnp.pad(usual.predict[:, :n], ((0, 0), (0, max(n - order, 0))))
    start = noise[0] / jnp.exp(-ends[0] / 2)
    if "linear" not in params:
        return Learned(ends[0], levels, jnp.ones_like(start), usual.linear, weights)
    whole = (1 - noise[1:] / noise[:-1])[:, None]
    return Learned(
        ends[0],
        levels,
        start * (1 + params["start"]),
        usual.linear * (1 + params["linear"]),
        jnp.tril(weights + whole * params["weights"]),
    )
