"""Bridge matching: from one data set to another through noise."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from score_sde.conditioning.conditioner import Conditioner
from score_sde.conditioning.starts import START
from score_sde.models.model import Model
from score_sde.processes import finite_log_snr
from score_sde.processes.two_ends import noise_between
from score_sde.training.objective import Loss, Objective, law_now
from score_sde.training.objectives.denoising import (
    Prediction,
    drawing,
    noise_of,
    with_noise,
)
from score_sde.training.objectives.interpolant import start_of
from score_sde.training.time_law import TimeLaw
from score_sde.training.weighting import Weighting, network_weight
from score_sde.types import Ends

__all__ = ["bridge_matching"]  # what a config can name


def bridge_matching(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    weighting: Weighting,
    drop_cond: float = 0.0,
    second: str | None = None,
) -> Objective:
    """Bridge matching (Peluchetti 2021; Shi et al. 2023, arXiv:2303.16852; I2SB, Liu et al. 2023,
    arXiv:2302.05872): `denoising` with the bridges of a process between x_0 and x_1 in the place of
    its noise (`processes.two_ends`),

        E_{t ~ law} [ w(t) / density(t) |F(c_in x_t, c_noise) - target|^2 ],
        x_t = a x_0 + b x_1 + c z = alpha x_0 + sigma n,    target = the prediction of x_0 and n

    With the prediction "eps" and the weighting "simple" it is the loss of I2SB. x_1 is the
    condition "start" of the conditioner `starts`, and samples begin there.

    **The pairing.** The result is a Markov process with the right laws at all times, so at the end
    too. But x_0 and x_1 are paired as that process pairs them, and not as the data were, unless
    they were paired by the plan of the Schroedinger bridge (`data.augment`, "entropic"). A network
    that is told x_1, `starts(given=True)` and `net.cond_channels`, keeps every pairing.

    The result is E[x_0 | x_t] of the bridges. Only solvers that draw all of the noise of the
    reverse SDE are right with it, such as `ancestral` and `dpmpp_sde`.

    second: where E[x_1 | x_t] comes from, of which the solver `bridge` makes every other drift,
        such as that of the ODE. "told": it is x_1, for a network that is told x_1. "learnt": the
        network has 2 c channels, and the last c say it, by the loss |F - x_1|^2 beside the other.

    Raises:
      ValueError: alpha is 0 at t_max, where bridges do not end; drop_cond is not a probability;
        another `second`. In training, ConfigError: a batch without x_1.
    """
    if second not in (None, "told", "learnt"):
        raise ValueError(f"unknown second {second!r}: one of None, 'told', 'learnt'")
    finite_log_snr(model.sde, model.sde.t_max, "a bridge", "set t_max below that")

    def noise(key, batch, t):
        z = noise_of(key, batch)
        return noise_between(model.sde, batch["x"], start_of(batch), z, t)

    made = with_noise(noise, model, conditioner, time_law, weighting, drop_cond)
    made = made._replace(noisy=True)
    if second is None:
        return made
    if second == "told":
        return made._replace(
            result=_both(model, lambda params, x, t, cond: cond[START]), gives="ends"
        )

    draw = drawing(model, conditioner, time_law, drop_cond, noise)
    return _learning_both(made, model, draw, time_law, weighting)


def _learning_both(
    made: Objective,
    model: Model,
    draw: Callable[..., tuple[Array, Prediction]],
    time_law: TimeLaw,
    weighting: Weighting,
) -> Objective:
    """The objective `made`, of a network with 2 c channels that learns E[x_1 | x_t] too."""

    def other_end(params, x, t, cond):
        return model.network(params, x, t, cond)[..., x.shape[-1] :]

    def losses(params, key, batch, training):
        t, predicted = draw(params, key, batch, training)
        x_1 = start_of(batch)
        if predicted.output.shape[-1] != 2 * x_1.shape[-1]:
            raise ValueError(
                f"the network gives {predicted.output.shape[-1]} channels for the "
                f"{x_1.shape[-1]} of the data, and second='learnt' needs twice as many: set "
                "net.learn_variance=True"
            )
        weight = network_weight(weighting, model.parametrization, model.sde, t)
        away = (predicted.output[..., x_1.shape[-1] :] - x_1) ** 2
        error = weight * jnp.mean(predicted.square(), axis=1)
        error = error + jnp.mean(away.reshape(len(x_1), -1), axis=1)
        return Loss(error / law_now(time_law, training).density(model.sde, t), t)

    return made._replace(losses=losses, result=_both(model, other_end), gives="ends")


def _both(model: Model, second: Callable[..., Array]) -> Callable[..., Ends]:
    """`(params, cond) -> Ends`."""

    def result(params, cond=None):
        denoise = model.denoiser(params, cond)

        def ends(x_t, t, *s):
            x_0 = denoise(x_t, t)
            if not s:
                return x_0
            # the same call of the network as that of `denoise`, which XLA makes once
            return jnp.concatenate([x_0, second(params, x_t, t, cond).astype(x_0.dtype)], axis=-1)

        return ends

    return result
