"""From a config to objects. Only this folder and the modes read configs."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from score_sde.codecs.codec import Codec
from score_sde.conditioning.conditioner import Conditioner
from score_sde.config import at, build, fields, parse
from score_sde.data import Data, Source, eval_batches, read_text
from score_sde.errors import ConfigError
from score_sde.experiment import database
from score_sde.experiment.conditions import check_conditions
from score_sde.experiment.numbers import check_numbers
from score_sde.experiment.optimization import build_averages, build_optimizer
from score_sde.media.medium import Medium
from score_sde.models.model import Model
from score_sde.runtime import mesh as mesh_
from score_sde.training import ema, objective, optimizer
from score_sde.training.objective import ANSWERS, NoiseLevels, Objective
from score_sde.training.state import TrainState, create
from score_sde.training.teacher import Teacher
from score_sde.types import Frozen, Key, Needs, PyTree, as_tree

# What the fields of an objective name, and in which package.
_PARTS = {
    "time_law": "training.time_law",
    "weighting": "training.weighting",
    "distance": "training.distances",
    "curriculum": "training.curricula",
    "perceptual": "training.perceptual",
    "init": "training.starts",
    "reward": "models.rewards",
    "log_density": "models.rewards",
}

# XLA's options, by backend, for the program that draws the first parameters: it runs once, and that
# of a U-Net compiles in a third of the time. Other backends have not been measured.
_RUN_ONCE = {"cpu": {"xla_backend_optimization_level": 0}}


class Experiment(NamedTuple):
    """What a config describes.

    init: `(key, batch) -> params`, those of the start of training.
    base_digest: of the frozen parameters under an adapter, if there is one.
    merge: `(small tree of the adapter) -> parameters of the network`, if there is an adapter.
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
    merge: Callable[[PyTree], PyTree] | None = None

    def check_samples(self) -> None:
        """Raises a ConfigError of a network that cannot sample, a classifier."""
        if not ANSWERS[self.objective.gives]:
            raise ConfigError(
                "a network of this objective.name does not denoise: it has --mode train, --mode "
                "evaluate with evaluate.parts=('loss',), and serves others: a classifier guides "
                "(sampling.guidance), an autoencoder is a codec (codec)"
            )

    def check_denoises(self) -> None:
        """Raises a ConfigError of a network that is no denoiser: a classifier or, for example, a
        consistency model."""
        self.check_samples()
        if not self.objective.denoises:
            raise ConfigError(
                "a network of this objective.name gives the end of a flow, and no posterior mean, "
                "which this needs: it has --mode sample, and --mode evaluate with "
                "evaluate.parts=('metrics',)"
            )

    def check_reals(self) -> None:
        """Raises a ConfigError of a network of tokens."""
        if self.objective.answers("probabilities"):
            raise ConfigError(
                "a network of tokens gives probabilities, and this needs real numbers: it has "
                "--mode sample, --mode likelihood with likelihood.bound='elbo', and --mode "
                "evaluate with evaluate.parts=('loss', 'likelihood', 'metrics')"
            )

    @property
    def prepare(self) -> Callable[[Key, dict[str, Any]], objective.Batch]:
        """`(key, raw examples) -> batch`, what the objective takes, on the device. Parts that
        neither the codec nor the conditioner reads stay as they are. Examples that have an x, such
        as those of pairs, need no raw part of it.
        A pytree of the frozen parameters of both."""
        return jax.tree_util.Partial(_prepare, self.codec, self.conditioner)

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


def _prepare(
    codec: Codec, conditioner: Conditioner, key: Key, raw: dict[str, Any]
) -> objective.Batch:
    read = {"x", codec.part, *conditioner.features}
    others = {name: part for name, part in raw.items() if name not in read}
    return {
        "x": raw["x"] if "x" in raw else codec.encode(key, raw[codec.part]),
        "cond": conditioner.encode(raw, jax.random.fold_in(key, 1)),
        **others,
    }


Load = Callable[[str], Frozen]
"""`(folder) -> Frozen`, the network in it."""


def build_experiment(
    config: ConfigDict,
    data: Data | None = None,
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]
    teacher: Teacher | None = None,
    load: Load | None = None,
) -> Experiment:
    """Everything that training and evaluation share, without an adapter (`workdirs.load`).

    data: the data set, if it is loaded already.
    devices: those of the mesh, by default all that there are.
    teacher: of an objective that learns from a trained network.
    load: loads the frozen networks that a codec or a conditioner needs.

    Raises:
      ConfigError: an unknown name or field. DataError: the data set is not there.
    """
    check_numbers(config)
    model = build_model(config)
    averages = build_averages(config)
    with at("mesh"):
        mesh = mesh_.make(config.mesh.fsdp, devices)
    data = load_data(config) if data is None else data
    features = {**data.made_of, **data.features}
    codec = completed(build("codecs", config.codec.to_dict(), features), load)
    with at(f"parametrization={config.parametrization}"):
        model.parametrization.check_values(codec.tokens)
    medium = build("media", codec.medium)
    conditioner = completed(build_conditioner(config.conditioner, data, codec), load)
    data = read_text(data, conditioner.read, conditioner.features)
    check_conditions(config, conditioner, data.name)
    database.check_augmentation(config, conditioner)
    check_made_by(data, {**codec.digests, **conditioner.digests})
    trained = build_objective(config.objective, model, conditioner, teacher, load)
    law = build("training.time_law", config.objective.get("time_law", "uniform"))
    with at(f"objective.time_law={config.objective.time_law}"):
        noise_levels = objective.noise_levels(law, model.sde)
    if law.learning and not trained.learning:
        raise ConfigError(
            f"objective.time_law={config.objective.time_law!r} learns in training, and "
            f"objective.name={config.objective.name!r} draws from a law that is stated: take "
            "the objective denoising, or another law"
        )

    chosen, rate = build_optimizer(config)

    def init(key, batch):
        return model.init(key, batch["x"], batch["cond"])

    return Experiment(
        data,
        codec,
        medium,
        conditioner,
        model,
        trained,
        trained.init or init,
        noise_levels,
        optimizer.at_rates(chosen, trained.rates),
        rate,
        averages,
        mesh,
    )


def completed(part: Any, load: Load | None) -> Any:
    """A codec or conditioner as a pytree, with the frozen networks that it needs."""
    return as_tree(_with_networks(part, load))


def _with_networks(part: Any, load: Load | None) -> Any:
    """The part with the frozen networks that it needs, if it needs any."""
    if not isinstance(part, Needs):
        return part
    if load is None:
        raise ConfigError(f"{', '.join(part.folders)}: nothing loads it here")
    with at(", ".join(part.folders)):
        return part.make(*map(load, part.folders))


def build_conditioner(spec: str, data: Data, codec: Codec) -> Any:
    """`config.conditioner`, with the tokenizer, the conditioner of text, the codec of x or the
    database that it may take."""
    name, options = parse(spec)
    if "tokenizer" in options:
        options["tokenizer"] = build("conditioning.tokenizers", options["tokenizer"])
    if "text" in options:
        options["text"] = build_conditioner(options["text"], data, codec)
    taken = fields("conditioning", spec)
    if "codec" in taken:
        options["codec"] = codec
    if "database" in taken:
        options["database"] = database.images_of(options, data)
    return build("conditioning", {"name": name, **options}, {**data.made_of, **data.features})


def load_data(config: ConfigDict) -> Data:
    """The data set.

    Raises:
      DataError: it is not there.
    """
    options = config.data.to_dict()
    loader = {key: value for key, value in options.items() if value is not None}
    loader.pop("augment", None)
    if "of" in loader:  # the data sets of a mixture
        loader["of"] = tuple(build("data", part) for part in loader["of"])
    if "operator" in loader:  # what a measurement is made by, of a shape
        spec = loader["operator"]
        loader["operator"] = functools.partial(build, "inverse.operators", spec)
    return build("data", loader)


def build_model(config: ConfigDict) -> Model:
    """The network, which an adapter may have changed, the process and the parametrization."""
    c_noise = build("models.parametrization", config.c_noise)
    net = build("nets", config.net.to_dict())
    if config.adapter is not None:
        with at(f"adapter={config.adapter}"):
            net = build("models.adapters", config.adapter).changed(net)
    model = Model(
        net,
        build("processes", config.sde),
        build("models.parametrization", config.parametrization, c_noise=c_noise),
    )
    with at(f"parametrization={config.parametrization}"):
        model.parametrization.check(model.sde)
    return model


def check_made_by(data: Data, digests: Mapping[str, str]) -> None:
    """Raises a ConfigError if other networks than those of the config made parts of the data
    set."""
    for name, digest in digests.items():
        if data.made_by.get(name, digest) != digest:
            raise ConfigError(
                f"the data set {data.name} was made with another {name} than that of this config "
                "(the SHA-256 differs): run --mode encode again, or restore the other"
            )


def build_objective(
    options: ConfigDict,
    model: Model,
    conditioner: Conditioner,
    teacher: Teacher | None = None,
    load: Load | None = None,
) -> Objective:
    """`objective.name`, with the law of t, the weighting, the distance, the curriculum, the
    perceptual features, the start, the reward, the solver, the grid and the teacher that it may
    take."""
    spec = options.to_dict()
    for field, package in _PARTS.items():
        if spec.get(field) is not None:
            spec[field] = _with_networks(build(package, spec[field]), load)
    if "solver" in spec:
        spec["solver"] = build("solvers", spec["solver"], model.sde)
    if "grid" in spec:
        spec["grid"] = functools.partial(build, "sampling.grids", spec["grid"], model.sde)
    if "teacher" in spec:
        spec["teacher"] = teacher
        for field in ("guidance", "pairs"):  # of the teacher
            spec.pop(field, None)
    return build("training.objectives", spec, model, conditioner)


def initial_state(config: ConfigDict, experiment: Experiment) -> TrainState:
    """The first state, as it lies over the devices. Call it outside of compiled functions."""
    shardings = jax.tree.map(lambda a: a.sharding, abstract_state(experiment))
    make = functools.partial(_make_state, experiment)
    options = _RUN_ONCE.get(jax.default_backend())
    return jax.jit(make, out_shardings=shardings, compiler_options=options)(key_for(config, "init"))


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
    copies = len(experiment.averages + experiment.objective.targets)
    learning = experiment.objective.learning
    return create(experiment.init(key, batch), experiment.optimizer, copies, learning)


def key_for(config: ConfigDict, purpose: str) -> Key:
    """The root key of a purpose, such as "train": its name is folded into the key of the seed."""
    return jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(purpose.encode()))
