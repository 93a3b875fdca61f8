"""Networks whose model is a given flow map, so that losses can be held against closed forms."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from score_sde.models import parametrization
from score_sde.models.model import Model
from score_sde.processes import EDM, VP, Cosine, Flow
from score_sde.types import expand


class FlowMapNet(nn.Module):
    """The network of a FlowMap D: F = (D - c_skip x) / c_out. `noise` is t. Its one parameter is
    added to D."""

    sde: Any
    scales: Any
    value: Callable
    numbers: tuple[str, ...] = ("jump",)

    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        shift = self.param("shift", nn.initializers.zeros, (), x.dtype)
        t = noise
        s = t - cond["jump"] if self.numbers else t
        scales = self.scales(self.sde.alpha(t), self.sde.sigma(t))
        c_skip, c_out, c_in = (expand(c, x) for c in scales)
        x_t = x / c_in
        return (self.value(x_t, t, s) + shift - c_skip * x_t) / c_out


def tell_t(sde, t):
    return t


def model_of(sde, value, prediction=parametrization.v, numbers=("jump",)):
    """The model whose flow map is `value`, with the parameters {"shift": 0}."""
    told = prediction(tell_t)
    return Model(FlowMapNet(sde, told.scales, value, numbers), sde, told)


def shift(number=0.0):
    return {"shift": jnp.asarray(number)}


SDES = {
    "VP": VP(t_min=1e-3),
    "Cosine": Cosine(t_min=1e-3),
    "EDM": EDM(t_min=0.02, t_max=20.0),
    "Flow": Flow(t_min=1e-3),
}
