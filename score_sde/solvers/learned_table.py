"""A sampler that was learned: its times and step coefficients, as a table that a file can hold.

With x~ = x/alpha, the first input is the start scaled to its noise level, and every later one is
any linear combination of what is known:

    x~_0 = start x~_T      x~_{i+1} = linear_i x~_i + sum_{j <= i} weights_ij D(x_{i-j}, t_{i-j})

This is the most general linear sampler of n evaluations, the non-stationary solvers of Shaul et al.
2024 (arXiv:2403.01329, eq. 12). In x~ and the log-SNR all processes are one (Karras et al. 2022,
sec. 2), so a table serves every process that runs between the same two log-SNRs.
`score_sde/sampling/learn_solver.py` makes tables.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.processes import SDE
from score_sde.solvers.multistep import Coefficients, linear_multistep
from score_sde.types import Grid, Solver

__all__ = ["learned"]  # what a config can name

_FORMAT = "score_sde learned sampler, version 1"


class Learned(NamedTuple):
    """The table of n steps.

    prior: the log-SNR of t_max, where samples start.
    log_snr: that of the n evaluations and of the end, increasing.
    start, linear, weights: see above; row i of weights is newest first, 0 beyond its i + 1 entries.
    """

    prior: Float[Array, ""]
    log_snr: Float[Array, " n_plus_1"]
    start: Float[Array, ""]
    linear: Float[Array, " n"]
    weights: Float[Array, "n n"]


def times(sde: SDE, table: Learned) -> Grid:
    """The times of the n evaluations, from t_max or below it, and t_min."""
    inner = sde.t_of_log_snr(table.log_snr[:-1])
    first = jnp.where(table.log_snr[0] == table.prior, sde.t_max, inner[0]).astype(inner.dtype)
    return jnp.concatenate([first[None], inner[1:], jnp.full((1,), sde.t_min, inner.dtype)])


def solver(sde: SDE, table: Learned) -> Solver:
    """The table as a solver: one evaluation a step, deterministic, for x at t_max.

    It brings its own times and uses of the grid only the number of steps, which must be n. Its end
    is meant to be E[x_0 | x] already: sample without `denoise`, which would cost an evaluation.

    Raises, when it starts on a grid:
      ValueError: the grid has another number of steps.
    """
    n = len(table.linear)

    def coefficients(own):
        alpha = sde.alpha(own)
        cast = [a.astype(own.dtype) for a in (table.linear, table.weights)]
        zeros = jnp.zeros_like(cast[1])
        return Coefficients(
            alpha[1:] / alpha[:-1] * cast[0], alpha[1:, None] * cast[1], zeros[:, 0], zeros
        )

    steps = linear_multistep(sde, "x0", coefficients)

    def init(x, grid):
        if len(grid) != n + 1:
            raise ValueError(f"the learned sampler has {n} steps, and the grid {len(grid) - 1}")
        own = times(sde, table).astype(x.dtype)
        t_max = jnp.asarray(sde.t_max, own.dtype)
        start = table.start.astype(own.dtype) * sde.alpha(own[0]) / sde.alpha(t_max)
        scales = jnp.ones((n,), own.dtype).at[0].set(start)
        return jnp.zeros((), jnp.int32), own, scales, steps.init(x, own)

    def step(noise, denoiser, x, t, s, state):
        index, own, scales, inner = state
        x = scales[index] * x
        x, inner = steps.step(noise, denoiser, x, own[index], own[index + 1], inner)
        return x, (index + 1, own, scales, inner)

    return Solver(init, step)


def learned(sde: SDE, path: str) -> Solver:
    """The sampler in a file of `sampling.learn_solver.save` (Shaul et al. 2024, arXiv:2403.01329):

        x~_s = linear_i x~_t + sum_j weights_ij D_j        in step i

    One evaluation a step, deterministic, of no order: it takes the grid `learned` of the same file
    and no `denoise`. For the model that it was learned on, at 4 to 15 evaluations.

    Raises:
      ValueError: as `load`.
    """
    return solver(sde, load(path, sde))


def save(path: str | Path, table: Learned, **about: float | int | str) -> None:
    """Writes a table, and what is worth knowing about it, as JSON; every digit is kept."""
    arrays = jax.tree.map(lambda a: np.asarray(a, np.float64), table)
    rows = [row[: i + 1].tolist() for i, row in enumerate(arrays.weights)]
    fields = {"prior": float(arrays.prior), "log_snr": arrays.log_snr.tolist()}
    fields |= {"start": float(arrays.start), "linear": arrays.linear.tolist(), "weights": rows}
    content = {"format": _FORMAT, "about": about} | fields
    # a line for each field, and for each row of the weights
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
    for inline, broken in (("[[", "[\n    ["), ("], [", "],\n    ["), ("]]", "]\n  ]")):
        lines[-1] = lines[-1].replace(inline, broken)
    Path(path).write_text("{\n" + ",\n".join(lines) + "\n}\n")


def load(path: str | Path, sde: SDE, n: int | None = None) -> Learned:
    """The table in a file, as float64 or, without x64, float32 arrays.

    Raises:
      ValueError: there is no such file, it is not one of `save`, the process runs between other
        log-SNRs than the one it was learned for, or n is given and is not its number of steps.
    """
    table = _read(Path(path))
    steps = len(table.linear)
    if n is not None and n != steps:
        raise ValueError(f"{path} holds a sampler of {steps} steps, not of {n}")
    with jax.ensure_compile_time_eval():
        ends = np.asarray(sde.log_snr(jnp.asarray([sde.t_max, sde.t_min], float)))
        own = np.asarray([table.prior, table.log_snr[-1]])
        # float32 knows the log-SNR of a time to about 1e-4
        if not np.allclose(ends, own, rtol=0, atol=1e-3):
            raise ValueError(
                f"{path} was learned between the log-SNRs {own[0]:.4f} and {own[1]:.4f}, and "
                f"{sde} runs from {ends[0]:.4f} to {ends[1]:.4f}"
            )
        return jax.tree.map(lambda a: jnp.asarray(a, float), table)


def _read(path: Path) -> Learned:
    """The float64 table of a file, checked."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        content = json.loads(path.read_text())
        if content["format"] != _FORMAT:
            raise ValueError
        n = len(content["linear"])
        weights = np.zeros((n, n))
        for i, row in enumerate(content["weights"]):
            weights[i, : i + 1] = np.asarray(row, np.float64).reshape(i + 1)
        plain = [np.asarray(content[key], np.float64) for key in Learned._fields[:-1]]
        table = Learned(*plain, weights)
        shapes = [a.shape for a in table]
        finite = all(np.isfinite(a).all() for a in table)
        levels = np.concatenate([table.prior[None], table.log_snr])
        if (
            n < 1
            or len(content["weights"]) != n
            or shapes != [(), (n + 1,), (), (n,), (n, n)]
            or not finite
            or np.any(np.diff(levels[1:]) <= 0)
            or levels[1] < levels[0]
        ):
            raise ValueError
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise ValueError(f"{path} is not a file of a learned sampler") from None
    return table
