"""The compiled step of training, and how many steps one call of it makes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from score_sde.experiment.build import Experiment, abstract_state
from score_sde.experiment.optimization import unfit_steps
from score_sde.runtime import mesh
from score_sde.training.objective import mean
from score_sde.training.state import TrainState, accumulated, several, skipping, train_step
from score_sde.types import Key, as_pytree


class Calls:
    """The calls of a run: one makes several steps where the backend gains by it, and never goes
    past an event.

    events: how often each takes place, in steps; 0 for never.
    traced: what the step of most calls goes through, for a profile.
    """

    def __init__(
        self,
        config: ConfigDict,
        experiment: Experiment,
        events: Mapping[str, int],
        traced: Callable[[Callable], Callable],
    ):
        wanted = config.train.steps_per_call or (1 if jax.default_backend() == "cpu" else 10)
        self.most = math.gcd(wanted, *(every for every in events.values() if every))
        self.last = config.train.steps
        self.programs = {n: compiled_step(config, experiment, n) for n in {1, self.most}}
        self.programs[self.most] = traced(self.programs[self.most])

    def steps(self, start: int) -> Iterator[tuple[int, int]]:
        """For each call, the step that it ends at, and how many steps it makes."""
        step = start
        while step < self.last:
            whole = step % self.most == 0 and step + self.most <= self.last
            count = self.most if whole else 1
            step += count
            yield step, count

    def run(self, count: int, root: Key, state: TrainState, batch: Any) -> tuple[TrainState, Any]:
        """Makes `count` steps."""
        return self.programs[count](root, state, batch)


def compiled_step(config: ConfigDict, experiment: Experiment, per_call: int) -> Callable:
    """`(root key, state, batches [per_call, b, ...]) -> (state, metrics [per_call])`.

    One program over all devices: the state and a batch lie over them as `mesh` says, and XLA
    inserts the sums of gradients. The state is donated.
    """
    shardings = experiment.layout(abstract_state(experiment))
    reasons = unfit_steps(config)

    @functools.partial(
        jax.jit,
        donate_argnums=3,
        in_shardings=(None, None, None, shardings, experiment.sharded(axis=1)),
        out_shardings=(shardings, mesh.whole(experiment.mesh)),
    )
    def call(losses, prepare, root, state, batches):
        learning, targets = experiment.objective.learning, experiment.objective.targets
        measure = learning and functools.partial(learning.measure, experiment.model.sde)
        gradient = jax.grad(mean(losses, experiment.noise_levels, measure), has_aux=True)
        step = train_step(
            accumulated(gradient, config.train.accumulate),
            experiment.optimizer,
            experiment.averages,
            prepare,
            targets,
            learning,
        )
        step = skipping(step, *reasons, targets=targets)
        with jax.sharding.use_abstract_mesh(experiment.mesh.abstract_mesh):
            return several(step, per_call)(root, state, batches)

    # pytrees, so that frozen parameters are arguments of the program and not constants of it
    frozen = map(as_pytree, (experiment.objective.losses, experiment.prepare))
    return functools.partial(call, *frozen)


def lower(function: Callable, *arguments: Any) -> jax.stages.Lowered:
    """What XLA would compile of a jitted function, or of a part of one such as `compiled_step`
    gives. The arguments may be abstract."""
    bound = functools.partial(function)
    return bound.func.lower(*bound.args, *arguments, **bound.keywords)


def lowered_step(config: ConfigDict, experiment: Experiment) -> jax.stages.Lowered:
    """The training step, one a call, for the devices of the experiment's mesh, which need not be
    there. Nothing is computed."""
    features = {**experiment.data.features, **experiment.conditioner.features}
    raw = {name: feature.abstract(1, config.train.batch_size) for name, feature in features.items()}
    place = experiment.sharded(axis=1)
    batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), raw)
    root = jax.eval_shape(lambda: jax.random.key(0))
    return lower(compiled_step(config, experiment, 1), root, abstract_state(experiment), batch)


def stack(batches: Iterator, count: int, sharding: jax.sharding.Sharding) -> dict[str, jax.Array]:
    """The next `count` batches of this process as global arrays [count, b, ...]."""
    local = [next(batches) for _ in range(count)]
    return jax.tree.map(
        lambda *leaves: jax.make_array_from_process_local_data(sharding, np.stack(leaves)), *local
    )
