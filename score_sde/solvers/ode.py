"""The probability-flow ODE by diffrax, which controls the steps of every sample by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.processes import SDE, derivative
from score_sde.solvers.exponential import check_ends
from score_sde.types import Denoiser, PyTree, Solver

__all__ = ["probability_flow"]

SAMPLES = "samples"


def probability_flow(
    sde: SDE,
    rtol: Float[Array, ""] | float = 1e-5,
    atol: Float[Array, ""] | float = 1e-5,
    method: str = "Dopri5",
    max_steps: int = 4096,
) -> Solver:
    """The probability-flow ODE (Song et al. 2021, eq. 13) with adaptive steps:

        dx/dt = alpha'(t) D + sigma'(t) eps        (= f x - g^2 score / 2)

    method: any explicit solver of diffrax by name ("Dopri5", "Tsit5", "Dopri8", "Bosh3", ...). It
        gives the order and the evaluations of a step.

    Deterministic. `sample` reports the evaluations of each sample. It solves the whole grid at
    once; only a trajectory takes it interval by interval, each in three or more steps. A sample
    that needs more than max_steps becomes NaN. For a wanted error of 1e-4 or less; `dpm_adaptive`
    is cheaper for a larger one.

    Raises:
      ValueError: diffrax has no explicit solver of that name, or the log-SNR of the process is
        infinite at an end.
    """
    _method(method)  # an unknown name is an error now, not when the solver first runs
    check_ends(sde, "the probability-flow ODE in the log-SNR")

    def init(x, times):
        return jnp.zeros(x.shape[:1], jnp.int32)

    def step(noise, denoiser, x, t, s, nfe):
        field = velocity(sde, together(denoiser))

        def solve(x):
            return integrate(sde, field, x, t, s, rtol, atol, method, max_steps)

        x, used = jax.vmap(solve, axis_name=SAMPLES)(x)
        return x, nfe + used

    return Solver(init, step, nfe=lambda nfe: nfe, adaptive=True)


def together(denoiser: Denoiser) -> Denoiser:
    """A denoiser [1, ...] to be called within a `vmap` over the axis SAMPLES.

    It evaluates all examples at once. A denoiser that has closed over conditions [b] could not tell
    which of them belongs to a single example.
    """

    def one(x, t):
        xs, ts = jax.lax.all_gather((x[0], t[0]), SAMPLES)
        return denoiser(xs, ts)[jax.lax.axis_index(SAMPLES)][None]

    return one


def velocity(sde: SDE, denoiser: Denoiser) -> Callable:
    """dx/dt of a single example, `(t [], x [...]) -> [...]`."""

    def field(t, x):
        x, t = x[None], t[None]
        return sde.velocity(x, t, denoiser(x, t))[0]

    return field


def integrate(
    sde: SDE,
    field: Callable,
    y: PyTree,
    t: jax.Array,
    s: jax.Array,
    rtol: Float[Array, ""] | float = 1e-5,
    atol: Float[Array, ""] | float = 1e-5,
    method: str = "Dopri5",
    max_steps: int = 4096,
) -> tuple[PyTree, jax.Array]:
    """Solves dy/dt = field(t, y) from t to s for one example; returns y(s) and the evaluations.

    The variable of integration is u = ln(sigma/alpha). In it the probability flow of every process
    is about equally smooth everywhere; in t it is nearly singular at t_min.

    Raises:
      ValueError: diffrax has no explicit solver of that name.
    """
    import diffrax  # here, since that takes as long as the import of JAX

    solver = _method(method)

    def time(u):
        return sde.t_of_log_snr(-2 * u)

    def field_of_u(u, y, args):
        rate = derivative(time, u)
        return jax.tree.map(lambda dy: rate * dy, field(time(u), y))

    start, end = -sde.log_snr(t) / 2, -sde.log_snr(s) / 2
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field_of_u),
        solver,
        t0=start,
        t1=end,
        dt0=(end - start) / 100,
        y0=y,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
        throw=False,
    )
    failed = solution.result != diffrax.RESULTS.successful
    y = jax.tree.map(lambda a: jnp.where(failed, jnp.nan, a[0]), solution.ys)
    # FSAL, "first same as last": a step's last stage is the first of the next.
    tableau = solver.tableau
    reused = 1 if tableau.fsal else 0
    nfe = (tableau.num_stages - reused) * solution.stats["num_steps"] + reused
    return y, nfe


def _method(name: str) -> Any:
    """diffrax's explicit solver of that name."""
    import diffrax

    known = {
        key: value
        for key, value in vars(diffrax).items()
        if isinstance(value, type)
        and issubclass(value, diffrax.AbstractERK)
        and not key.startswith("Abstract")
    }
    if name not in known:
        raise ValueError(f"unknown ODE method {name!r}: one of {', '.join(sorted(known))}")
    return known[name]()
