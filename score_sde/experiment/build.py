"""From a config to objects. Only this folder and the modes read configs."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from score_sde.codecs.codec import Codec
from score_sde.conditioning.conditioner import Conditioner
from score_sde.config import at, build, fields
from score_sde.data import Data, Source, eval_batches
from score_sde.errors import ConfigError
from score_sde.experiment.numbers import check_numbers
from score_sde.media.medium import Medium
from score_sde.models import parametrization
from score_sde.models.model import Model
from score_sde.runtime import mesh as mesh_
from score_sde.training import ema, objective, optimizer
from score_sde.training.constraints import constrained
from score_sde.training.objective import NoiseLevels, Objective
from score_sde.training.state import TrainState, Unfit, create, not_finite, spike
from score_sde.types import Key, PyTree

# The field of a network that says how large each part of a condition is; 0 if it is not read.
CONDITION_FIELDS = {
    "label": "num_classes",
    "vector": "cond_features",
    "image": "cond_channels",
    "context": "context_features",
}


class Experiment(NamedTuple):
    """What a config describes.

    init: `(key, batch) -> params`, those of the start of training.
    base_digest: of the frozen parameters under an adapter, if there is one.
    """

    data: Data
    codec: Codec
    medium: Medium
    conditioner: Conditioner
    model: Model
    objective: Objective
    init: Callable[[Key, objective.Batch], PyTree]
    noise_levels: NoiseLevels
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    averages: tuple[ema.Average, ...]
    mesh: Mesh
    base_digest: str | None = None

    def check_denoises(self) -> None:
        """Raises a ConfigError of a network that is not a denoiser, such as a classifier."""
        if not self.objective.denoises:
            raise ConfigError(
                "a network of this objective.name does not denoise: it has --mode train, --mode "
                "evaluate with evaluate.parts=('loss',), and is a guide for others "
                "(sampling.guidance)"
            )

    def prepare(self, key: Key, raw: dict[str, Any]) -> objective.Batch:
        """Raw examples to what the objective takes, on the device."""
        x = self.codec.encode(key, raw[self.codec.part])
        return {"x": x, "cond": self.conditioner.encode(raw)}

    def sharded(self, axis: int = 0) -> NamedSharding:
        """How a batch lies whose dimension `axis` is that of the examples."""
        return mesh_.spread(self.mesh, axis)

    def layout(self, tree: PyTree) -> PyTree:
        """How each array of parameters, or of a state of training, lies."""
        return jax.tree.map(functools.partial(mesh_.split, self.mesh), tree)

    def batches(
        self, source: Source, size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, jax.Array]]]:
        """Every example once, in order, in batches of `size` over the devices of all processes:
        the numbers of the examples int32 [size], which of them are filling and which (True) not
        [size], and the batch, which has its numbers too."""
        count, index = jax.process_count(), jax.process_index()
        for i, batch in enumerate(eval_batches(source, size // count, (index, count))):
            numbers = np.arange(i * size, (i + 1) * size, dtype=np.int32)
            batch["number"] = np.split(numbers, count)[index]
            del batch["mask"]
            place = functools.partial(jax.make_array_from_process_local_data, self.sharded())
            yield numbers, numbers < len(source), jax.tree.map(place, batch)


def build_experiment(
    config: ConfigDict,
    data: Data | None = None,
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]
) -> Experiment:
    """Everything that training and evaluation share, without an adapter (`workdirs.load`).

    data: the data set, if it is loaded already.
    devices: those of the mesh, by default all that there are.

    Raises:
      ConfigError: an unknown name or field. DataError: the data set is not there.
    """
    check_numbers(config)
    model = build_model(config)
    averages = build_averages(config)
    with at("mesh"):
        mesh = mesh_.make(config.mesh.fsdp, devices)
    data = load_data(config) if data is None else data
    codec = build("codecs", config.codec.to_dict(), data.features)
    medium = build("media", codec.medium)
    conditioner = build("conditioning", config.conditioner, data.features)
    _check_conditions(config, conditioner, data.name)
    trained = build_objective(config.objective, model, conditioner)
    law = build("training.time_law", config.objective.time_law)
    with at(f"objective.time_law={config.objective.time_law}"):
        noise_levels = objective.noise_levels(law, model.sde)

    def init(key, batch):
        return model.init(key, batch["x"], batch["cond"])

    return Experiment(
        data,
        codec,
        medium,
        conditioner,
        model,
        trained,
        init,
        noise_levels,
        *build_optimizer(config),
        averages,
        mesh,
    )


def load_data(config: ConfigDict) -> Data:
    """The data set.

    Raises:
      DataError: it is not there.
    """
    options = config.data.to_dict()
    loader = {key: value for key, value in options.items() if value is not None}
    loader.pop("augment", None)
    return build("data", loader)


def build_model(config: ConfigDict) -> Model:
    """The network, the process and the parametrization."""
    c_noise = build("models.parametrization", config.c_noise)
    model = Model(
        build("nets", config.net.to_dict()),
        build("processes", config.sde),
        build("models.parametrization", config.parametrization, c_noise=c_noise),
    )
    with at(f"parametrization={config.parametrization}"):
        parametrization.check_ends(model.parametrization, model.sde)
    return model


def _check_conditions(config: ConfigDict, conditioner: Conditioner, data: str) -> None:
    """Whether the network takes the conditions that there are; 0 takes none."""
    for part, field in {**CONDITION_FIELDS, "augment": "augment_dim"}.items():
        size, feature = config.net.get(field, 0), conditioner.features.get(part)
        there = 0 if feature is None else feature.values or feature.shape[-1]
        if size not in (0, there):
            raise ConfigError(
                f"net.{field} is {size}, and the data set {data} with the conditioner "
                f"{config.conditioner} has {there}: set it to 0 or {there}"
            )


def build_objective(options: ConfigDict, model: Model, conditioner: Conditioner) -> Objective:
    """`objective.name`, with the law of t and the weighting that it may take."""
    spec = options.to_dict()
    for field in ("time_law", "weighting"):
        if field in spec:
            spec[field] = build(f"training.{field}", spec[field])
    return build("training.objectives", spec, model, conditioner)


def build_optimizer(
    config: ConfigDict,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimiser, and its learning rate by the number of the update, from 1."""
    options, peak = config.optim, config.optim.learning_rate
    left = max(config.train.steps - options.warmup, 1)
    rest = build("training.schedules", options.schedule, peak, left)
    rate = optimizer.warmed_up(rest, peak, options.warmup)
    masks = {"mask", "weight_decay_mask"} & fields(optax, options.optimizer)
    chosen = build(
        optax,
        options.optimizer,
        optimizer.from_one(rate),
        **dict.fromkeys(masks, optimizer.matrices),
    )
    if not isinstance(chosen, optax.GradientTransformation):
        raise ConfigError(f"optim.optimizer={options.optimizer} is no optimiser of optax")
    chosen = constrained(chosen, build("training.constraints", options.constraint))
    return optimizer.clipped(chosen, options.clip, bool(config.train.spike)), rate


def unfit_steps(config: ConfigDict) -> tuple[Unfit, ...]:
    """For which reasons training skips a step.

    Raises:
      ConfigError: train.non_finite or train.spike is none.
    """
    options = config.train
    if options.non_finite not in ("stop", "skip"):
        raise ConfigError(f"train.non_finite is {options.non_finite!r}: one of stop, skip")
    if options.spike and not options.spike > 1:
        raise ConfigError(f"train.spike={options.spike} is no factor above 1, such as 10.0, nor 0")
    reasons: list[Unfit] = [not_finite] if options.non_finite == "skip" else []
    if options.spike:
        reasons.append(spike(options.spike, options.spike_after, optimizer.recent_norm))
    return tuple(reasons)


def build_averages(config: ConfigDict) -> tuple[ema.Average, ...]:
    """What is averaged in training: for each of `train.ema_rates`, then of `train.ema_lengths`.

    Raises:
      ConfigError: the same length twice, or `sampling.ema` is none of them.
    """
    options, wanted = config.train, config.sampling.ema
    rates, lengths = tuple(options.ema_rates), tuple(options.ema_lengths)
    if len(set(lengths)) < len(lengths):
        raise ConfigError(f"train.ema_lengths={lengths} has a length twice")
    if not 0 <= wanted < len(rates) + len(lengths):
        raise ConfigError(
            f"sampling.ema={wanted} is not an index of train.ema_rates={rates}"
            + (f" and then train.ema_lengths={lengths}" if lengths else "")
        )
    with at("train.ema_lengths"):
        powers = [ema.power(length) for length in lengths]
    warmup, ramp = options.ema_warmup, options.ema_ramp
    return *(ema.constant(rate, warmup, ramp) for rate in rates), *powers


def initial_state(config: ConfigDict, experiment: Experiment) -> TrainState:
    """The state before the first step, as it lies over the devices."""
    shardings = jax.tree.map(lambda a: a.sharding, abstract_state(experiment))
    make = functools.partial(_make_state, experiment)
    return jax.jit(make, out_shardings=shardings)(key_for(config, "init"))


def abstract_state(experiment: Experiment) -> TrainState:
    """Shapes, dtypes and shardings of the state, as `jax.ShapeDtypeStruct`s: nothing is computed.

    Raises:
      ConfigError: the network does not take the data.
    """
    with at("net"):
        shapes = jax.eval_shape(functools.partial(_make_state, experiment), jax.random.key(0))
    return jax.tree.map(
        lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
        shapes,
        experiment.layout(shapes),
    )


def _make_state(experiment: Experiment, key: Key) -> TrainState:
    features = {**experiment.data.features, **experiment.conditioner.features}
    raw = {name: feature.abstract(1) for name, feature in features.items()}
    batch = jax.eval_shape(experiment.prepare, key, raw)
    return create(experiment.init(key, batch), experiment.optimizer, len(experiment.averages))


def key_for(config: ConfigDict, purpose: str) -> Key:
    """The root key of a purpose, such as "train": its name is folded into the key of the seed."""
    return jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(purpose.encode()))
