"""Methods that replace the known part of x_t by y with the noise of t."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array

from score_sde.inverse.method import Method
from score_sde.inverse.observation import Observation, known
from score_sde.processes import SDE
from score_sde.solvers.exponential import noise_level, noise_level_at
from score_sde.types import Solver, counted

__all__ = ["repaint", "replacement"]


def replacement(sde: SDE, observation: Observation) -> Method:
    """Replacement (Song et al. 2021, app. I.2): before every step the known coefficients c of
    V^T x_t become those of y with the noise of t. With the errors noise/s of y,

        c = alpha y/s + sqrt(sigma^2 - (alpha noise/s)^2) z     where alpha noise/s <= sigma

    Where y is noisier than x_t, c is left as it is. Changes the solver; linear A, any solver. It is
    biased even in the limit: only the known part of x_t is drawn given y, and the rest adapts too
    late. The last step leaves the known part to the denoiser: apply `consistent` after it.

    Raises:
      ValueError: A has no SVD.
    """
    seen = known(observation, "replacement")

    def change(solver):
        def step(noise, denoiser, x, t, s, state):
            alpha, sigma = sde.alpha(t), sde.sigma(t)
            room = sigma**2 - (alpha * seen.std) ** 2
            z = seen.svd.right(noise.fold(1)(t, s, x.shape))
            c = alpha * seen.mean + jnp.sqrt(jnp.maximum(room, 0)) * z
            x = seen.put(x, jnp.where(room >= 0, c, seen.svd.right(x)))
            return solver.step(noise, denoiser, x, t, s, state)

        return Solver(solver.init, step, solver.nfe)

    return Method(solver=change)


def repaint(
    sde: SDE, observation: Observation, resamplings: int = 10, jump_steps: int = 1
) -> Method:
    """RePaint (Lugmayr et al. 2022, arXiv:2201.09865, alg. 1): `replacement` with `resamplings`
    passes over every step of the grid, and noise between the passes that carries x back.

    jump_steps: a step of the grid is a jump, and takes so many steps of the solver, equal in
    log-SNR. Changes the solver, which starts anew in every pass and takes resamplings * jump_steps
    steps for each one of the grid. As in a Gibbs sampler, the passes make the unknown part agree
    with the known part. The paper has no noise in y. With noise, only steps that begin where x_t is
    noisier than y in all known coefficients are repeated: further passes would forget y.

    Raises:
      ValueError: A has no SVD, or a number is less than 1.
    """
    if min(resamplings, jump_steps) < 1:
        raise ValueError(
            f"repaint needs resamplings and jump_steps of at least 1, not {resamplings}, "
            f"{jump_steps}"
        )
    lowest = jnp.max(known(observation, "repaint").std)
    replaced = replacement(sde, observation).solver

    def change(solver):
        return _resampling(sde, replaced(solver), resamplings, jump_steps, lowest)

    return Method(solver=change)


def _resampling(sde: SDE, solver: Solver, passes: int, jump_steps: int, lowest: Array) -> Solver:
    """Takes `passes` over each step of a grid that begins where sigma/alpha is at least `lowest`,
    and one over the others. Each pass has `jump_steps` steps of the solver."""

    def init(x, times):
        zero = jnp.zeros((), jnp.int32)
        return jnp.zeros_like(solver.nfe(solver.init(x, times))) if solver.nfe else zero

    def step(noise, denoiser, x, t, s, nfe):
        counting, count = counted(denoiser)
        start, end = noise_level(sde, t), noise_level(sde, s)
        inner = noise_level_at(sde, jnp.linspace(start.lam, end.lam, jump_steps + 1)[1:-1]).t
        times = jnp.concatenate([t[None], inner, s[None]])
        ratio = start.alpha / end.alpha
        added = start.sigma * jnp.sqrt(-jnp.expm1(2 * (start.lam - end.lam)))

        def down(noise, x):
            def inner_step(carry, ends):
                x, state = carry
                return solver.step(noise, counting, x, *ends, state), None

            begin = x, solver.init(x, times)
            (x, state), _ = jax.lax.scan(inner_step, begin, (times[:-1], times[1:]))
            return x, solver.nfe(state) if solver.nfe else jnp.int32(jump_steps * count())

        def once(i, carry):
            x, _, nfe = carry
            of_pass = noise.fold(i)
            x, used = down(of_pass, x)
            back = ratio * x + added * of_pass.fold(2)(t, s, x.shape)
            return back, x, nfe + used

        repeats = jnp.where(start.sigma >= start.alpha * lowest, passes, 1)
        _, x, nfe = jax.lax.fori_loop(0, repeats, once, (x, x, nfe))
        return x, nfe

    return Solver(init, step, lambda nfe: nfe)
