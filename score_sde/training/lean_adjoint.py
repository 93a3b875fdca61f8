r"""Adjoint matching: the control of a sampler that leads to a tilted law, by regression.

A sampler's steps are `x_s = l x_t + w D(x_t, t) + n z`, with D of a frozen base. Another D moves
their means by delta = w (D - D_base). The D that maximises `E[r(x_0) - sum |delta|^2/(2 n^2)]`, in
the limit of short steps, draws from

    \int p(x_T) p(x_0 | x_T) e^{r(x_0) - V_T(x_T)} dx_T,    V_t(x) = ln E[e^{r(x_0)} | x_t = x]

with p the law of the base's paths. It is `D_base + 2 tau^2/(1 + tau^2) (sigma^2/alpha) grad V_t`.
Where x_0 and x_T are independent, V_T is a number and the law is `p(x_0) e^{r(x_0)}/Z`. The
stochasticity tau = 1 is as near to that as the process allows: there D is E[x_0 | x_t] of the
tilted law at every t, so that any solver takes it. On N(m, l) with a linear r the share of the
shift of the mean that is reached is `1 - (alpha_T^2 l/(alpha_T^2 l + sigma_T^2))^(tau^2)`.

The lean adjoint carries the gradient of the reward back through the base alone,

    a_0 = grad r(x_0),    a_t = (l + w dD_base/dx)^T a_s

along a path of the present D, without gradients through it. The optimum is the one D that has
`E[a_t | x_t]` in the place of grad V_t (Domingo-Enrich et al. 2024, arXiv:2409.08861, sec. 5). In
steps too: at tau = 1 the mean of a step is exact, and so is a_t of a linear r on a Gaussian law.
Gradients of the reward are not clipped: that would be another reward, with another optimum.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from score_sde.models.model import Model
from score_sde.models.rewards import Reward
from score_sde.processes import SDE
from score_sde.solvers.kernels import Kernels, kernels
from score_sde.training.objective import Batch, Loss, Training
from score_sde.training.steps import check_spans
from score_sde.training.time_law import TimeLaw
from score_sde.training.weighting import Weighting, network_weight
from score_sde.types import Cond, Denoiser, Grid, Key, PyTree, expand


def paths(
    key: Key, steps: Kernels, denoiser: Denoiser, x: Float[Array, "b ..."]
) -> Float[Array, "n_plus_1 b ..."]:
    """Paths of the sampler, from x at the first time to the last."""
    keys = jax.random.split(key, len(steps.start))

    def one(x, inputs):
        key, step = inputs
        z = jax.random.normal(key, x.shape, x.dtype)
        x = step.linear * x + step.weight * denoiser(x, step.start) + step.noise * z
        return x, x

    _, states = lax.scan(one, x, (keys, steps))
    return jnp.concatenate([x[None], states])


def adjoints(
    steps: Kernels,
    base: Denoiser,
    states: Float[Array, "n_plus_1 b ..."],
    gradient: Float[Array, "b ..."],
) -> tuple[Float[Array, "n b ..."], Float[Array, "n b ..."]]:
    """The lean adjoint and the base's D, both at the start of each step of paths.

    gradient: of the reward, at the end of the paths.
    """

    def back(a, inputs):
        x, step = inputs
        value, pull = jax.vjp(lambda x: base(x, step.start).astype(x.dtype), x)
        a = step.linear * a + step.weight * pull(a)[0]
        return a, (a, value)

    _, found = lax.scan(back, gradient, (states[:-1], steps), reverse=True)
    return found


def tilted(
    sde: SDE,
    steps: Kernels,
    tau: float,
    base: Denoiser,
    states: Float[Array, "n_plus_1 b ..."],
    gradient: Float[Array, "b ..."],
) -> Float[Array, "n b ..."]:
    """`D_base + 2 tau^2/(1 + tau^2) sigma^2/alpha a_t` at the start of each step of paths, whose
    mean given x_t is the D of the optimum."""
    a_t, value = adjoints(steps, base, states, gradient)
    gain = 2 * tau**2 / (1 + tau**2) * sde.sigma(steps.start) ** 2 / sde.alpha(steps.start)
    return value + expand(gain, value) * a_t


def matching(
    model: Model,
    *,
    time_law: TimeLaw,
    weighting: Weighting,
    steps: int,
    tau: float,
    times_per_path: int,
    anneal: int,
) -> Callable[[Callable[[Cond], Denoiser], Reward, PyTree, Key, Batch, Training | None], Loss]:
    """`(base, reward, params, key, batch, training) -> Loss`, of the network's output:

        E[ w(t) / density(t) |F - F(D_base + 2 tau^2/(1 + tau^2) sigma^2/alpha a_t)|^2 ]

    The batch says how many examples there are and their conditions; its x is not read. Every
    `times_per_path` examples are one path, which has the condition of the first of them. It is
    looked at at so many of its steps, one drawn in each of as many equal parts of them.

    time_law: the steps lie between its quantiles i/n (`steps.step_times`).
    steps, tau: of the sampler.
    anneal: over so many steps of training the reward grows from 0 to its own; 0 for none.

    Raises:
      ValueError: there are no steps, or fewer than times of a path; tau is not above 0; anneal is
        below 0; the quantiles of the law do not reach the ends of the process.
    """
    sde = model.sde
    _check(steps, times_per_path, anneal)
    check_spans(time_law, sde)
    kernels(sde, _times(time_law, model, steps, jnp.float32), tau)  # raises

    def losses(base, reward, params, key, batch, training):
        key_start, key_path, key_time, key_dropout = jax.random.split(key, 4)
        size, dtype = len(batch["x"]), batch["x"].dtype
        cond = batch.get("cond")
        of_path = jax.tree.map(lambda a: a[::times_per_path], cond)
        count = -(-size // times_per_path)
        chain = kernels(sde, _times(time_law, model, steps, dtype), tau)
        frozen = base(of_path)
        x_end = sde.prior_sample(key_start, (count, *batch["x"].shape[1:]), dtype)
        states = paths(key_path, chain, model.denoiser(params, of_path), x_end)
        states = lax.stop_gradient(states)
        gradient = jax.grad(lambda x: jnp.sum(reward(x)))(states[-1])
        if anneal and training is not None:
            now = jnp.asarray(training.step + 1, dtype)
            gradient = gradient * jnp.minimum(now / anneal, 1)
        wanted = tilted(sde, chain, tau, frozen, states, gradient)

        index = _drawn_steps(key_time, count, times_per_path, steps)[:size]
        path = jnp.arange(size) // times_per_path
        told = jax.tree.map(lambda a: a[path], of_path)
        dropout = None if training is None else key_dropout
        t, x_t, wanted = chain.start[index], states[index, path], wanted[index, path]
        error = _error(model, params, x_t, t, told, dropout, wanted)
        weight = network_weight(weighting, model.parametrization, sde, t)
        return Loss(weight / time_law.density(sde, t) * error, t)

    return losses


def _check(steps: int, times_per_path: int, anneal: int) -> None:
    """Raises a ValueError of numbers that do not fit each other."""
    if not 1 <= times_per_path <= steps:
        raise ValueError(
            f"times_per_path={times_per_path} must be from 1 to the number of steps, {steps}"
        )
    if anneal < 0:
        raise ValueError(f"anneal={anneal} is no number of steps: take 0 for none")


def _error(
    model: Model, params: PyTree, x_t: Array, t: Array, cond: Cond, key: Key | None, x_0: Array
) -> Float[Array, " b"]:
    """The mean square over dimensions of what the network's output lacks to mean the D x_0; with a
    key, dropout is on."""
    sde = model.sde
    a, b = model.parametrization.target(sde.alpha(t), sde.sigma(t))
    target = expand(a, x_t) * x_0 + expand(b, x_t) * sde.eps(x_t, t, x_0)
    output = model.network(params, x_t, t, cond, key)[..., : x_t.shape[-1]]
    square = (output - lax.stop_gradient(target)) ** 2
    return jnp.mean(square.reshape(len(x_t), -1), axis=1)


def _times(time_law: TimeLaw, model: Model, steps: int, dtype) -> Grid:
    """The ends of the steps, from t_max to t_min."""
    sde = model.sde
    found = time_law.quantile(sde, jnp.linspace(1, 0, steps + 1, dtype=dtype))
    return jnp.clip(found, sde.t_min, sde.t_max)


def _drawn_steps(key: Key, paths: int, each: int, steps: int) -> Array:
    """For every path `each` of the numbers of its steps, [paths * each]; every step is drawn
    equally often."""
    u = jax.random.uniform(key, (paths, 1))
    place = (u + jnp.arange(each, dtype=u.dtype)[None]) / each
    return jnp.minimum((place * steps).astype(jnp.int32), steps - 1).reshape(-1)
