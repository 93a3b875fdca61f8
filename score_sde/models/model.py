"""A network, a process and a parametrization, which together make a denoiser."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.models.parametrization import Parametrization
from score_sde.processes import SDE, posterior
from score_sde.types import Cond, Denoiser, FlowMap, Key, Moments, PyTree, real_dtype


class Model(NamedTuple):
    """`D(x, t) = c_skip x + c_out F(c_in x, c_noise)` with F the network; of tokens, probabilities
    (`token_parametrization`).

    A network may have more channels than x: the first are F, and what the others mean is up to
    those who read them (`moments`).
    """

    net: nn.Module
    sde: SDE
    parametrization: Parametrization

    def init(self, key: Key, x: Any, cond: Any = None) -> PyTree:
        """Parameters for x [b, ...] and conditions of these shapes and dtypes; their values do not
        matter, so `jax.ShapeDtypeStruct`s will do."""
        one = jax.tree.map(lambda a: jnp.zeros((1, *a.shape[1:]), a.dtype), (x, cond))
        numbers = dict.fromkeys(self.numbers, jnp.zeros((1,)))
        whole = {**numbers, **(one[1] or {})} if numbers else one[1]
        of_process = functools.partial(self.parametrization.network_input, self.sde)
        read = jax.eval_shape(of_process, one[0], jnp.ones((1,), real_dtype(one[0])))
        return self.net.init(key, jnp.zeros(read.shape, read.dtype), jnp.ones((1,)), whole)[
            "params"
        ]

    @property
    def numbers(self) -> tuple[str, ...]:
        """The numbers that the network reads beside the noise level. One is "jump", if it is that
        of a flow map."""
        return getattr(self.net, "numbers", ())

    def network(
        self,
        params: PyTree,
        x_t: Float[Array, "b ..."],
        t: Float[Array, "..."],
        cond: Cond | None = None,
        key: Key | None = None,
        s: Float[Array, "..."] | None = None,
    ) -> Float[Array, "b ..."]:
        """The network's output F at x_t; with a key, dropout is on. A network that reads "jump" is
        told how far s, by default t, is from t: c_noise(t) - c_noise(s).

        t: [], [b], or, of a network of video, a time for each frame, [b, frames]."""
        t = jnp.broadcast_to(t, x_t.shape[: max(jnp.ndim(t), 1)])
        c_noise = self.parametrization.c_noise(self.sde, t)
        if "jump" in self.numbers:
            end = t if s is None else jnp.broadcast_to(s, x_t.shape[:1])
            cond = {**(cond or {}), "jump": c_noise - self.parametrization.c_noise(self.sde, end)}
        output: Any = self.net.apply(
            {"params": params},
            self.parametrization.network_input(self.sde, x_t, t),
            c_noise,
            cond,
            key is not None,
            rngs=None if key is None else {"dropout": key},
        )
        return output

    def denoiser(
        self, params: PyTree, cond: Cond | None = None, key: Key | None = None
    ) -> Denoiser:
        """The estimate of E[x_0 | x_t]; with a key, dropout is on.

        cond: None for a network that reads none; `conditioner.null` asks another without them.
        """

        value = self.flow_map(params, cond, key)
        return lambda x_t, t: value(x_t, t)

    def flow_map(self, params: PyTree, cond: Cond | None = None, key: Key | None = None) -> FlowMap:
        """`D(x, t, s) = c_skip x + c_out F(c_in x, c_noise(t), s)`, the coefficients those of t,
        and the denoiser if s is left out; with a key, dropout is on.

        A network that does not read "jump" gives the same for every s.
        """

        def value(x_t, t, *s):
            output = self.network(params, x_t, t, cond, key, *s)
            return self.parametrization.value(self.sde, x_t, t, output)

        return value

    def moments(self, params: PyTree, cond: Cond | None = None) -> Moments:
        """The denoiser with the log variance of a step, of a network with 2 c channels: the last c
        are v, which interpolates it (`Posterior.interpolated`)."""
        denoise = self.denoiser(params, cond)

        def moments(x_t, t, *s):
            x_0 = denoise(x_t, t)
            if not s:
                return x_0
            # the same call of the network as that of `denoise`, which XLA makes once
            v = self.network(params, x_t, t, cond)[..., x_t.shape[-1] :]
            log_variance = posterior(self.sde, t, *s).interpolated(v.astype(x_0.dtype))
            return jnp.concatenate([x_0, log_variance], axis=-1)

        return moments


def num_params(params: PyTree) -> int:
    """How many numbers the parameters hold."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
