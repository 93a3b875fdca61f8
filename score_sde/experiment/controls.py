"""Several ControlNets over one network, each from a workdir of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from score_sde.config import call, parse
from score_sde.errors import ConfigError
from score_sde.experiment.build import Experiment, Load
from score_sde.experiment.encoders import with_conditioner
from score_sde.models.model import Model
from score_sde.nets.controlnet import Controlled
from score_sde.types import PyTree


class Control(NamedTuple):
    """net: `network -> ControlNet` over it. params: the ControlNet's. weight: the factor of what it
    says. conditioner: of its workdir, which makes the hint."""

    net: Callable[[nn.Module], nn.Module]
    params: PyTree
    weight: float
    conditioner: str


def controlled(
    config: ConfigDict,
    plain: Experiment,
    params: PyTree,
    controls: Sequence[Control],
    load: Load,
) -> tuple[Experiment, PyTree]:
    """The experiment of a network under ControlNets, as `config.sampling` says, and the parameters
    of all.

    plain, params: the network alone. load: loads the frozen networks of a conditioner.

    Raises:
      ConfigError: there are more or fewer intervals than ControlNets.
    """
    intervals, model = config.sampling.control_intervals, plain.model
    if intervals and len(intervals) != len(controls):
        raise ConfigError(
            f"sampling.control_intervals has {len(intervals)} entries for {len(controls)} "
            "ControlNets"
        )
    net = Controlled(
        model.net,
        tuple(control.net(model.net) for control in controls),
        tuple(control.weight for control in controls),
        tuple(_noise_of(model, interval) for interval in intervals),
        config.sampling.control_deeper,
    )
    model = model._replace(net=net)
    spec = joined([control.conditioner for control in controls])
    changed = with_conditioner(config, spec, plain._replace(model=model), load)
    parts = {f"controls_{i}": control.params for i, control in enumerate(controls)}
    return changed, {"net": params, **parts}


def joined(specs: Sequence[str]) -> str:
    """The conditioner `hints` with all hints of several of them; the last says the rest."""
    name, options = parse(specs[-1])
    names = (hint for spec in specs for hint in parse(spec)[1].get("of", ("outline",)))
    options["of"] = tuple(dict.fromkeys(names))
    return call(name, options)


def _noise_of(model: Model, interval: tuple[float, float]) -> tuple[float, float]:
    """Times as the numbers that a network reads, the smaller first."""
    times = jnp.asarray(interval, jnp.float32)
    ends = sorted(model.parametrization.c_noise(model.sde, times).tolist())
    return ends[0], ends[1]
