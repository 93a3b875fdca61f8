"""What of a config is another than in a stored one, and whether it means another model."""

from __future__ import annotations

import json
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from score_sde.config import build, parse
from score_sde.errors import ConfigError, one_line

# Another value of these fields means another model, with the exceptions below.
MODEL_FIELDS = (*("sde", "parametrization", "c_noise", "net", "codec", "conditioner", "adapter"),)
FREE_FIELDS = (
    *("net.dropout", "net.dtype", "net.remat", "codec.dequantize", "codec.truncate"),
    *("codec.workdir", "codec.tile", "codec.overlap"),  # `digests.check` knows another autoencoder
)

# What a conditioner reads, by where it is; another database may take the place of that of training
_FOLDERS = ("encoders", "tokenizers", "autoencoder", "database")


def as_json(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(config.to_dict(), default=list))


def differences(stored: dict[str, Any], config: ConfigDict) -> tuple[list[str], list[str]]:
    """All fields that differ, as "NAME OLD -> NEW", and those that mean another model."""
    old, new = (flatten_dict(tree, sep=".") for tree in (stored, as_json(config)))
    changed = {
        key: one_line(f"{key} {old.get(key)!r} -> {new.get(key)!r}", 400)
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }
    model = [
        change
        for key, change in changed.items()
        if (key in MODEL_FIELDS or key.split(".")[0] in MODEL_FIELDS)
        and key not in FREE_FIELDS
        and _meaning(old.get(key)) != _meaning(new.get(key))
        and not (key not in old and _is_default(config, key))
    ]
    return list(changed.values()), model


def _meaning(value: Any) -> Any:
    """The same for two spellings of one spec, such as "VP" and "VP()", for two databases, and for
    two places of the same frozen networks, which `digests.check` tells from others."""
    if not isinstance(value, str):
        return value
    try:
        name, options = parse(value)
    except ConfigError:  # it means nothing
        return value
    kept = {key: option for key, option in options.items() if key not in _FOLDERS}
    return name, {key: _meaning(v) if key == "text" else v for key, v in kept.items()}


def _is_default(config: ConfigDict, key: str) -> bool:
    """Whether a field that the stored config lacks has the network's own default."""
    part, _, field = key.partition(".")
    if part != "net" or field in ("", "name"):
        return False
    net = config.net.to_dict()
    without = {name: value for name, value in net.items() if name != field}
    return build("nets", without) == build("nets", net)
