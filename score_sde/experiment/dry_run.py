"""What a training run would be, told without a step of it: `--mode train --dry_run`."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from score_sde.experiment import base, program
from score_sde.experiment.build import abstract_state
from score_sde.experiment.teachers import load
from score_sde.models.model import num_params
from score_sde.types import PyTree


def describe(config: ConfigDict) -> dict[str, Any]:
    """Prints the config, first what differs from the defaults, then all of it, and returns what a
    step takes: parameters; on each device the bytes of the state and of all arrays at the same
    time, as XLA plans them; and the operations of a step over all devices, as XLA counts them.

    Raises:
      ConfigError, DataError: as training does.
    """
    experiment = load(config)
    fields = flatten_dict(config.to_dict(), sep=".")
    defaults = flatten_dict(base.get_config().to_dict(), sep=".")
    print("Fields that differ from the defaults:")
    _print({name: v for name, v in fields.items() if name not in defaults or v != defaults[name]})
    print("\nAll fields:")
    _print(fields)
    state = abstract_state(experiment)
    plan: Any = program.lowered_step(config, experiment).compile().memory_analysis()
    whole = config.copy_and_resolve_references()
    whole.train.accumulate = 1  # XLA counts the body of a loop once
    cost = program.lowered_step(whole, experiment).cost_analysis() or {}
    return {
        "parameters": num_params(state.params),
        "examples": len(experiment.data.train),
        "devices": jax.device_count(),
        "state_bytes_a_device": _bytes(state),
        "peak_bytes_a_device": plan.argument_size_in_bytes + plan.temp_size_in_bytes,
        "operations_a_step": cost.get("flops", float("nan")),
    }


def _bytes(tree: PyTree) -> int:
    return sum(
        jnp.dtype(leaf.dtype).itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(tree)
    )


def _print(fields: dict[str, Any]) -> None:
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        print(f"  {name:{width}} = {value!r}")
