"""Restart: solves the ODE, adds some of the noise again, and solves that part again."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from score_sde.processes import SDE
from score_sde.solvers.exponential import noise_level, noise_level_at
from score_sde.solvers.runge_kutta import heun
from score_sde.types import Solver, counted

__all__ = ["restart"]


def restart(
    sde: SDE,
    s_min: float = 0.06,
    s_max: float = 0.3,
    repeats: int = 2,
    steps: int = 3,
    rho: float = 7.0,
) -> Solver:
    """Restart sampling (Xu et al. 2023, arXiv:2306.14878, alg. 1): `heun`, and at the end of the
    first step with rho_s <= s_min, `repeats` times,

        x~' = x~_s + sqrt(s_max^2 - rho_s^2) z
        x~_s by `heun` from x' at s_max, in `steps` steps equal in (sigma/alpha)^(1/rho)

    Order 2 in both step sizes, two evaluations a step and 2 * repeats * steps more, stochastic. The
    noise contracts the errors that the first descent left: for 20 to 60 evaluations, where more
    steps of the ODE no longer help.

    Raises:
      ValueError: s_min is not below s_max, or repeats or steps is less than 1.
    """
    if not 0 < s_min < s_max:
        raise ValueError(f"restart needs 0 < s_min < s_max, not s_min={s_min}, s_max={s_max}")
    if repeats < 1 or steps < 1:
        raise ValueError(f"restart needs repeats and steps of at least 1, not {repeats}, {steps}")
    solver = heun(sde)

    def init(x, times):
        return jnp.zeros((), jnp.int32)

    def step(noise, denoiser, x, t, s, nfe):
        start, end = noise_level(sde, t), noise_level(sde, s)
        counting, count = counted(denoiser)
        x, _ = solver.step(noise, counting, x, t, s, ())
        lowest = jnp.log(jnp.asarray(s_min, x.dtype))
        here = (-end.lam <= lowest) & (lowest < -start.lam)
        top = noise_level_at(sde, -jnp.log(jnp.asarray(s_max, x.dtype)))
        roots = jnp.linspace(jnp.exp(-top.lam / rho), jnp.exp(-end.lam / rho), steps + 1)
        times = sde.t_of_log_snr(-2 * rho * jnp.log(roots)).at[jnp.array([0, -1])].set([top.t, s])

        def once(x, i):
            ratio = top.alpha / end.alpha
            added = top.sigma * jnp.sqrt(-jnp.expm1(2 * (top.lam - end.lam)))
            x = ratio * x + added * noise.fold(i)(t, s, x.shape)

            def inner(x, ends):
                return solver.step(noise, denoiser, x, *ends, ())[0], None

            return jax.lax.scan(inner, x, (times[:-1], times[1:]))[0], None

        x = jax.lax.cond(here, lambda: jax.lax.scan(once, x, jnp.arange(repeats))[0], lambda: x)
        return x, nfe + count() * (1 + jnp.where(here, repeats * steps, 0))

    return Solver(init, step, nfe=lambda nfe: nfe)
