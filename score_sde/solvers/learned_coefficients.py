"""A learned sampler: its times and step coefficients, and the file that holds them.

With x~ = x/alpha, the first input is the start scaled to its noise level. Every later input is any
linear combination of what is known by then:

    x~_0 = start x~_T      x~_{i+1} = linear_i x~_i + sum_{j <= i} weights_ij D(x_{i-j}, t_{i-j})

This is the most general linear sampler of n evaluations, the non-stationary solvers of Shaul et al.
2024 (arXiv:2403.01329, eq. 12). In x~ and the log-SNR all processes are one (Karras et al. 2022,
sec. 2), so the coefficients serve every process that runs between the same two log-SNRs.
`score_sde/sampling/learn_solver.py` learns them.
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
from score_sde.runtime import json_file
from score_sde.solvers.multistep import Coefficients, linear_multistep
from score_sde.types import Grid, Solver

__all__ = ["learned"]  # what a config can name

_FORMAT = "score_sde learned sampler, version 1"


class LearnedCoefficients(NamedTuple):
    """The numbers of a sampler of n steps.

    prior: the log-SNR of t_max, where samples start.
    log_snr: that of the n evaluations and of the end, increasing.
    start, linear, weights: see above. Row i of weights is newest first, 0 beyond its i + 1 entries.
    """

    prior: Float[Array, ""]
    log_snr: Float[Array, " n_plus_1"]
    start: Float[Array, ""]
    linear: Float[Array, " n"]
    weights: Float[Array, "n n"]


def times(sde: SDE, numbers: LearnedCoefficients) -> Grid:
    """The times of the n evaluations, from t_max or below it, and t_min."""
    inner = sde.t_of_log_snr(numbers.log_snr[:-1])
    from_prior = numbers.log_snr[0] == numbers.prior
    first = jnp.where(from_prior, sde.t_max, inner[0]).astype(inner.dtype)
    return jnp.concatenate([first[None], inner[1:], jnp.full((1,), sde.t_min, inner.dtype)])


def solver(sde: SDE, numbers: LearnedCoefficients) -> Solver:
    """The solver of these numbers, for x at t_max.

    It has its own times, and takes from the grid only the number of steps, which must be n. Its end
    is E[x_0 | x] already: sample without `denoise`, which would cost an evaluation.

    Raises, when it starts on a grid:
      ValueError: the grid has another number of steps.
    """
    n = len(numbers.linear)

    def coefficients(own):
        alpha = sde.alpha(own)
        linear, weights = (a.astype(own.dtype) for a in (numbers.linear, numbers.weights))
        zeros = jnp.zeros_like(weights)
        return Coefficients(
            alpha[1:] / alpha[:-1] * linear, alpha[1:, None] * weights, zeros[:, 0], zeros
        )

    steps = linear_multistep(sde, "x0", coefficients)

    def init(x, grid):
        if len(grid) != n + 1:
            raise ValueError(f"the learned sampler has {n} steps, and the grid {len(grid) - 1}")
        own = times(sde, numbers).astype(x.dtype)
        t_max = jnp.asarray(sde.t_max, own.dtype)
        start = numbers.start.astype(own.dtype) * sde.alpha(own[0]) / sde.alpha(t_max)
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


def save(path: str | Path, numbers: LearnedCoefficients, **about: float | int | str) -> None:
    """Writes the numbers, with every digit, and facts about them, as JSON."""
    arrays = jax.tree.map(lambda a: np.asarray(a, np.float64), numbers)
    rows = [row[: i + 1].tolist() for i, row in enumerate(arrays.weights)]
    fields = {"prior": float(arrays.prior), "log_snr": arrays.log_snr.tolist()}
    fields |= {"start": float(arrays.start), "linear": arrays.linear.tolist(), "weights": rows}
    content = {"format": _FORMAT, "about": about} | fields
    # a line for each field, and for each row of the weights
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
    for inline, broken in (("[[", "[\n    ["), ("], [", "],\n    ["), ("]]", "]\n  ]")):
        lines[-1] = lines[-1].replace(inline, broken)
    Path(path).write_text("{\n" + ",\n".join(lines) + "\n}\n")


def load(path: str | Path, sde: SDE, n: int | None = None) -> LearnedCoefficients:
    """The numbers in a file, as float64 or, without x64, float32 arrays.

    Raises:
      ValueError: there is no such file, `save` did not write it, the process runs between other
        log-SNRs than those it was learned for, or it has not n steps.
    """
    numbers = _read(Path(path))
    steps = len(numbers.linear)
    if n is not None and n != steps:
        raise ValueError(f"{path} holds a sampler of {steps} steps, not of {n}")
    with jax.ensure_compile_time_eval():
        ends = np.asarray(sde.log_snr(jnp.asarray([sde.t_max, sde.t_min], float)))
        own = np.asarray([numbers.prior, numbers.log_snr[-1]])
        # float32 knows the log-SNR of a time to about 1e-4
        if not np.allclose(ends, own, rtol=0, atol=1e-3):
            raise ValueError(
                f"{path} was learned between the log-SNRs {own[0]:.4f} and {own[1]:.4f}, and "
                f"{sde} runs from {ends[0]:.4f} to {ends[1]:.4f}"
            )
        return jax.tree.map(lambda a: jnp.asarray(a, float), numbers)


def _read(path: Path) -> LearnedCoefficients:
    """The float64 numbers of a file, checked."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        content = json_file.read(path)
        if content["format"] != _FORMAT:
            raise ValueError
        n = len(content["linear"])
        weights = np.zeros((n, n))
        for i, row in enumerate(content["weights"]):
            weights[i, : i + 1] = np.asarray(row, np.float64).reshape(i + 1)
        fields = LearnedCoefficients._fields[:-1]
        plain = [np.asarray(content[field], np.float64) for field in fields]
        numbers = LearnedCoefficients._make([*plain, weights])
        log_snrs = np.concatenate([numbers.prior[None], numbers.log_snr])
        if (
            n < 1
            or len(content["weights"]) != n
            or [a.shape for a in numbers] != [(), (n + 1,), (), (n,), (n, n)]
            or not all(np.isfinite(a).all() for a in numbers)
            or np.any(np.diff(log_snrs[1:]) <= 0)
            or log_snrs[1] < log_snrs[0]
        ):
            raise ValueError
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
        raise ValueError(f"{path} is not a file of a learned sampler") from None
    return numbers
