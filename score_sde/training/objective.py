"""What an objective is; the mean of its losses, and their parts by noise level."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.models.adapters import Adapter
from score_sde.processes import SDE
from score_sde.training.ema import Average
from score_sde.training.time_law import Learning, TimeLaw
from score_sde.types import Cond, Key, PyTree, as_pytree

Batch = dict[str, Any]
"""`{"x": data [b, ...], "cond": Cond}`, and other parts of examples by name, such as "noise", of
the shape of x, where each example has a noise of its own."""


class Loss(NamedTuple):
    """value: the loss of each example. t: the time that was drawn for it."""

    value: Float[Array, " b"]
    t: Float[Array, " b"]


class WeightedError(NamedTuple):
    """What a loss is if it is the error of a denoiser D with a weight:

        E_{t ~ law} [ weight(x_0, t) |x_0 - D|^2 ],   a mean over dimensions

    weight: `(x_0 [b, ...], t [b]) -> [b]`; of x_0 it reads the shape alone.
    """

    law: TimeLaw
    weight: Callable[[Array, Array], Array]


class Training(NamedTuple):
    """Where a training is, for losses that change on the way.

    step: int [], how many were made. targets: the copies of the parameters that the objective keeps
        (`Objective.targets`). law: the state of a law of t that learns (`TimeLaw.at`), else ().
    """

    step: Any = 0
    targets: tuple[PyTree, ...] = ()
    law: PyTree = ()


ANSWERS = {
    "denoiser": ("denoiser",),
    "probabilities": ("probabilities",),
    "moments": ("denoiser", "moments"),
    "ends": ("denoiser", "ends"),
    "flow_map": ("denoiser", "flow_map"),
    "jump": ("flow_map",),
    "log_prob": (),
    "reconstruction": (),
}
"""What a result gives, and what it can be asked for. "probabilities" are a Denoiser of tokens, and
"denoiser" is one of real numbers. A "jump" is the D of a FlowMap for one end s, whatever s it is
called with: where a flow ends, as a consistency model says it."""


class Objective(NamedTuple):
    """What training minimises, and what its result is.

    losses: `(params, key, batch, training) -> Loss`. `training` is None outside of training: then
        there is no dropout, and targets are the parameters themselves.
    error_at: `(params, key, batch, t []) -> [b]`, how wrong the network is on each example at one
        time, without dropout: from 0 to about 1, for a network that knows nothing.
    error_name: what results call that error.
    result: `(params, cond) -> Denoiser`, or what `gives` says.
    gives: one of `ANSWERS`.
    targets: averaged copies of the parameters that the losses look at, each stated by its
        `ema.Average`. They start as the parameters do.
    init: `(key, batch) -> params`, those of the start; None where they are those of the network.
    rates: of parts of the parameters, by name, the learning rate in units of the optimiser's.
    teacher_drops: whether the losses ask the teacher without its condition too, which it must have
        learnt.
    learning: that of the law of t, if it learns: `losses` draw from the law whose state is in their
        `training`.
    weighted: what the loss is, if it is the error of a denoiser of independent noise with a weight;
        outside of training, where the law of t is the one that a training starts from.
    noisy: whether solvers that ask for a denoiser draw noise: True where they must, False where
        they must not, None where both are right.

    A function that needs frozen parameters is a `jax.tree_util.Partial` that holds them. A compiled
    program takes such a function as an argument, so that they are not constants of it.
    """

    losses: Callable[[PyTree, Key, Batch, Training | None], Loss]
    error_at: Callable[[PyTree, Key, Batch, Array], Float[Array, " b"]]
    error_name: str
    result: Callable[[PyTree, Cond], Callable[[Array, Array], Array]]
    gives: str = "denoiser"
    targets: tuple[Average, ...] = ()
    init: Callable[[Key, Batch], PyTree] | None = None
    rates: Mapping[str, float] = {}
    teacher_drops: bool = False
    learning: Learning | None = None
    weighted: WeightedError | None = None
    noisy: bool | None = None

    def answers(self, asked: str) -> bool:
        """Whether the result is what a solver asks for."""
        return asked in ANSWERS[self.gives]

    @property
    def denoises(self) -> bool:
        """Whether the result is a Denoiser, the posterior mean, of real numbers or of tokens."""
        return self.answers("denoiser") or self.answers("probabilities")


def adapted(objective: Objective, adapter: Adapter, base: PyTree) -> Objective:
    """The objective of an adapter's small tree, over the frozen parameters `base`."""

    def on_whole(base, function, delta, *arguments):
        return function(adapter.merge(base, delta), *arguments)

    def losses(base, function, delta, key, batch, training):
        if training is not None:  # the copies are of the small tree too
            targets = tuple(adapter.merge(base, copy) for copy in training.targets)
            training = training._replace(targets=targets)
        return on_whole(base, function, delta, key, batch, training)

    def over_base(changed, function):
        # the function may hold frozen parameters of its own, such as a teacher's
        return jax.tree_util.Partial(changed, base, as_pytree(function))

    return objective._replace(
        losses=over_base(losses, objective.losses),
        error_at=over_base(on_whole, objective.error_at),
        result=over_base(on_whole, objective.result),
    )


Mean = Callable[[PyTree, Key, Batch, Training], tuple[Float[Array, ""], dict[str, Array]]]
"""`(params, key, batch, training) -> (loss, metrics)`. A metric is a number [], or a pair [2] of a
part and its weight. All are averaged over parts of a batch and over steps; in the end the mean part
is divided by the mean weight."""


class NoiseLevels(NamedTuple):
    """Ranges of noise levels, from the least noise to the most.

    names: one for each range, with its ends in log-SNR. times: where one range ends and the next
        begins.
    """

    names: tuple[str, ...]
    times: Float[Array, " n-1"]

    def split(self, loss: Loss) -> dict[str, Float[Array, "2"]]:
        """For each range, by name: what its examples add to the mean loss, and their share of the
        batch. Both are 0 for a range without examples. The parts sum to the loss."""
        index = jnp.searchsorted(self.times.astype(loss.t.dtype), loss.t, side="right")
        inside = index[:, None] == jnp.arange(len(self.names), dtype=index.dtype)[None]
        part = jnp.mean(jnp.where(inside, loss.value[:, None], 0), axis=0)
        share = jnp.mean(inside.astype(loss.value.dtype), axis=0)
        return dict(zip(self.names, jnp.stack([part, share], axis=1), strict=True))


def noise_levels(law: TimeLaw, sde: SDE, count: int = 5) -> NoiseLevels:
    """`count` ranges that a law draws from equally often."""
    times = law.quantile(sde, jnp.arange(count + 1, dtype=jnp.float32) / count)
    times = jnp.clip(times, sde.t_min, sde.t_max)
    edges = np.asarray(sde.log_snr(times))  # falling
    names = [f"{i}_log_snr_{edges[i + 1]:.1f}_to_{edges[i]:.1f}" for i in range(count)]
    return NoiseLevels(tuple(names), times[1:-1])


def law_now(law: TimeLaw, training: Training | None) -> TimeLaw:
    """The law of t at this point of a training; outside of one, the law that it starts from."""
    return law if training is None else law.at(training.law)


TOLD = "time_law"
"""The metric of what a batch tells a law of t that learns; `state.train_step` takes it out."""


def mean(
    losses: Callable[..., Loss],
    levels: NoiseLevels,
    measure: Callable[[PyTree, Array, Array], Array] | None = None,
) -> Mean:
    """The mean loss of a batch in training. Its metrics are `loss` and the parts of it by noise
    level, `loss_by_level/NAME`.

    measure: `Learning.measure` of a process; adds the metric TOLD.
    """

    def objective(params, key, batch, training):
        drawn = losses(params, key, batch, training)
        loss = jnp.mean(drawn.value)
        by_level = {f"loss_by_level/{name}": part for name, part in levels.split(drawn).items()}
        told = {} if measure is None else {TOLD: measure(training.law, *drawn)}
        return loss, {"loss": loss, **by_level, **told}

    return objective
