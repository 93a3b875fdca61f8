"""Denoising together with a learned variance of the steps."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.model import Model
from score_sde.processes import posterior
from score_sde.training.objective import Loss, Objective
from score_sde.training.objectives.denoising import drawing, noise_error
from score_sde.training.time_law import TimeLaw
from score_sde.training.weighting import Weighting, network_weight
from score_sde.types import expand

__all__ = ["hybrid"]  # what a config can name

_FAR = 1e4  # standard deviations: the outermost values of a pixel reach to infinity


def hybrid(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    weighting: Weighting,
    drop_cond: float = 0.0,
    bound_weight: float = 1e-3,
    values: int = 256,
) -> Objective:
    """`L_simple + lambda L_vlb` (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 16), for a network
    with 2 c channels on a chain, the process DDPM.

    L_simple is `denoising` with the mean over dimensions. L_vlb is the variational bound of the
    chain, the sum of its terms L_i, in bits/dim as in the authors' code. An example's loss has the
    term of the step that was drawn, times num_steps. At step i > 0 and at step 0, in nats,

        L_i = KL( q(x_{i-1} | x_i, x_0) || N(mean from D, exp(log variance from v)) )
        L_0 = -ln P(value of x_0), by N(D, exp(log variance from v))        (`decoder`)

    No gradient of it reaches the mean: it trains v alone. The result is a Moments, for
    `ancestral(variance="learned")`.

    bound_weight: lambda.
    values: of a pixel; the data lie in [-1, 1].

    Raises:
      ValueError: the process is no chain, or time_law draws between its steps; bound_weight is
        below 0, or drop_cond no probability; in training, the network has not 2 c channels.
    """
    count = getattr(model.sde, "num_steps", None)
    if count is None:
        raise ValueError(f"{model.sde} has no num_steps; a variance is learnt on a chain, DDPM")
    if bound_weight < 0:
        raise ValueError(f"bound_weight must be at least 0, not {bound_weight}")
    with jax.ensure_compile_time_eval():
        steps = np.asarray(time_law.quantile(model.sde, jnp.linspace(0.0, 0.99, 50))) * (count - 1)
    if not np.allclose(steps, np.round(steps), atol=1e-2):
        raise ValueError(f"time_law must draw steps of the chain: grid_points(num_steps={count})")
    draw = drawing(model, conditioner, time_law, drop_cond)

    def losses(params, key, batch, training):
        t, predicted = draw(params, key, batch, training)
        x_0, sde = batch["x"], model.sde
        if predicted.output.shape != (*x_0.shape[:-1], 2 * x_0.shape[-1]):
            raise ValueError(
                f"the network gives {predicted.output.shape[-1]} channels for the "
                f"{x_0.shape[-1]} of the data, and this objective needs twice as many: set "
                "net.learn_variance=True"
            )
        weight = network_weight(weighting, model.parametrization, sde, t)
        simple = weight * jnp.mean(predicted.square(), axis=1)

        output, v = jnp.split(predicted.output, 2, axis=-1)
        c_skip, c_out, _ = model.parametrization.scales(sde.alpha(t), sde.sigma(t))
        mean = expand(c_skip, x_0) * predicted.x_t + expand(c_out, x_0) * lax.stop_gradient(output)
        nats = bound_terms(model, count, values, x_0, t, mean, v)
        bits = jnp.mean(nats.reshape(len(x_0), -1), axis=1) / math.log(2)
        loss = simple + bound_weight * count * bits
        return Loss(loss / time_law.density(sde, t), t)

    return Objective(losses, noise_error(model), "noise_error", model.moments, gives="moments")


def bound_terms(
    model: Model,
    count: int,
    values: int,
    x_0: Float[Array, "b ..."],
    t: Float[Array, " b"],
    denoised: Float[Array, "b ..."],
    v: Float[Array, "b ..."],
) -> Float[Array, "b ..."]:
    """The term of the variational bound at the step of each time, nats of each dimension.

    count: of the steps of the chain, step i at t = i/(count - 1). denoised: D at t. v: what the
    network says of the variance.
    """
    step = jnp.round(t * (count - 1))
    first = step == 0
    # step 0 has no step before it; its smaller variance is that of step 1
    step = jnp.maximum(step, 1)
    of_step = posterior(model.sde, step / (count - 1), (step - 1) / (count - 1))
    log_variance = of_step.interpolated(v)
    gap = expand(of_step.from_x0, x_0) * (x_0 - denoised)
    kl = gaussian_kl(gap, expand(of_step.log_variance, x_0), log_variance)

    log_beta = 2 * jnp.log(model.sde.sigma(jnp.zeros_like(t)))
    at_zero = of_step._replace(log_transition=log_beta).interpolated(v)
    first = expand(first, x_0)
    mean = jnp.where(first, denoised, x_0)  # elsewhere D may be far enough to overflow
    return jnp.where(first, decoder(x_0, mean, at_zero, values), kl)


def gaussian_kl(gap: Array, log_variance: Array, of_model: Array) -> Array:
    """KL(N(m, e^l) || N(m + gap, e^l')) of each dimension, nats, l' = of_model."""
    difference = of_model - log_variance
    return (difference + jnp.expm1(-difference) + gap**2 * jnp.exp(-of_model)) / 2


def decoder(x_0: Array, mean: Array, log_variance: Array, values: int) -> Array:
    """-ln of the probability that N(mean, e^l) gives the interval of a pixel's value, nats (Ho et
    al. 2020, arXiv:2006.11239, eq. 13).

    A value of `values` equal steps in [-1, 1] owns half a step on either side; the first and the
    last reach to infinity.
    """
    std, half = jnp.exp(log_variance / 2), 1 / (values - 1)
    low = jnp.where(x_0 < -1 + half, -_FAR, (x_0 - half - mean) / std)
    high = jnp.where(x_0 > 1 - half, _FAR, (x_0 + half - mean) / std)
    # ln(Phi(high) - Phi(low)) in the lower tail, where it keeps its digits
    flip = low + high > 0
    low, high = jnp.where(flip, -high, low), jnp.where(flip, -low, high)
    return -(log_ndtr(high) + jnp.log(-jnp.expm1(log_ndtr(low) - log_ndtr(high))))
