"""The transformers of DiT (arXiv:2212.09748) and SiT (arXiv:2401.08740), which share one network:
files of facebookresearch/DiT and willisma/SiT, and folders of diffusers with a
`DiTTransformer2DModel`."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde.nets.dit import DiT
from score_sde.nets.positions import sines
from score_sde.published import dit_diffusers, torch_file
from score_sde.published.dit_names import shapes_of, to_ours
from score_sde.published.matching import Imported, misfit, require_same

State = dict[str, np.ndarray]

_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # by the width of a published network


class Description(NamedTuple):
    """What a file or folder says of its network.

    net: fields of DiT. A file does not tell the number of heads: it is that of the published
    network of the same width, and 0 for another width. shape: (h, w, c) of an example.
    out_channels: of the head; half of them are the mean, if they are twice those of x. process: the
    fields of a config that a folder's scheduler decides; a file has none.
    """

    net: dict[str, Any]
    shape: tuple[int, int, int]
    out_channels: int
    process: dict[str, Any] | None = None


def describe(path: Path) -> Description:
    """Reads what the shapes of a file, or the JSON files of a folder, say.

    Raises:
        OSError: as `open`. ValueError: the source is damaged, or holds another network; one line.
    """
    if path.is_dir():
        return Description(*dit_diffusers.describe(path))
    return _of_shapes(path, _read(path)[0])


def load(path: Path, net: DiT, shape: tuple[int, ...]) -> Imported:
    """The parameters of a file or folder. A file of one's own training holds their average too. No
    file tells its step.

    A head of twice the channels of x gives a mean, and what DiT's variance is made of or what SiT
    does not use: with net.out_channels=0 only the mean is read.

    Raises:
        OSError: as `open`. ValueError: the source is damaged, would need code to be executed, or
            does not fit `net`; one line.
    """
    described = describe(path)
    if path.is_dir():
        kind, own = "diffusers, DiTTransformer2DModel", dit_diffusers.own_scheduler(path)
        file, state = dit_diffusers.read(path, described.net["depth"])
        states = [state]
    else:
        kind, own, file = "DiT or SiT, PyTorch", None, path
        states = [s for s in _read(path) if s is not None]
    _check(path, net, shape, described)
    expected = shapes_of(net, described.shape, described.out_channels)
    if path.is_dir():
        del expected["pos_embed"]  # computed there
    trees = [_parameters(path, net, shape, state, expected) for state in states]
    return Imported(kind, file, trees[0], trees[1] if len(trees) > 1 else None, 0, own)


def _parameters(path, net, shape, state, expected):
    problems = [f"{name} is missing" for name in expected if name not in state]
    for name, value in state.items():
        if name not in expected:
            problems.append(f"{name} is left over")
        elif value.shape != expected[name]:
            problems.append(f"{name} has shape {value.shape}, not {expected[name]}")
        elif value.dtype.kind not in "fiu" and value.dtype.name != "bfloat16":
            problems.append(f"{name} holds {value.dtype}, not real numbers")
    if problems:
        raise ValueError(f"{path} {misfit(problems)}")
    if "pos_embed" in expected:
        grid = [n // net.patch_size for n in shape[:2]]
        if not np.abs(state["pos_embed"][0] - sines(grid, net.width)).max() < 1e-4:
            raise ValueError(f"{path} has another pos_embed than sines of the row and the column")
    return to_ours(net, state, net.out_channels or shape[-1])


def _check(path: Path, net: DiT, shape: tuple[int, ...], described: Description) -> None:
    heads = net.num_heads if described.process is None else described.net["num_heads"]
    theirs = DiT(**{**described.net, "num_heads": heads})
    require_same(path, net, theirs, "dit", ignored=["out_channels"])
    if tuple(shape) != described.shape:
        raise ValueError(f"{path} is for examples of shape {described.shape}, not {tuple(shape)}")
    channels = net.out_channels or shape[-1]
    if described.out_channels != channels and (
        described.out_channels != 2 * channels or channels != shape[-1]
    ):
        raise ValueError(
            f"{path} does not fit the network: net.out_channels is {net.out_channels}, and there "
            f"are {described.out_channels}"
        )


def _read(path: Path) -> tuple[State, State | None]:
    """The parameters of a file, and their average if there is one."""
    content: Any = torch_file.read(path)
    try:
        states = [content[key] for key in ("model", "ema") if key in content] or [content]
        states = [{k.removeprefix("module."): v for k, v in s.items()} for s in states]
        if not all(isinstance(v, np.ndarray) for state in states for v in state.values()):
            raise TypeError("a parameter is no array")
    except Exception as error:  # whatever an object of another kind raises here
        raise ValueError(
            f"{path} is no checkpoint of DiT or SiT ({type(error).__name__}: {error})"
        ) from error
    return states[0], states[1] if len(states) > 1 else None


def _of_shapes(path: Path, state: State) -> Description:
    needed = {
        "pos_embed": 3,
        "x_embedder.proj.weight": 4,
        "y_embedder.embedding_table.weight": 2,
        "final_layer.linear.weight": 2,
        "blocks.0.mlp.fc1.weight": 2,
    }
    for name, ndim in needed.items():
        if name not in state or state[name].ndim != ndim or not state[name].size:
            raise ValueError(f"{path} is no DiT or SiT: it has no {name} of {ndim} dimensions")
    width, channels, patch, _ = state["x_embedder.proj.weight"].shape
    blocks = [int(m[1]) for m in map(re.compile(r"blocks\.(\d{1,4})\.").match, state) if m]
    side = math.isqrt(state["pos_embed"].shape[1])
    net = {
        "patch_size": patch,
        "width": width,
        "depth": 1 + max(blocks),
        "num_heads": _HEADS.get(width, 0),
        "mlp_ratio": len(state["blocks.0.mlp.fc1.weight"]) / width,
        "num_classes": len(state["y_embedder.embedding_table.weight"]) - 1,
    }
    out_channels = len(state["final_layer.linear.weight"]) // patch**2
    return Description(net, (side * patch, side * patch, channels), out_channels)
