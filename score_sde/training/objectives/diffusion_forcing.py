"""Diffusion forcing: a noise level for each frame."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.model import Model
from score_sde.processes import SDE
from score_sde.training.objective import Batch, Loss, Objective
from score_sde.training.objectives.denoising import dropping, noise_error, noise_of
from score_sde.training.starts import Start
from score_sde.training.time_law import TimeLaw
from score_sde.training.weighting import Weighting, network_weight
from score_sde.types import Key, PyTree, as_pytree, expand

__all__ = ["diffusion_forcing"]  # what a config can name


def diffusion_forcing(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    weighting: Weighting,
    drop_cond: float = 0.0,
    together: float = 0.5,
    given: float = 0.0,
    init: Start | None = None,
) -> Objective:
    """Denoising of x [b, frames, ...] in which every frame has a time of its own (Chen et al. 2024,
    arXiv:2407.01392, alg. 1): the mean over frames f of

        w(t_f) / density(t_f) |F(c_in x_t, c_noise)_f - target_f|^2

    The network then gives E[x_0 | x_t] for any times t [b, frames], so that frames can be denoised
    one after another, or given (`solvers.pyramid`). Of the times, Loss has the mean.

    together: how often the frames of an example share one time, as in plain sampling.
    given: how often the first frames of an example, any number of them but all, are at t_min and
        have no loss: they are given, and the network learns to go on with them.
    drop_cond: as that of `denoising`.
    init: what training begins with, such as "image_network(workdir=DIR)" (`training.starts`).

    Raises:
      ValueError: one of the three is no probability.
    """
    for name, rate in (("together", together), ("given", given)):
        if not 0 <= rate <= 1:
            raise ValueError(f"{name}={rate} is not between 0 and 1")
    dropped = dropping(conditioner, drop_cond)
    sde, parametrization = model.sde, model.parametrization

    def losses(params, key, batch, training):
        if training is not None:
            key, batch = dropped(key, batch)
        key_time, key_noise, key_dropout = jax.random.split(key, 3)
        x_0 = batch["x"]
        drawn, learnt = _draw_times(key_time, time_law, sde, x_0, together, given)
        t = jnp.where(learnt, drawn, jnp.asarray(sde.t_min, drawn.dtype))
        z = noise_of(key_noise, batch)
        a, b = parametrization.target(sde.alpha(t), sde.sigma(t))
        target = expand(a, x_0) * x_0 + expand(b, x_0) * z
        dropout = None if training is None else key_dropout
        x_t = sde.noised(x_0, z, t)
        output = model.network(params, x_t, t, batch.get("cond"), dropout)
        square = (output[..., : x_0.shape[-1]] - target) ** 2
        error = jnp.mean(square, axis=tuple(range(2, x_0.ndim)))
        # of the drawn time: a law may never draw t_min
        weight = network_weight(weighting, parametrization, sde, drawn)
        weight = weight / time_law.density(sde, drawn)
        value = jnp.mean(weight * error, axis=1, where=learnt)
        return Loss(value, jnp.mean(drawn, axis=1))

    begin = None
    if init is not None:
        begin = jax.tree_util.Partial(_begun, as_pytree(init), as_pytree(model.init))
    return Objective(losses, noise_error(model), "noise_error", model.denoiser, init=begin)


def _begun(start: Start, init: Callable[..., PyTree], key: Key, batch: Batch) -> PyTree:
    """The parameters that training begins with."""
    return start(init(key, batch["x"], batch["cond"]))


def _draw_times(
    key: Key, law: TimeLaw, sde: SDE, like: Array, together: float, given: float
) -> tuple[Float[Array, "b frames"], Bool[Array, "b frames"]]:
    """The times of the frames as they are drawn, and which frames are to be learnt."""
    key_each, key_order, key_one, key_which, key_given, key_first = jax.random.split(key, 6)
    (b, frames), dtype = like.shape[:2], like.dtype
    each = law.sample(key_each, sde, b * frames, dtype)
    # those of a stratified law are in order
    each = jax.random.permutation(key_order, each).reshape(b, frames)
    one = law.sample(key_one, sde, b, dtype)[:, None]
    t = jnp.where(jax.random.bernoulli(key_which, together, (b, 1)), one, each)
    first = jax.random.randint(key_first, (b, 1), 1, max(frames, 2), jnp.int32)
    before = jnp.arange(frames, dtype=jnp.int32)[None] < jnp.minimum(first, frames - 1)
    return t, ~(before & jax.random.bernoulli(key_given, given, (b, 1)))
