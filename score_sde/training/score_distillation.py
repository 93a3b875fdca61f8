"""Score distillation: parameters whose renderings a model finds likely, such as those of an object
in 3-D that a model of pictures judges from many sides."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

from score_sde.processes import SDE
from score_sde.training.time_law import TimeLaw
from score_sde.training.weighting import Weighting
from score_sde.types import Denoiser, Key, PyTree, expand


class View(NamedTuple):
    """What parameters look like from somewhere.

    x: [b, ...], a differentiable function of the parameters.
    denoiser: of the model, told what it is to see there.
    own: the denoiser of the law of the x themselves, for VSD; None for SDS.
    """

    x: Float[Array, "b ..."]
    denoiser: Denoiser
    own: Denoiser | None = None


def losses(
    key: Key, sde: SDE, view: View, *, time_law: TimeLaw, weighting: Weighting
) -> Float[Array, " b"]:
    """The weighted denoising loss of x, whose gradient leaves out that of the denoisers:

        dL/dx = w(t) (alpha^2 + sigma^2)^2/sigma^2 (D_own(x_t) - D(x_t)),   x_t = alpha x + sigma z

    with the weighting w over the density of the law of t. SDS has D_own = x (DreamFusion, Poole et
    al. 2022, arXiv:2209.14988, eq. 3): since alpha (x - D) = sigma (E[z | x_t] - z), that is its
    `w (z^ - z)`, and with the weighting "simple" its w is alpha/sigma. It looks for x of high
    density, so for a Gaussian it ends at the mean. VSD has the D_own of the law of all x
    (ProlificDreamer, Wang et al. 2023, arXiv:2305.16213, eq. 9): it ends where this law is that of
    the model.
    """
    key_time, key_noise = jax.random.split(key)
    x = view.x
    t = time_law.sample(key_time, sde, len(x), x.dtype)
    x_t = sde.perturb(key_noise, lax.stop_gradient(x), t)
    own = x if view.own is None else view.own(x_t, t)
    away = lax.stop_gradient(own - view.denoiser(x_t, t))
    # the value is 1/2 |away|^2 and the gradient with respect to x is `away`
    square = (x - lax.stop_gradient(x) + away) ** 2
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    weight = weighting(sde, t) / time_law.density(sde, t) * ((alpha**2 + sigma**2) / sigma) ** 2
    return jnp.sum((expand(weight, x) * square).reshape(len(x), -1), axis=1) / 2


def distil(
    key: Key,
    sde: SDE,
    render: Callable[[Key, PyTree], View],
    params: PyTree,
    *,
    time_law: TimeLaw,
    weighting: Weighting,
    optimizer: optax.GradientTransformation,
    steps: int,
) -> tuple[PyTree, Float[Array, " steps"]]:
    """The parameters after so many steps of the optimiser on `losses`, and the mean loss at each.

    render: what the parameters look like, from a side that the key chooses.
    """

    def mean(params, key):
        key_view, key_loss = jax.random.split(key)
        view = render(key_view, params)
        return jnp.mean(losses(key_loss, sde, view, time_law=time_law, weighting=weighting))

    def step(carry, key):
        params, state = carry
        loss, gradient = jax.value_and_grad(mean)(params, key)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes floats and integer counts
            updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), loss

    start = params, optimizer.init(params)
    (params, _), found = lax.scan(step, start, jax.random.split(key, steps))
    return params, found
