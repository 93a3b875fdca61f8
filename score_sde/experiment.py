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
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array
from ml_collections import ConfigDict

from score_sde import compare, objectives, parallel, sampling
from score_sde.config import ConfigError, at, build, parse
from score_sde.data import Data, Pixels
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
    """What a config describes. `losses` has dropout off; `mesh` has one axis, "data", over all
    devices."""

    data: Data
    pixels: Pixels
    model: Model
    objective: objectives.Objective
    losses: objectives.Losses
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


def load(config: ConfigDict) -> Experiment:
    """Builds everything that training and evaluation share.

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
    loader = {
        key: value
        for key, value in config.data.to_dict().items()
        if key not in ("centered", "dequantize", "flip") and value is not None
    }
    loaded = build("data", loader)
    law = build("time_law", config.objective.time_law)
    weighting = build("weighting", config.objective.weighting)
    with at("objective"):
        train, test = (
            objectives.denoising(
                model, law, weighting, reduction=config.objective.reduction, train=train
            )
            for train in (True, False)
        )
    optimizer, learning_rate = build_optimizer(config.optim, config.train.steps)
    return Experiment(
        loaded,
        Pixels(levels=loaded.levels, centered=config.data.centered),
        model,
        objectives.mean(train),
        test,
        optimizer,
        learning_rate,
        Mesh(np.array(jax.devices()), ("data",)),
    )


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


def build_denoiser(
    config: ConfigDict, experiment: Experiment
) -> Callable[[PyTree, Cond], Denoiser]:
    """`(params, cond) -> Denoiser`, the one that samples are drawn with."""
    return experiment.model.denoiser


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


def build_sampler(config: ConfigDict, experiment: Experiment, batch_size: int) -> Callable:
    """A compiled `(params, key) -> Sample` whose x is uint8 [batch_size, h, w, c], 0..255."""
    options = config.sampling
    model = experiment.model
    sde = sampling_sde(config)
    times = build_grid(config)(sde)
    solver = build("solvers", options.solver, sde)
    shape = (batch_size, *experiment.data.image_shape)
    run = sampling.sample
    if options.window is not None:
        run = functools.partial(parallel.sample, window=options.window, tolerance=options.tolerance)

    as_uint8 = to_uint8(config, experiment.pixels)
    marked = build_mark(config, experiment, solver, times)

    def draw(params, key):
        key_prior, key_cond, key_solver = jax.random.split(key, 3)
        x = marked(sde.prior_sample(key_prior, shape, np.float32))
        x = jax.lax.with_sharding_constraint(x, experiment.sharded())
        cond = {"label": jax.random.randint(key_cond, shape[:1], 0, experiment.data.num_classes)}
        denoiser = model.denoiser(params, cond)
        result = run(key_solver, solver, denoiser, x, times, denoise=options.denoise)
        return result._replace(x=as_uint8(result.x))

    return jax.jit(draw)


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
    path = workdir / "config.json"
    if not path.exists():
        return
    try:
        stored = _flat(json.loads(path.read_text()))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not valid JSON ({error}): mend or remove it") from None
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
