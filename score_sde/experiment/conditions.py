"""The conditions that a network reads, and those that there are."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from score_sde.conditioning.conditioner import Conditioner
from score_sde.config import build
from score_sde.errors import ConfigError

# The field of a network that says how large each part of a condition is; 0 if it is not read.
CONDITION_FIELDS = {
    "label": "num_classes",
    "vector": "cond_features",
    "image": "cond_channels",
    "context": "context_features",
    "tokens": "vocabulary",
    "sizes": "sizes",
}


def fields_of_net(config: ConfigDict) -> dict[str, Any]:
    """The fields of the network, as an adapter changes them."""
    if config.adapter is None:
        return config.net.to_dict()
    return {**config.net.to_dict(), **build("models.adapters", config.adapter).fields}


def check_conditions(config: ConfigDict, conditioner: Conditioner, data: str) -> None:
    """Raises a ConfigError unless the network takes the conditions that there are; a size of 0
    takes none."""
    net = fields_of_net(config)
    for part, field in {**CONDITION_FIELDS, "augment": "augment_dim"}.items():
        size, there = net.get(field, 0), conditioner.sizes.get(part, 0)
        if size not in (0, there):
            raise ConfigError(
                f"net.{field} is {size}, and the data set {data} with the conditioner "
                f"{config.conditioner} has {there}: set it to 0 or {there}"
            )
