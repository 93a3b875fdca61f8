"""Folders of Hugging Face diffusers that hold a `ControlNetModel`, a ControlNet over a U-Net of
Stable Diffusion: `module_of` makes the network that a folder describes, `load` reads the weights,
and `save` writes a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from score_sde.nets.checks import fields_of
from score_sde.nets.controlnet import HINT, ControlUNet
from score_sde.published import diffusers_unet_config as unet
from score_sde.published.diffusers_export import read_back, require_counterpart, write_json
from score_sde.published.diffusers_files import network_file, read_json, refuse, shown
from score_sde.published.diffusers_unet import read_params, write_params
from score_sde.published.matching import Imported, require_same
from score_sde.types import PyTree

CLASS = "ControlNetModel"
_HINT_CHANNELS = (16, 32, 96, 256)
# The fields of a U-Net that a ControlNet of diffusers has not.
_OF_UNET = ("out_channels", "up_block_types", "sample_size", "center_input_sample", "dropout")
_MOST_HALVINGS = 10


def module_of(folder: Path) -> ControlUNet:
    """The ControlNet that config.json describes.

    Raises:
        ValueError: a file is missing or damaged, or a field asks for what is not supported; one
            line that names the field.
    """
    return _described(Path(folder))[1]


def _described(folder: Path) -> tuple[Path, ControlUNet, dict[str, Any]]:
    path = network_file(folder, "controlnet")
    content = read_json(path)
    if content.get("_class_name") != CLASS:
        raise ValueError(
            f"{path} is of class {shown(content.get('_class_name'))}; only {CLASS} can be read as "
            "a ControlUNet"
        )
    own = {
        "conditioning_channels": 3,
        "conditioning_embedding_out_channels": list(_HINT_CHANNELS),
        "controlnet_conditioning_channel_order": "rgb",
        "global_pool_conditions": False,
    }
    own |= {key: content.pop(key) for key in own if key in content}
    _check_hint(path, own)
    down = content.get("down_block_types", ())
    known = isinstance(down, list) and all(isinstance(name, str) for name in down)
    if known:  # of the U-Net that it controls; a name that is not known is refused there
        content["up_block_types"] = [unet.BLOCKS.get(name, name) for name in reversed(down)]
    fields, net = unet.network_of(path, {**content, "out_channels": content.get("in_channels", 4)})
    control = ControlUNet(
        **fields_of(net),
        hint_features=own["conditioning_channels"],
        hint_channels=tuple(own["conditioning_embedding_out_channels"]),
    )
    return path, control, fields


def _check_hint(path: Path, own: dict[str, Any]) -> None:
    """Raises a ValueError of fields of the hint that make no sense, or are not supported."""
    channels = own["conditioning_embedding_out_channels"]
    if not isinstance(channels, list) or not 1 <= len(channels) <= _MOST_HALVINGS:
        why = f"it is a list of 1 to {_MOST_HALVINGS} numbers of channels"
        refuse(path, own, "conditioning_embedding_out_channels", why)
    for field, numbers in (
        ("conditioning_embedding_out_channels", channels),
        ("conditioning_channels", [own["conditioning_channels"]]),
    ):
        if not all(type(n) is int and 1 <= n <= 100_000 for n in numbers):
            refuse(path, own, field, "each is a number of channels")
    if own["controlnet_conditioning_channel_order"] != "rgb":
        refuse(path, own, "controlnet_conditioning_channel_order", "it is 'rgb'")
    if own["global_pool_conditions"] is not False:
        refuse(path, own, "global_pool_conditions", "only False is read")


def load(folder: Path, net: ControlUNet, shape: tuple[int, ...] | None = None) -> Imported:
    """The weights of a folder, as float32.

    shape: (h, w, c) of x, if its channels are to be checked.

    Raises:
        ValueError: as `module_of`; `net` is not the network that the folder describes; the weights
            are missing or damaged, or do not fit `net` (the message lists those that do not). One
            line.
    """
    path, described, fields = _described(Path(folder))
    # the file tells only how many numbers vector and sizes have together
    ignored = ["cond_features", "sizes"]
    require_same(path, _comparable(net), _comparable(described), "", ignored)
    channels = fields["in_channels"] - net.cond_channels
    if shape is not None and shape[-1] != channels:
        raise ValueError(f"{path} is for examples of {channels} channels, not {shape[-1]}")
    file, params = read_params(path, net, parameter_shapes(net, channels), fields)
    return Imported(f"diffusers, {CLASS}", file, params, None, 0, None)


def save(folder: Path, net: ControlUNet, params: PyTree) -> None:
    """Writes config.json and the weights into a folder, which `load` and diffusers read.

    Raises:
        ValueError: diffusers has no counterpart of the network. One line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    flat = {name: np.asarray(value, np.float32) for name, value in flatten_dict(params).items()}
    channels = flat["conv_in", "kernel"].shape[2]
    fields = unet.config_of(net, channels, channels, None)
    content = {key: value for key, value in fields.items() if key not in _OF_UNET}
    content |= {
        "_class_name": CLASS,
        "conditioning_channels": net.hint_features,
        "conditioning_embedding_out_channels": list(net.hint_channels),
        "controlnet_conditioning_channel_order": "rgb",
        "global_pool_conditions": False,
    }
    write_json(folder / "config.json", content)
    back = read_back(module_of, folder)
    require_counterpart(CLASS, _comparable(net), _comparable(back))
    write_params(folder, net, flat)


def _comparable(net: ControlUNet) -> ControlUNet:
    """The network that computes the same, with the fields that no folder tells as they are without
    one."""
    return net.clone(num_heads=net.heads, hint=HINT, dropout=0.0, dtype=None, remat="none")


def parameter_shapes(net: ControlUNet, channels: int) -> PyTree:
    """The shapes of the parameters, for x of so many channels. Nothing is computed."""
    size = 2 ** (len(net.ch_mult) - 1)
    hint = size * 2 ** (len(net.hint_channels) - 1)

    def init(key):
        cond = {
            "context": jnp.zeros((1, 1, net.context_features)),
            "vector": jnp.zeros((1, net.cond_features)),
            "sizes": jnp.zeros((1, net.sizes)),
            "image": jnp.zeros((1, size, size, net.cond_channels)),
            net.hint: jnp.zeros((1, hint, hint, net.hint_features)),
        }
        x = jnp.zeros((1, size, size, channels))
        return net.clone(remat="none").init(key, x, jnp.ones(1), cond)["params"]

    return jax.eval_shape(init, jax.random.key(0))
