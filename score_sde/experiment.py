"""From a config to objects: the door behind which nothing reads a config any more."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from score_sde import objectives, sampling
from score_sde.config import ConfigError, build
from score_sde.data import Data, Pixels
from score_sde.model import Model
from score_sde.state import TrainState, create
from score_sde.types import Key

MODEL_FIELDS = ("sde", "parametrization", "conditioning", "net")


class Experiment(NamedTuple):
    """What a config describes. `mesh` has one axis, "data", over all devices of all processes."""

    data: Data
    pixels: Pixels
    model: Model
    objective: objectives.Objective
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
    options = config.data.to_dict()
    pixels = {key: options.pop(key) for key in ("centered", "dequantize", "flip")}
    loaded = build("data", options)
    objective = objectives.denoising(
        model,
        build("time_law", config.objective.time_law),
        build("weighting", config.objective.weighting),
        reduction=config.objective.reduction,
    )
    optimizer, learning_rate = build_optimizer(config.optim, config.train.steps)
    return Experiment(
        loaded,
        Pixels(levels=loaded.levels, centered=pixels["centered"]),
        model,
        objective,
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
    )
    clip = optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
    return optax.chain(clip, adam), learning_rate


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

    return jax.jit(make, out_shardings=experiment.replicated)(jax.random.key(config.seed))


def build_sampler(config: ConfigDict, experiment: Experiment, batch_size: int) -> Callable:
    """A compiled `(params, key) -> Sample` whose x is uint8 [batch_size, h, w, c], 0..255."""
    options = config.sampling
    model = experiment.model
    sde = model.sde
    if options.t_min is not None:
        sde = dataclasses.replace(sde, t_min=options.t_min)
    times = build("sampling", options.grid, sde, options.steps)
    solver = build("solvers", options.solver, sde)
    shape = (batch_size, *experiment.data.image_shape)

    def draw(params, key):
        key_prior, key_cond, key_solver = jax.random.split(key, 3)
        x = sde.prior_sample(key_prior, shape, np.float32)
        x = jax.lax.with_sharding_constraint(x, experiment.sharded())
        cond = {"label": jax.random.randint(key_cond, shape[:1], 0, experiment.data.num_classes)}
        denoiser = model.denoiser(params, cond)
        result = sampling.sample(key_solver, solver, denoiser, x, times, denoise=options.denoise)
        levels = experiment.pixels.decode(result.x, dequantized=config.data.dequantize)
        return result._replace(x=experiment.pixels.to_uint8(levels))

    return jax.jit(draw)


def per_device(wanted: int, total: int) -> int:
    """A batch size near `wanted`: at most what is needed, and a multiple of the devices."""
    return math.ceil(min(wanted, total) / jax.device_count()) * jax.device_count()


# The config of a workdir, stored beside what it made.


def as_json(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(config.to_dict(), default=list))


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
    model = {k: v for k, v in changed.items() if k.split(".")[0] in MODEL_FIELDS}
    free = ("net.dropout", "net.dtype", "net.remat")  # do not change what parameters mean
    if model := {k: v for k, v in model.items() if k not in free}:
        listed = ", ".join(f"{key} {change}" for key, change in model.items())
        raise ConfigError(
            f"{workdir} holds another model ({listed}): choose another --workdir, or the config "
            "that it was made with"
        )
    for key, change in changed.items():
        print(f"config differs from the stored one, the given value is used: {key} {change}")


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
