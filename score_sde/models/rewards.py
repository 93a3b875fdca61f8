"""Rewards of samples: constructors `(**options) -> Reward`, or `Needs` of the networks that one
reads. A reward tilts the law of a model to `p(x_0) e^{r(x_0)}/Z`; an unnormalised log-density is
one too, of a law that is known by its energy alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.conditioning.labels import log_prob
from score_sde.processes import exact
from score_sde.types import Frozen, Needs

__all__ = ["linear", "log_class", "quadratic", "ring"]  # what a config can name

Reward = Callable[[Float[Array, "b ..."]], Float[Array, " b"]]
"""`(x_0 [b, ...]) -> r [b]`, nats, each of its own example; differentiable. x_0 is the network's x,
as `Codec.encode` gives it. One that reads frozen parameters is a `jax.tree_util.Partial` of
them."""


def linear(direction: Sequence[float | int]) -> Reward:
    """c.x, with a number of the direction c for each number of an example, or one for all. On
    N(m, C) it leads to N(m + C c, C)."""
    c = jnp.asarray(direction, float)
    return lambda x: jnp.sum(_flat(x) * c.astype(x.dtype)[None], axis=1)


def quadratic(centre: Sequence[float | int], std: float = 1.0) -> Reward:
    """-|x - centre|^2/(2 std^2), with a number of the centre for each number of an example, or one
    for all.

    Raises:
      ValueError: std is not above 0.
    """
    if not std > 0:
        raise ValueError(f"std must be above 0, not {std}")
    middle = jnp.asarray(centre, float)

    def reward(x):
        return -jnp.sum(((_flat(x) - middle.astype(x.dtype)[None]) / std) ** 2, axis=1) / 2

    return reward


def log_class(workdir: str, label: int, scale: float = 1.0) -> Needs:
    """scale ln p(label | x), by the classifier of another workdir (`training.objectives.
    classification`) at its least noise. With scale 1 and the true posterior the tilted law is that
    of the class, and Z is the share of the class.

    Raises:
      ValueError: when it is made, the network is no classifier, or has no such class.
    """

    def make(frozen: Frozen) -> Reward:
        if frozen.about.get("gives") != "log_prob":
            raise ValueError("it is no classifier: train one with objective.name='classification'")
        model = frozen.about["model"]
        if not 0 <= label < model.net.num_classes:
            raise ValueError(f"label {label} is none of its {model.net.num_classes} classes")

        def reward(params, x):
            t = jnp.full(len(x), model.sde.t_min, x.dtype)
            logits = model.network(params, x, t)
            return scale * log_prob(logits, jnp.full(len(x), label, jnp.int32))

        return jax.tree_util.Partial(reward, jax.tree.map(jnp.asarray, frozen.params))

    return Needs((workdir,), make)


def ring(
    components: int = 8, radius: float = 1.0, std: float = 0.1, log_mass: float = 0.0
) -> Reward:
    """The log-density of equal Gaussians on a circle (`processes.exact.ring`), plus `log_mass`: an
    energy whose ln Z is that.

    Raises:
      ValueError: there are no components.
    """
    law = exact.ring(components, radius, std)
    return lambda x: law.log_density(x) + log_mass


def _flat(x: Float[Array, "b ..."]) -> Float[Array, "b d"]:
    return x.reshape(len(x), -1)
