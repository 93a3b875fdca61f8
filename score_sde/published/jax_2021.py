"""Checkpoints of the JAX code of Song et al. 2021, https://github.com/yang-song/score_sde."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from flax.serialization import msgpack_restore
from flax.traverse_util import flatten_dict

from score_sde.errors import reason
from score_sde.nets.ncsnpp import NCSNpp
from score_sde.published.matching import Imported, call_order, fit, match, step_of

_LEAVES = {"W": "kernel", "weight": "kernel", "b": "bias"}


def load(path: Path, net: NCSNpp, shape: tuple[int, ...]) -> Imported:
    """A msgpack file `checkpoint_N`: the parameters, their average and the step.

    Raises:
        ValueError: the file is damaged or is no such checkpoint, or its parameters do not fit
            `net`.
    """
    state = _read(path)
    calls, shapes = call_order(net, shape)

    def parameters(tree):
        modules = match(calls, tree, {(): ()})
        given = {
            "/".join((*module, str(_LEAVES.get(leaf, leaf)))): _layout(leaf, value)
            for (*module, leaf), value in flatten_dict(tree).items()
        }
        names = {
            ours: "/".join((*modules[ours[:-1]], ours[-1]))
            for ours in flatten_dict(shapes)
            if ours[:-1] in modules
        }
        return fit(path, shapes, names, given)

    return Imported(
        "score_sde, JAX",
        path,
        parameters(state["optimizer"]["target"]),
        parameters(state["params_ema"]),
        step_of(state["step"]),
    )


def _read(path: Path) -> dict[str, Any]:
    """The state in a file. msgpack holds only data: nothing in it is executed."""
    content = path.read_bytes()
    try:
        state: Any = msgpack_restore(content)
        for params in (state["optimizer"]["target"], state["params_ema"]):
            flat = flatten_dict(params)
            if not all(isinstance(value, np.ndarray) for value in flat.values()):
                raise TypeError("a parameter is no array")
            if not all(isinstance(part, str) for name in flat for part in name):
                raise TypeError("the name of a parameter is no text")
        step_of(state["step"])
    except Exception as error:  # whatever a damaged file makes the parser raise
        raise ValueError(
            f"{path} is damaged or is no checkpoint of the JAX code of score_sde ({reason(error)})"
        ) from error
    return state


def _layout(leaf: str, value: np.ndarray) -> np.ndarray:
    """The scale and bias of a GroupNorm are stored as [1, 1, 1, c]."""
    return value.reshape(-1) if leaf in ("scale", "bias") else value
