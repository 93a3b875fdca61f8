"""What the objectives of flow maps of two times share.

In the words of `models.flow_map`: with y = x/(alpha + sigma) and tau = sigma/(alpha + sigma), data
x_0 and noise z lie at the ends of a line, `y_t = (1 - tau) x_0 + tau z`, which moves with the
velocity v = z - x_0 on every Gaussian process. The mean of v given x_t is the slope U(x_t, t, t).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from score_sde.conditioning import conditions
from score_sde.conditioning.conditioner import Conditioner, null
from score_sde.models.flow_map import slope, tau
from score_sde.models.model import Model
from score_sde.processes import SDE, Time, derivative
from score_sde.training.objective import Batch, Training
from score_sde.training.time_law import TimeLaw
from score_sde.types import Cond, Key, PyTree, expand


class Draw(NamedTuple):
    """Noised examples, each with two times.

    x_0, z, x_t: data, noise, and both at t. t, s: the later and the earlier time.
    cond: what the network reads. lost: which of the examples lost their condition.
    dropout: the key of dropout, None without.
    """

    x_0: Float[Array, "b ..."]
    z: Float[Array, "b ..."]
    x_t: Float[Array, "b ..."]
    t: Float[Array, " b"]
    s: Float[Array, " b"]
    cond: Cond | None = None
    lost: Bool[Array, " b"] | None = None
    dropout: Key | None = None

    @property
    def v(self) -> Float[Array, "b ..."]:
        """The velocity of the line through x_0 and z."""
        return self.z - self.x_0


def drawing(
    model: Model,
    conditioner: Conditioner,
    time_law: TimeLaw,
    *,
    equal: float,
    drop_cond: float,
) -> Callable[[Key, Batch, Training | None], Draw]:
    """`(key, batch, training) -> Draw`. Conditions are lost in training alone. Which examples lose
    theirs, and which have s = t, are independent draws.

    equal: how often s = t. drop_cond: how often an example loses its condition.

    Raises:
      ValueError: one of them is no probability; the network does not read "jump".
    """
    check_reads_jump(model)
    for name, share in (("equal", equal), ("drop_cond", drop_cond)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share} is not between 0 and 1")

    def draw(key, batch, training):
        key_times, key_noise, key_lost, key_dropout = jax.random.split(key, 4)
        x_0, cond = batch["x"], batch.get("cond")
        t, s = two_times(key_times, time_law, model.sde, len(x_0), equal, x_0.dtype)
        z = jax.random.normal(key_noise, x_0.shape, x_0.dtype)
        drawn = Draw(x_0, z, model.sde.noised(x_0, z, t), t, s, cond)
        if training is None:
            return drawn
        drawn = drawn._replace(dropout=key_dropout)
        if not drop_cond:
            return drawn
        lost = jax.random.bernoulli(key_lost, drop_cond, (len(x_0),))
        cond = conditions.replace(lost, cond, null(conditioner, cond))
        return drawn._replace(cond=cond, lost=lost)

    return draw


def check_reads_jump(model: Model) -> None:
    """Raises a ValueError unless the network can tell two times."""
    if "jump" not in model.numbers:
        raise ValueError(
            f"the network {type(model.net).__name__} does not read how far a flow map goes: set "
            'net.numbers=("jump",)'
        )


def two_times(
    key: Key, law: TimeLaw, sde: SDE, n: int, equal: float, dtype: Any
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """The later and the earlier of two draws; with probability `equal` the later twice."""
    key_first, key_second, key_order, key_equal = jax.random.split(key, 4)
    first = law.sample(key_first, sde, n, dtype)
    # a stratified law draws both in the order of its cells
    second = jax.random.permutation(key_order, law.sample(key_second, sde, n, dtype))
    t, s = jnp.maximum(first, second), jnp.minimum(first, second)
    return t, jnp.where(jax.random.uniform(key_equal, (n,), dtype) < equal, t, s)


def along(sde: SDE, function, x_t: Array, t: Time, v: Array) -> tuple[Array, Array]:
    """`function(x_t, t)` and its derivative by tau where y = x/(alpha + sigma) moves with velocity
    v: dx/dt = (alpha' + sigma') y + (alpha + sigma) tau' v."""
    total, rate = sde.alpha(t) + sde.sigma(t), derivative(lambda t: tau(sde, t), t)
    growth = derivative(lambda t: sde.alpha(t) + sde.sigma(t), t)
    dx = expand(growth / total, x_t) * x_t + expand(total * rate, x_t) * v
    value, change = jax.jvp(function, (x_t, t), (dx, jnp.ones_like(t)))
    return value, change / expand(rate, x_t)


class Guiding(NamedTuple):
    """Classifier-free guidance within training (Geng et al. 2025, arXiv:2505.13447, eq. 20-21):
    the network is to have the velocity

        v_g = (1 - k) (w v + (1 - w) U_0) + k U_c

    U_c and U_0 the network's own, with and without the condition. Its mean is U_c where U_c is
    w E[v | x_t, cond] + (1 - w) U_0, guidance of weight w, whatever k is. (omega and kappa of the
    paper are (1 - k) w and k.)

    weight: w; 1 for no guidance. mix: k. times: guided are the times between these two.
    """

    weight: float = 1.0
    mix: float = 0.0
    times: tuple[float, float] = (0.0, float("inf"))

    def check(self, drop_cond: float) -> None:
        """Raises a ValueError of a mix that is not in [0, 1), and of guidance without examples that
        lost their conditions."""
        if not 0 <= self.mix < 1:
            raise ValueError(f"mix={self.mix} is not in [0, 1)")
        if self.weight != 1 and not drop_cond:
            raise ValueError(
                f"guidance={self.weight} needs a network that knows what no condition means: set "
                "objective.drop_cond, such as to 0.1"
            )

    def velocity(
        self, model: Model, conditioner: Conditioner, params: PyTree, draw: Draw
    ) -> Float[Array, "b ..."]:
        """v_g, and v where the condition was lost. No gradient flows through it."""
        if self.weight == 1 and not self.mix:
            return draw.v
        v, x_t, cond = draw.v, draw.x_t, draw.cond or {}

        def own(cond):
            return slope(model, params, cond)(x_t, draw.t)

        guided = self.weight * v + (1 - self.weight) * own({**cond, **null(conditioner, cond)})
        if self.mix:
            guided = (1 - self.mix) * guided + self.mix * own(cond)
        low, high = self.times
        here = (draw.t >= low) & (draw.t <= high)
        if draw.lost is not None:
            here &= ~draw.lost
        return lax.stop_gradient(jnp.where(expand(here, v), guided, v))
