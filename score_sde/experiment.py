"""From a config to objects: the door behind which nothing reads a config any more."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array
from ml_collections import ConfigDict

from score_sde import compare, conditions, objectives, parallel, sampling
from score_sde.checkpoint import CheckpointError, Checkpoints, abstract_like
from score_sde.config import ConfigError, at, build, parse
from score_sde.data import Data, Pixels
from score_sde.guidance import Guidance, Guide
from score_sde.model import Model
from score_sde.sde import SDE
from score_sde.state import TrainState, create
from score_sde.types import Cond, Denoiser, Grid, Key, PyTree, Solver
from score_sde.watermark import Watermark, mark, tree_ring

# Fields that say what the parameters of a workdir mean, and those of them that do not.
MODEL_FIELDS = ("sde", "parametrization", "conditioning", "net", "data.centered")
FREE_FIELDS = ("net.dropout", "net.dtype", "net.remat")

PURPOSES = (
    *("init", "train", "preview", "sample", "likelihood", "loss", "solvers", "field"),
    *("edit", "detect"),
)


class Experiment(NamedTuple):
    """What a config describes. `losses` and `level_error` have dropout off; `mesh` has one axis,
    "data", over all devices."""

    data: Data
    pixels: Pixels
    model: Model
    objective: objectives.Objective
    losses: objectives.Losses
    level_error: objectives.LevelError
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    mesh: Mesh

    @property
    def replicated(self) -> NamedSharding:
        """Every device holds the whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    def sharded(self, axis: int = 0) -> NamedSharding:
        """Dimension `axis` is spread over the devices."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, "data"))


def load(config: ConfigDict, data: Data | None = None) -> Experiment:
    """Builds everything that training and evaluation share. data: if it is loaded already.

    Raises:
      ConfigError: an unknown name or field. DataError: the data set is not there.
    """
    model = build_model(config)
    if not 0 <= config.sampling.ema < len(config.train.ema_rates):
        raise ConfigError(
            f"sampling.ema={config.sampling.ema} is not an index of train.ema_rates"
            f"={tuple(config.train.ema_rates)}"
        )
    if jax.process_count() > 1:
        raise ConfigError(
            f"{jax.process_count()} processes: this version runs on the devices of one host"
        )
    loaded = load_data(config) if data is None else data
    _check_classes(config, loaded)
    train, test, level_error = build_losses(config.objective, model)
    optimizer, learning_rate = build_optimizer(config.optim, config.train.steps)
    return Experiment(
        loaded,
        Pixels(levels=loaded.levels, centered=config.data.centered),
        model,
        objectives.mean(train),
        test,
        level_error,
        optimizer,
        learning_rate,
        Mesh(np.array(jax.devices()), ("data",)),
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
    options: ConfigDict, model: Model
) -> tuple[objectives.Losses, objectives.Losses, objectives.LevelError]:
    """The losses of examples with dropout on and off, and their error at one noise level, of
    `objective.name`."""
    law = build("time_law", options.time_law)
    names = ("denoising", "classification")
    if options.name not in names:
        raise ConfigError(f"objective.name is {options.name!r}: one of {', '.join(names)}")
    if options.name == "classification":
        train, test = (
            objectives.classification(model, law, train=train) for train in (True, False)
        )
        return train, test, objectives.classification_error
    weighting = build("weighting", options.weighting)
    with at("objective"):
        train, test = (
            objectives.denoising(model, law, weighting, reduction=options.reduction, train=train)
            for train in (True, False)
        )
        return objectives.dropping(train, options.drop_cond), test, objectives.noise_error


def build_model(config: ConfigDict) -> Model:
    """The network, the process and the parametrization."""
    conditioning = build("parametrization", config.conditioning)
    return Model(
        build("nets", config.net.to_dict()),
        build("sde", config.sde),
        build("parametrization", config.parametrization, c_noise=conditioning),
    )


def build_optimizer(
    config: ConfigDict, steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Adam after a global clip; the rate warms up linearly and then is constant or a cosine."""
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup)
    if config.schedule == "constant":
        rest = optax.constant_schedule(config.learning_rate)
    elif config.schedule == "cosine":
        rest = optax.cosine_decay_schedule(config.learning_rate, max(steps - config.warmup, 1))
    else:
        raise ConfigError(f"optim.schedule is {config.schedule!r}: one of constant, cosine")
    learning_rate = optax.join_schedules([warmup, rest], [config.warmup])
    adam = optax.adamw(
        # the first step has the rate of step 1, not 0
        lambda count: learning_rate(count + 1),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        # not of biases, norms and the fixed frequencies of Fourier features
        mask=lambda params: jax.tree.map(lambda a: a.ndim > 1, params),
    )
    clip = optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
    return optax.chain(clip, adam), learning_rate


def updates(opt_state: optax.OptState) -> int:
    """How many steps an optimiser's state has made, by which its learning rate goes: after an
    import they are fewer than the steps of the parameters."""
    return int(optax.tree_utils.tree_get_all_with_path(opt_state, "count")[0][1])


def prepare(config: ConfigDict, pixels: Pixels) -> Callable[[Key, dict], dict]:
    """Integer images to the network's space, on the device."""
    dequantize = config.data.dequantize

    def convert(key, raw):
        image = raw["image"]
        x = pixels.dequantize(key, image) if dequantize else pixels.encode(image)
        return {"x": x, "cond": {"label": raw["label"]}}

    return convert


def initial_state(config: ConfigDict, experiment: Experiment) -> TrainState:
    """The state before the first step, on all devices."""

    def make(key):
        params = experiment.model.init(key, experiment.data.image_shape)
        return create(params, experiment.optimizer, len(config.train.ema_rates))

    with at("net"):
        return jax.jit(make, out_shardings=experiment.replicated)(key_for(config, "init"))


def key_for(config: ConfigDict, purpose: str) -> Key:
    """The root key of one of PURPOSES, which no other purpose or seed shares."""
    return jax.random.fold_in(jax.random.key(config.seed), PURPOSES.index(purpose))


def sampling_sde(config: ConfigDict) -> SDE:
    """The process as far as sampling goes: to `sampling.t_min`, if that is set."""
    sde, t_min = build("sde", config.sde), config.sampling.t_min
    with at("sampling.t_min"):
        return sde if t_min is None else dataclasses.replace(sde, t_min=t_min)


def build_grid(config: ConfigDict) -> Callable[[SDE], Grid]:
    """The times of sampling, for a process."""
    if config.sampling.steps < 1:
        raise ConfigError(f"sampling.steps must be at least 1, not {config.sampling.steps}")
    return lambda sde: build("grids", config.sampling.grid, sde, config.sampling.steps)


def to_uint8(config: ConfigDict, pixels: Pixels) -> Callable[[Array], Array]:
    """What a sampler gives to images 0..255."""
    if config.sampling.truncate:
        return pixels.truncate
    return lambda x: pixels.to_uint8(pixels.decode(x, dequantized=config.data.dequantize))


class Drawn(NamedTuple):
    """x uint8 [b, h, w, c], 0..255; label int [b], -1 where no class was asked for; nfe and depth
    as of `sampling.Sample`."""

    x: Array
    label: Array
    nfe: Array
    depth: Array


def build_sampler(
    config: ConfigDict, experiment: Experiment, batch_size: int
) -> Callable[..., Drawn]:
    """A compiled `(params, key, first=0) -> Drawn` of batch_size samples, of which the first has
    that number among all: `sampling.labels` go by it."""
    options = config.sampling
    sde = sampling_sde(config)
    denoiser_of = build_denoiser(config, experiment)
    labels_of = build_labels(config, experiment)
    times = build_grid(config)(sde)
    solver = build("solvers", options.solver, sde)
    shape = (batch_size, *experiment.data.image_shape)
    run = sampling.sample
    if options.window is not None:
        run = functools.partial(parallel.sample, window=options.window, tolerance=options.tolerance)

    as_uint8 = to_uint8(config, experiment.pixels)
    marked = build_mark(config, experiment, solver, times)

    @jax.jit
    def draw(denoiser_of, params, key, first):
        key_prior, key_cond, key_solver = jax.random.split(key, 3)
        x = marked(sde.prior_sample(key_prior, shape, np.float32))
        x = jax.lax.with_sharding_constraint(x, experiment.sharded())
        label = labels_of(key_cond, first + jnp.arange(batch_size, dtype=jnp.int32))
        denoiser = denoiser_of(params, {"label": label})
        result = run(key_solver, solver, denoiser, x, times, denoise=options.denoise)
        return Drawn(as_uint8(result.x), label, result.nfe, result.depth)

    return lambda params, key, first=0: draw(denoiser_of, params, key, jnp.int32(first))


def build_labels(config: ConfigDict, experiment: Experiment) -> Callable[[Key, Array], Array]:
    """`(key, numbers int [b]) -> labels int [b]` of the samples of these numbers: `sampling.labels`
    in turn, or any class at random; -1 where no network looks at it.

    Raises:
      ConfigError: one of `sampling.labels` is no class, or nothing takes labels.
    """
    labels, classes = tuple(config.sampling.labels), experiment.data.num_classes
    if not (config.net.get("num_classes", 0) or _guidance(config).is_of_labels):
        if labels:
            raise ConfigError(
                f"sampling.labels={labels}, but the network has no classes (net.num_classes is 0) "
                "and no classifier guides it"
            )
        return lambda key, numbers: jnp.full_like(numbers, -1)
    with at("sampling.labels"):
        conditions.check_labels(labels, classes)
    if labels:
        return lambda key, numbers: jnp.asarray(labels, jnp.int32)[numbers % len(labels)]
    return lambda key, numbers: jax.random.randint(key, numbers.shape, 0, classes)


def build_denoiser(
    config: ConfigDict, experiment: Experiment
) -> Callable[[PyTree, Cond], Denoiser]:
    """`(params, cond) -> Denoiser`: the model's, under `sampling.guidance` and then within
    `sampling.threshold`.

    It is a pytree that holds the parameters of the guide: given to a compiled program as an
    argument, as `build_sampler` does, they are not constants of it.

    Raises:
      ConfigError: guidance that the network is not made for, or a guide of other images or of
        another process. CheckpointError: there is no guide. DataError.
    """
    check_denoises(config)
    guidance = _guidance(config)
    pixels = experiment.pixels
    change = build(
        "thresholding", config.sampling.threshold or "none", -1.0 if pixels.centered else 0.0, 1.0
    )
    if guidance.drops and not config.net.get("num_classes", 0):
        raise ConfigError(
            f"sampling.guidance={config.sampling.guidance!r} needs a network with classes, and "
            "net.num_classes is 0: take classifier or autoguidance, or train one with classes"
        )
    if guidance.drops and not config.objective.drop_cond:
        raise ConfigError(
            f"sampling.guidance={config.sampling.guidance!r} needs a network that has learnt to do "
            "without its class, and objective.drop_cond is 0: train with 0.1"
        )
    of_guide, guide_params = lambda params, cond: None, ()
    if guidance.guide is not None:
        of_guide, guide_params = _load_guide(config, experiment, guidance.guide)

    def denoiser(guide_params, params, cond):
        of_cond = functools.partial(experiment.model.denoiser, params)
        guided = guidance.guided(of_cond, functools.partial(of_guide, guide_params))
        return change(guided(cond))

    return jax.tree_util.Partial(denoiser, guide_params)


def _guidance(config: ConfigDict) -> Guidance:
    sde = sampling_sde(config)
    return build("guidance", config.sampling.guidance or "unguided", sde, build_grid(config)(sde))


def _load_guide(
    config: ConfigDict, experiment: Experiment, guide: Guide
) -> tuple[Callable[[PyTree, Cond], Any], PyTree]:
    """`(params, cond) -> denoiser or log-probability` of another workdir, and its params."""
    workdir = Path(guide.workdir)
    theirs = stored_config(workdir, config)
    name, wanted = theirs.objective.name, guide.objective
    if name != wanted:
        raise ConfigError(
            f"sampling.guidance: {workdir} was trained with objective.name={name!r}, and this kind "
            f"of guide is of {wanted!r}"
        )
    same = as_json(theirs)["data"] == as_json(config)["data"]
    other = load(theirs, experiment.data if same else None)
    for what, ours, found in (
        ("sde", experiment.model.sde, other.model.sde),
        ("images of shape", experiment.data.image_shape, other.data.image_shape),
        ("classes", experiment.data.num_classes, other.data.num_classes),
        ("data.centered", experiment.pixels.centered, other.pixels.centered),
    ):
        if ours != found:
            raise ConfigError(
                f"sampling.guidance: {workdir} has {what} {found}, and the network that it is to "
                f"guide {ours}"
            )
    params, _ = _restore(theirs, other, workdir, guide.step)

    def log_prob(params, cond):
        return lambda x_t, t: conditions.log_prob(
            other.model.network(params, x_t, t), cond["label"]
        )

    return log_prob if is_classifier(theirs) else other.model.denoiser, params


def build_watermark(config: ConfigDict, experiment: Experiment) -> Watermark:
    """The key of `config.watermark`.

    Raises:
      ConfigError: the ring does not fit the images.
    """
    options = config.watermark
    with at("watermark"):
        return tree_ring(
            experiment.data.image_shape, options.key, options.inner, options.outer, options.level
        )


def build_mark(
    config: ConfigDict, experiment: Experiment, solver: Solver, times: Grid
) -> Callable[[Array], Array]:
    """What puts the watermark, if there is a key, into the noise that sampling starts with.

    Raises:
      ConfigError: the solver draws noise of its own, from which it cannot be read again.
    """
    if config.watermark.key is None:
        return lambda x: x
    if compare.is_stochastic(solver, times):
        raise ConfigError(
            f"watermark.key needs a sampler without noise of its own, such as probability_flow, "
            f"dpmpp or ddim, not sampling.solver={config.sampling.solver}"
        )
    return functools.partial(mark, build_watermark(config, experiment))


def round_to_devices(wanted: int, total: int) -> int:
    """A batch size near `wanted`: at most what is needed, and a multiple of the devices."""
    if min(wanted, total) < 1:
        raise ConfigError(f"a batch size and a number of images must be positive, not {wanted}")
    return math.ceil(min(wanted, total) / jax.device_count()) * jax.device_count()


def restore(config: ConfigDict, workdir: Path) -> tuple[Experiment, PyTree, int]:
    """The experiment, the averaged parameters (`sampling.ema`-th rate) of the newest checkpoint,
    and its step.

    Raises:
      CheckpointError: the workdir has none, or it does not fit. ConfigError, DataError.
    """
    _check_is_trained(workdir)
    check_config(config, workdir)
    experiment = load(config)
    return experiment, *_restore(config, experiment, workdir)


def _check_is_trained(workdir: Path) -> None:
    if not (workdir / "checkpoints").is_dir():
        raise CheckpointError(
            f"{workdir} has no checkpoint: run --mode train with this --workdir first"
        )


def _restore(
    config: ConfigDict, experiment: Experiment, workdir: Path, step: int | None = None
) -> tuple[PyTree, int]:
    """The averaged parameters of the newest checkpoint, or of that of a step, and its step."""
    abstract = jax.eval_shape(lambda: initial_state(config, experiment))
    checkpoints = Checkpoints(workdir, config.train.keep)
    restored = checkpoints.restore(abstract_like(abstract, experiment.replicated), step)
    steps = checkpoints.steps()
    checkpoints.close()
    if restored is None and steps:
        raise CheckpointError(f"{workdir} has no checkpoint of step {step}: one of {steps}")
    if restored is None:
        raise CheckpointError(f"{workdir} has no checkpoint yet: run --mode train first")
    return restored.state.ema[config.sampling.ema], restored.step


def store(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Writes a mode's result as DIR/MODE.json and returns it."""
    path.write_text(json.dumps(result, indent=2) + "\n")
    return result


# The config of a workdir, stored beside what it made.


def as_json(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(config.to_dict(), default=list))


def identity(config: ConfigDict) -> dict[str, Any]:
    """As JSON, the part of a config that says which parameters and data its numbers are of."""
    parts = ("seed", "sde", "parametrization", "conditioning", "net", "data")
    return {part: as_json(config)[part] for part in parts} | {"ema": config.sampling.ema}


def store_config(config: ConfigDict, workdir: Path) -> None:
    """Writes DIR/config.json."""
    (workdir / "config.json").write_text(json.dumps(as_json(config), indent=2) + "\n")


def check_config(config: ConfigDict, workdir: Path) -> None:
    """Compares a config with the one stored in the workdir and prints what differs; the given one
    is used.

    Raises:
      ConfigError: the workdir is that of another model.
    """
    if not (workdir / "config.json").exists():
        return
    stored = _flat(_read_config(workdir))
    given = _flat(as_json(config))
    changed = {
        key: f"{stored.get(key)!r} -> {given.get(key)!r}"
        for key in sorted(stored.keys() | given.keys())
        if stored.get(key) != given.get(key)
    }
    model = {
        key: change
        for key, change in changed.items()
        if (key in MODEL_FIELDS or key.split(".")[0] in MODEL_FIELDS)
        and key not in FREE_FIELDS
        and _meaning(stored.get(key)) != _meaning(given.get(key))
        and not (key not in stored and _is_default(config, key))
    }
    if model:
        listed = ", ".join(f"{key} {change}" for key, change in model.items())
        raise ConfigError(
            f"{workdir} holds another model ({listed}): choose another --workdir, or the config "
            "that it was made with"
        )
    for key, change in changed.items():
        print(f"config differs from the stored one, the given value is used: {key} {change}")


def stored_config(workdir: Path, given: ConfigDict) -> ConfigDict:
    """The config that a workdir was made with. Fields that it had not yet are the given one's, save
    those of its network.

    Raises:
      CheckpointError: the workdir has no config or no checkpoint. ConfigError: it is damaged.
    """
    _check_is_trained(workdir)
    if not (workdir / "config.json").exists():
        raise CheckpointError(f"{workdir} has no config.json, which says what its checkpoints mean")
    stored, config = _read_config(workdir), given.to_dict()
    for part, value in stored.items():
        whole = isinstance(value, dict) and part != "net"
        config[part] = {**config.get(part, {}), **value} if whole else value
    return ConfigDict(_tuples(config))


def _tuples(value: Any) -> Any:
    """What was JSON, with tuples in the place of lists."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _read_config(workdir: Path) -> dict[str, Any]:
    path = workdir / "config.json"
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not valid JSON ({error}): mend or remove it") from None


def _meaning(value: Any) -> Any:
    """Of two spellings of one spec, "VP" and "VP()", the same."""
    return parse(value) if isinstance(value, str) else value


def _is_default(config: ConfigDict, key: str) -> bool:
    """Of a field that the stored config did not have yet: whether its value changes nothing."""
    part, _, field = key.partition(".")
    if part != "net" or not field:
        return False
    net = config.net.to_dict()
    without = {name: value for name, value in net.items() if name != field}
    return build("nets", without) == build("nets", net)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
