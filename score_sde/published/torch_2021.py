"""Checkpoints of the PyTorch port of the 2021 code,
https://github.com/yang-song/score_sde_pytorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from score_sde.nets.ncsnpp import NCSNpp
from score_sde.published import torch_file
from score_sde.published.matching import (
    Imported,
    call_order,
    fit,
    from_torch,
    is_number,
    match,
    step_of,
)

_FOURIER = ("fourier", "kernel")  # our name of the only parameter without a gradient


def load(path: Path, net: NCSNpp, shape: tuple[int, ...]) -> Imported:
    """A file `checkpoint_N.pth`: the parameters, their average and the step.

    A network of the port holds its modules in one list, in the order of their calls. The averages
    are a list too, of the parameters with a gradient. The frequencies of Fourier features have no
    gradient, so their average is the parameter itself.

    Raises:
        ValueError: the file is damaged, would need code to be executed, or is no such checkpoint;
            or its parameters do not fit `net`.
    """
    given, tree, shadow, step = _read(path)
    calls, shapes = call_order(net, shape)

    top = [ours for ours, _ in calls if len(ours) == 1]
    indices = sorted((name for name in tree if is_number(name)), key=int)
    known = {(): ()} | {ours: (index,) for ours, index in zip(top, indices, strict=False)}
    ours_of = {".".join(theirs): ours for ours, theirs in match(calls, tree, known).items()}
    names = {}
    for key, value in given.items():
        module, _, leaf = key.rpartition(".")
        if module in ours_of:
            names[(*ours_of[module], _leaf(leaf, value))] = key

    params = fit(path, shapes, names, {key: _layout(key, a) for key, a in given.items()})
    averaged = [key for key in given if key != names.get(_FOURIER)]
    if len(shadow) != len(averaged):
        raise ValueError(
            f"{path} does not fit the network: {len(shadow)} averages of {len(averaged)} parameters"
        )
    average = given | dict(zip(averaged, shadow, strict=True))
    ema = fit(path, shapes, names, {key: _layout(key, a) for key, a in average.items()})
    return Imported("score_sde, PyTorch", path, params, ema, step)


def _read(
    path: Path,
) -> tuple[dict[str, np.ndarray], dict[str, Any], list[np.ndarray], int]:
    """The parameters by their names within `all_modules`, flat and as a tree; the averages and the
    step."""
    state: Any = torch_file.read(path)
    try:
        model = {key.removeprefix("module."): value for key, value in state["model"].items()}
        model.pop("sigmas", None)  # noise levels, which the process has here
        given = {key.removeprefix("all_modules."): value for key, value in model.items()}
        shadow = list(state["ema"]["shadow_params"])
        if not all(isinstance(value, np.ndarray) for value in [*given.values(), *shadow]):
            raise TypeError("a parameter is no array")
        return given, unflatten_dict(given, sep="."), shadow, step_of(state["step"])
    except Exception as error:  # whatever an object of another kind raises here
        raise ValueError(
            f"{path} is no checkpoint of the PyTorch port of score_sde "
            f"({type(error).__name__}: {error})"
        ) from error


def _leaf(leaf: str, value: np.ndarray) -> str:
    if leaf == "weight":
        return "kernel" if value.ndim > 1 else "scale"
    return {"W": "kernel", "b": "bias"}.get(leaf, leaf)


def _layout(key: str, value: np.ndarray) -> np.ndarray:
    """`from_torch`; NIN, whose array is no `weight`, is the same."""
    return from_torch(value) if key.endswith("weight") else value
