"""Continuous-time consistency models: where a flow ends, by its derivative along the flow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.flow_map import angle, trig_slope
from score_sde.models.model import Model
from score_sde.processes import SDE, Time, derivative
from score_sde.training.objective import Batch, Loss, Objective
from score_sde.training.objectives.denoising import dropping, noise_error
from score_sde.training.objectives.uncertainty import weighed
from score_sde.training.teacher import Teacher, start_from
from score_sde.training.time_law import TimeLaw
from score_sde.types import Cond, Key, PyTree, expand

__all__ = ["scm"]  # what a config can name


def scm(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    teacher: Teacher | None = None,
    sigma_data: float = 0.5,
    warmup: int = 10_000,
    constant: float = 0.1,
    uncertain: bool = False,
    drop_cond: float = 0.0,
) -> Objective:
    """sCM (Lu & Song 2024, arXiv:2410.11081, alg. 1): consistency distillation with a teacher,
    consistency training without one, in continuous time and on any Gaussian process.

    In TrigFlow (`models.flow_map.trig_flow`) the end of the flow is D = cos x - sin sigma_data F of
    the network. With the angle phi and r = min(1, step/warmup),

        g = -cos^2 (sigma_data F - dx/dphi) - r cos sin (x + sigma_data dF/dphi)
        E[ |F - stop_gradient(F + g/(|g| + c))|^2 ],    a mean over dimensions

    where dx/dphi and dF/dphi are along the flow of the teacher, or along the arc through x_0 and z.
    At r = 1 g is cos dD/dphi, 0 for the exact D and teacher. On the arc its mean is 0, but the |g|
    below it moves the fixed point, as `distances.adaptive` does. cos sin d/dphi is the derivative
    by ln(sigma/alpha): so it is computed, and stays finite.

    The paper's law of t is log_normal(mean=-1.0, std=1.4). The result gives a jump to the end:
    sample with flow_map(gamma=1.0). The change of `c_noise` with ln(sigma/alpha) must be moderate:
    take quarter_log_sigma, or time(scale=1.0) on a rectified flow.

    warmup: H. (Of the public codes NVlabs/FastGen has this formula, and NVlabs/rcm has
        sqrt(1 - r^2 sin^2) in the place of the first cos.)
    constant: c, for the norm over all dimensions.
    uncertain: whether the network's `log_variance` weighs the noise levels (eq. 8; `uncertainty`).
    drop_cond: as in `denoising`.

    Raises:
      ValueError: drop_cond is no probability; warmup is below 1; uncertain, and the network has no
        `log_variance`.
    """
    if warmup < 1:
        raise ValueError(f"warmup must be at least 1, not {warmup}")
    dropped, sde = dropping(conditioner, drop_cond), model.sde

    def losses(teacher, params, key, batch, training):
        dropout, ramp = None, jnp.ones(())
        if training is not None:
            key, batch = dropped(key, batch)
            key, dropout = jax.random.split(key)
            ramp = jnp.minimum(jnp.asarray(training.step, jnp.float32) / warmup, 1)
        path, cond = draw(key, teacher, sde, time_law, batch), batch.get("cond")
        f, g = tangent(model, params, *path, sigma_data, ramp=ramp, cond=cond, dropout=dropout)
        return Loss(towards(f, g, constant), path[1])

    return Objective(
        jax.tree_util.Partial(weighed(model, losses) if uncertain else losses, teacher),
        noise_error(model),
        "noise_error",
        model.flow_map,
        gives="jump",
        init=None if teacher is None else start_from(teacher, model),
    )


def draw(
    key: Key, teacher: Teacher | None, sde: SDE, time_law: TimeLaw, batch: Batch
) -> tuple[Array, Time, Array, Array]:
    """x_t, t, and the data and noise as which x_t moves: those of the example, or what the teacher
    takes them for."""
    key_time, key_noise = jax.random.split(key)
    x_0 = batch["x"]
    t = time_law.sample(key_time, sde, len(x_0), x_0.dtype)
    z = jax.random.normal(key_noise, x_0.shape, x_0.dtype)
    x_t = sde.noised(x_0, z, t)
    if teacher is None:
        return x_t, t, x_0, z
    clean = teacher(batch["cond"])(x_t, t)
    return x_t, t, clean, sde.eps(x_t, t, clean)


def towards(
    f: Float[Array, "b ..."], g: Float[Array, "b ..."], constant: float
) -> Float[Array, " b"]:
    """The loss of each example, whose gradient by F is in the direction of -g."""
    norm = jnp.linalg.norm(g.reshape(len(g), -1), axis=1)
    target = lax.stop_gradient(f + g / expand(norm + constant, g))
    return jnp.mean(((f - target) ** 2).reshape(len(f), -1), axis=1)


def tangent(
    model: Model,
    params: PyTree,
    x_t: Array,
    t: Time,
    x_0: Array,
    z: Array,
    sigma_data: float,
    *,
    ramp: Array | float = 1.0,
    cond: Cond | None = None,
    dropout: Key | None = None,
) -> tuple[Float[Array, "b ..."], Float[Array, "b ..."]]:
    """F and g at x_t, which moves as alpha x_0 + sigma z does. ramp: r."""
    sde, ramp = model.sde, jnp.asarray(ramp, x_t.dtype)
    f, change = by_log_sigma(
        sde, trig_slope(model, params, sigma_data, cond, dropout), x_t, t, x_0, z
    )
    phi = angle(sde, t, sigma_data)
    cos, sin = expand(jnp.cos(phi), x_t), expand(jnp.sin(phi), x_t)
    x, dx = cos * x_0 + sin * sigma_data * z, cos * sigma_data * z - sin * x_0
    slow = cos**2 * (sigma_data * f - dx)
    return f, -slow - ramp * (cos * sin * x + sigma_data * change)


def by_log_sigma(
    sde: SDE, function, x_t: Array, t: Time, x_0: Array, z: Array
) -> tuple[Array, Array]:
    """`function(x_t, t)` and its derivative by ln(sigma/alpha) where x_t moves as alpha x_0 +
    sigma z."""
    rate = -2 / derivative(sde.log_snr, t)  # dt/dln(sigma/alpha)
    moves = expand(derivative(sde.alpha, t) * rate, x_t) * x_0
    moves += expand(derivative(sde.sigma, t) * rate, x_t) * z
    return jax.jvp(function, (x_t, t), (moves, rate))
