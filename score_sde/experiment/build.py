"""From a config to objects: the door behind which nothing reads a config any more."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from score_sde.config import at, build, check_finite
from score_sde.data import Data, Pixels, Source, eval_batches
from score_sde.errors import ConfigError
from score_sde.models import parametrization
from score_sde.models.model import Model
from score_sde.runtime import mesh as mesh_
from score_sde.training import ema, objectives, optimizer
from score_sde.training.state import TrainState, Unfit, create, not_finite, spike
from score_sde.training.time_law import TimeLaw
from score_sde.types import Key, PyTree

PURPOSES = (
    *("init", "train", "preview", "sample", "likelihood", "loss", "solvers", "field"),
    *("edit", "detect"),
)


# From where to where a number of a config may be, if nothing else looks at it.
_RANGES = {
    "seed": (0, 2**32 - 1),  # a key holds 32 bits
    "sampling.steps": (1, 10**6),
    "optim.beta1": (0, 1),
    "optim.beta2": (0, 1),
    **dict.fromkeys(
        (
            *("train.batch_size", "train.log_every", "train.checkpoint_every"),
            *("sampling.num_samples", "sampling.batch_size", "likelihood.batch_size"),
            "watermark.batch_size",
        ),
        (1, math.inf),
    ),
    **dict.fromkeys(
        (
            *("train.steps_per_call", "train.sample_every", "train.spike_after"),
            *("train.max_skipped", "optim.learning_rate", "optim.warmup", "optim.clip"),
            *("optim.eps", "optim.weight_decay", "sampling.t_min", "evaluate.reservoir"),
        ),
        (0, math.inf),
    ),
}
_POSITIVE = (
    *("sampling.tolerance", "likelihood.rtol", "likelihood.atol"),
    "solvers.reference_tolerance",
)


def check_numbers(config: ConfigDict) -> None:
    """Whether every number of a config is finite and where it may be.

    Raises:
      ConfigError: one is not.
    """
    check_finite("", config.to_dict())
    for name, (least, most) in _RANGES.items():
        value = operator.attrgetter(name)(config)
        if value is not None and not least <= value <= most:
            wanted = f"at least {least}" if most == math.inf else f"from {least} to {most}"
            raise ConfigError(f"{name} must be {wanted}, not {value}")
    for name in _POSITIVE:
        if not (value := operator.attrgetter(name)(config)) > 0:
            raise ConfigError(f"{name} must be above 0, not {value}")


class Experiment(NamedTuple):
    """What a config describes. `losses` and `level_error` have dropout off."""

    data: Data
    pixels: Pixels
    model: Model
    objective: objectives.Objective
    losses: objectives.Losses
    level_error: objectives.LevelError
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    mesh: Mesh

    def sharded(self, axis: int = 0) -> NamedSharding:
        """How a batch lies whose dimension `axis` is that of the examples."""
        return mesh_.spread(self.mesh, axis)

    def layout(self, tree: PyTree) -> PyTree:
        """How each array of parameters, or of a state of training, lies."""
        return jax.tree.map(functools.partial(mesh_.split, self.mesh), tree)

    def spread(self, batch: PyTree) -> PyTree:
        """NumPy's arrays [b, ...], which every process has whole, as arrays over the devices."""
        sharding = self.sharded()
        return jax.tree.map(
            lambda a: jax.make_array_from_callback(a.shape, sharding, a.__getitem__), batch
        )

    def filled(self, batch: PyTree) -> tuple[PyTree, np.ndarray]:
        """NumPy's arrays [n, ...] over the devices, filled up with copies of the last example to
        a multiple of these; and which examples are filling and which (True) not."""
        total = len(jax.tree.leaves(batch)[0])
        numbers = np.arange(round_to_devices(total, total))
        whole = jax.tree.map(lambda a: a[np.minimum(numbers, total - 1)], batch)
        return self.spread(whole), numbers < total

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


def load(config: ConfigDict, data: Data | None = None) -> Experiment:
    """Builds everything that training and evaluation share. data: if it is loaded already.

    Raises:
      ConfigError: an unknown name or field. DataError: the data set is not there.
    """
    check_numbers(config)
    model = build_model(config)
    rates, lengths = tuple(config.train.ema_rates), tuple(config.train.ema_lengths)
    if not 0 <= config.sampling.ema < len(averages(config)):
        raise ConfigError(
            f"sampling.ema={config.sampling.ema} is not an index of train.ema_rates={rates}"
            + (f" and then train.ema_lengths={lengths}" if lengths else "")
        )
    with at("mesh"):
        mesh = mesh_.make(config.mesh.fsdp)
    loaded = load_data(config) if data is None else data
    _check_classes(config, loaded)
    with at("data"):
        pixels = Pixels(levels=loaded.levels, centered=config.data.centered)
    law = build("training.time_law", config.objective.time_law)
    train, test, level_error = build_losses(config.objective, model, law)
    with at(f"objective.time_law={config.objective.time_law}"):
        levels = objectives.levels(law, model.sde)
    optimizer_, learning_rate = build_optimizer(config.optim, config.train.steps)
    return Experiment(
        loaded,
        pixels,
        model,
        objectives.mean(train, levels),
        test,
        level_error,
        optimizer_,
        learning_rate,
        mesh,
    )


def load_data(config: ConfigDict) -> Data:
    """The data set.

    Raises:
      DataError: it is not there.
    """
    loader = {
        key: value
        for key, value in config.data.to_dict().items()
        if key not in ("centered", "dequantize", "flip") and value is not None
    }
    return build("data", loader)


def _check_classes(config: ConfigDict, data: Data) -> None:
    """Whether the network's classes are those of the data set, which has no other conditions."""
    classes, allowed = config.net.get("num_classes", 0), {data.num_classes}
    allowed |= set() if is_classifier(config) else {0}  # 0 has no conditions
    if classes not in allowed:
        raise ConfigError(
            f"net.num_classes is {classes}, and the data set {data.name} has {data.num_classes} "
            f"class(es): set it to {' or '.join(map(str, sorted(allowed)))}"
        )
    for field in ("cond_features", "cond_channels"):
        if config.net.get(field, 0):
            raise ConfigError(f"net.{field} must be 0: a data set has labels and nothing else")


def is_classifier(config: ConfigDict) -> bool:
    """Whether the network is trained to tell the class and not to denoise."""
    return config.objective.name == "classification"


def check_denoises(config: ConfigDict) -> None:
    """Raises a ConfigError of a classifier, which can neither draw nor tell a likelihood."""
    if is_classifier(config):
        raise ConfigError(
            "objective.name is 'classification', and a classifier does not denoise: it has --mode "
            "train, --mode evaluate with evaluate.parts=('loss',), and is a guide for others "
            "(sampling.guidance)"
        )


def build_losses(
    options: ConfigDict, model: Model, law: TimeLaw
) -> tuple[objectives.Losses, objectives.Losses, objectives.LevelError]:
    """The losses of examples with dropout on and off, and their error at one noise level, of
    `objective.name`."""
    names = ("denoising", "classification")
    if options.name not in names:
        raise ConfigError(f"objective.name is {options.name!r}: one of {', '.join(names)}")
    if options.name == "classification":
        train, test = (
            objectives.classification(model, law, train=train) for train in (True, False)
        )
        return train, test, objectives.classification_error
    weighting = build("training.weighting", options.weighting)
    with at("objective"):
        train, test = (
            objectives.denoising(model, law, weighting, reduction=options.reduction, train=train)
            for train in (True, False)
        )
        return objectives.dropping(train, options.drop_cond), test, objectives.noise_error


def build_model(config: ConfigDict) -> Model:
    """The network, the process and the parametrization."""
    conditioning = build("models.parametrization", config.conditioning)
    model = Model(
        build("nets", config.net.to_dict()),
        build("processes", config.sde),
        build("models.parametrization", config.parametrization, c_noise=conditioning),
    )
    with at(f"parametrization={config.parametrization}"):
        parametrization.check_ends(model.parametrization, model.sde)
    return model


def build_optimizer(
    options: ConfigDict, steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimiser, and its learning rate by the number of the update, from 1."""
    with at("optim"):
        rate = optimizer.schedule(options.schedule, options.learning_rate, options.warmup, steps)
    names = ("clip", "beta1", "beta2", "eps", "weight_decay")
    return optimizer.adamw(rate, **{name: options[name] for name in names}), rate


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
    reasons = [not_finite] if options.non_finite == "skip" else []
    if options.spike:
        recent = functools.partial(optimizer.recent_gradient_norm, beta2=config.optim.beta2)
        reasons.append(spike(options.spike, options.spike_after, recent))
    return tuple(reasons)


def averages(config: ConfigDict) -> tuple[ema.Average, ...]:
    """What is averaged in training: for each of `train.ema_rates`, then of `train.ema_lengths`.

    Raises:
      ConfigError: no lengths, or the same twice.
    """
    options = config.train
    if len(set(options.ema_lengths)) < len(options.ema_lengths):
        raise ConfigError(f"train.ema_lengths={tuple(options.ema_lengths)} has a length twice")
    with at("train.ema_lengths"):
        powers = [ema.power(length) for length in options.ema_lengths]
    return *(ema.constant(rate, options.ema_warmup) for rate in options.ema_rates), *powers


def prepare(config: ConfigDict, pixels: Pixels) -> Callable[[Key, dict], dict]:
    """Integer images to the network's space, on the device."""
    dequantize = config.data.dequantize

    def convert(key, raw):
        image = raw["image"]
        x = pixels.dequantize(key, image) if dequantize else pixels.encode(image)
        return {"x": x, "cond": {"label": raw["label"]}}

    return convert


def initial_state(config: ConfigDict, experiment: Experiment) -> TrainState:
    """The state before the first step, as it lies over the devices."""
    shardings = jax.tree.map(lambda a: a.sharding, abstract_state(config, experiment))
    make = functools.partial(_make_state, config, experiment)
    return jax.jit(make, out_shardings=shardings)(key_for(config, "init"))


def abstract_state(config: ConfigDict, experiment: Experiment) -> TrainState:
    """Shapes, dtypes and shardings of the state, as `jax.ShapeDtypeStruct`s: nothing is computed.

    Raises:
      ConfigError: the network does not take the images.
    """
    make = functools.partial(_make_state, config, experiment)
    with at("net"):
        shapes = jax.eval_shape(make, key_for(config, "init"))
    return jax.tree.map(
        lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
        shapes,
        experiment.layout(shapes),
    )


def _make_state(config: ConfigDict, experiment: Experiment, key: Key) -> TrainState:
    params = experiment.model.init(key, experiment.data.image_shape)
    return create(params, experiment.optimizer, len(averages(config)))


def key_for(config: ConfigDict, purpose: str) -> Key:
    """The root key of one of PURPOSES, which no other purpose or seed shares."""
    return jax.random.fold_in(jax.random.key(config.seed), PURPOSES.index(purpose))


def round_to_devices(wanted: int, total: int) -> int:
    """A batch size near `wanted`: at most what is needed, and a multiple of the devices."""
    if min(wanted, total) < 1:
        raise ConfigError(
            f"a batch size and a number of images must be positive, not {wanted} and {total}"
        )
    return math.ceil(min(wanted, total) / jax.device_count()) * jax.device_count()
