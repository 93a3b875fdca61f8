"""Folders of Hugging Face diffusers that hold an `AutoencoderKL`: `module_of` makes the network
that a folder describes, `load` reads the weights, and `save` writes a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from score_sde.nets.autoencoder import AutoencoderKL
from score_sde.published.diffusers_config import Description
from score_sde.published.diffusers_export import (
    VERSION,
    read_back,
    require_counterpart,
    write_json,
)
from score_sde.published.diffusers_files import (
    checked,
    network_file,
    read_json,
    refuse,
    shown,
    stages_of,
)
from score_sde.published.diffusers_names import their_name
from score_sde.published.diffusers_weights import read_weights, write_weights
from score_sde.published.matching import (
    Imported,
    Name,
    fit,
    from_torch,
    require_same,
    to_torch,
)
from score_sde.published.weights import Stored
from score_sde.types import PyTree

CLASS = "AutoencoderKL"
# The fields of the class with their defaults.
_FIELDS = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
_FIXED = {"act_fn": ("swish", "silu")}
# Fields that do not change the network.
_UNREAD = ("force_upcast", "latents_mean", "latents_std", "sample_size")
_LARGEST = 1e6  # no scale or shift is larger
_SCALING = {"scaling_factor": 0.18215, "shift_factor": 0.0}
_BLOCKS = {"DownEncoderBlock2D": "UpDecoderBlock2D"}


class Scaling(NamedTuple):
    """A diffusion model of latents is trained on (z - shift) factor."""

    factor: float = _SCALING["scaling_factor"]
    shift: float = _SCALING["shift_factor"]


def module_of(folder: Path) -> AutoencoderKL:
    """The network that config.json describes, in the subfolder `vae` of a pipeline or in the folder
    itself.

    Raises:
        ValueError: a file is missing or damaged, or a field asks for what is not supported; one
            line that names the field.
    """
    path, content = _read(Path(folder))
    content = {key: value for key, value in content.items() if key not in (*_UNREAD, *_SCALING)}
    fields = checked(path, content, _FIELDS, _FIXED)
    channels, multiples = stages_of(path, fields, _BLOCKS)
    for field, other in (
        ("out_channels", "in_channels"),
        ("use_post_quant_conv", "use_quant_conv"),
    ):
        if fields[field] != fields[other]:
            refuse(path, fields, field, f"it must be {other}, {fields[other]}")
    if not fields["latent_channels"] or not fields["in_channels"]:
        refuse(path, fields, "latent_channels", "latents and images have a channel at least")
    return AutoencoderKL(
        channels=channels[0],
        ch_mult=multiples,
        num_res_blocks=fields["layers_per_block"],
        latent_channels=fields["latent_channels"],
        mid_attention=fields["mid_block_add_attention"],
        groups=fields["norm_num_groups"],
        quant_convs=fields["use_quant_conv"],
        in_channels=fields["in_channels"],
    )


def scaling(folder: Path) -> Scaling:
    """How a diffusion model scales the latents; a file without it means 0.18215 and no shift.

    Raises:
        ValueError: as `module_of`; the file has a scale for each channel.
    """
    path, content = _read(Path(folder))
    for field in ("latents_mean", "latents_std"):
        if content.get(field) is not None:
            refuse(path, content, field, "only one scale and shift of all channels is")
    values = {field: content.get(field, default) for field, default in _SCALING.items()}
    if values["shift_factor"] is None:
        values["shift_factor"] = 0.0
    for field, value in values.items():
        if type(value) not in (int, float) or not abs(value) < _LARGEST:
            refuse(path, values, field, "it is a number")
    if values["scaling_factor"] <= 0:
        refuse(path, values, "scaling_factor", "it is above 0")
    return Scaling(*map(float, values.values()))


def load(folder: Path, net: AutoencoderKL, shape: tuple[int, ...] | None = None) -> Imported:
    """The weights of a folder, as float32, also by the names that attention had before version 0.15
    of diffusers.

    shape: (h, w, c) of an image, if its channels are to be checked.

    Raises:
        ValueError: as `module_of`; `net` is not the network that the folder describes; the weights
            are missing or damaged, or do not fit `net` (the message lists those that do not). One
            line.
    """
    path, _ = _read(Path(folder))
    require_same(path, net, module_of(folder), "")
    if shape is not None and shape[-1] != net.in_channels:
        raise ValueError(f"{path} is for images of {net.in_channels} channels, not {shape[-1]}")
    file, given = read_weights(path.parent)
    shapes = parameter_shapes(net)
    flat = flatten_dict(shapes)
    names = {ours: _their_name(ours, net) for ours in flat}

    def ours_of(name: Name, stored: Stored) -> np.ndarray:
        return from_torch(stored.read(), len(flat[name].shape))

    params = fit(file, shapes, names, given, ours_of)
    return Imported(f"diffusers, {CLASS}", file, params, None, 0)


def save(
    folder: Path,
    net: AutoencoderKL,
    params: PyTree,
    scale: Scaling | None = None,
    sample_size: int | None = None,
) -> None:
    """Writes config.json and the weights into a folder, which `load` and diffusers read.

    scale: that of diffusion models; None takes the latents as they are. sample_size: height and
        width of the images, which diffusers takes for those of a tile.

    Raises:
        ValueError: diffusers has no counterpart of the network. One line.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stages, scale = len(net.ch_mult), scale or Scaling(1.0, 0.0)
    fields = {
        "_class_name": CLASS,
        "_diffusers_version": VERSION,
        "in_channels": net.in_channels,
        "out_channels": net.in_channels,
        "down_block_types": list(_BLOCKS) * stages,
        "up_block_types": list(_BLOCKS.values()) * stages,
        "block_out_channels": [round(net.channels * multiple) for multiple in net.ch_mult],
        "layers_per_block": net.num_res_blocks,
        "latent_channels": net.latent_channels,
        "act_fn": "silu",
        "norm_num_groups": net.groups,
        "use_quant_conv": net.quant_convs,
        "use_post_quant_conv": net.quant_convs,
        "mid_block_add_attention": net.mid_attention,
        "scaling_factor": scale.factor,
        "shift_factor": scale.shift or None,
    }
    if sample_size is not None:
        fields["sample_size"] = sample_size
    write_json(folder / "config.json", fields)
    require_counterpart(CLASS, net, read_back(module_of, folder))
    flat = flatten_dict(params)
    write_weights(
        folder,
        {
            _their_name(ours, net): to_torch(np.asarray(value, np.float32))
            for ours, value in flat.items()
        },
    )


def write(folder: Path, net: AutoencoderKL, params: PyTree, about: Description) -> dict[str, Any]:
    """vae/ of a pipeline, which has a diffusion model too.

    Returns: sde, parametrization and c_noise as they are: the network reads no noise.

    Raises:
        ValueError: as `published.save`.
    """
    if about.centered is False:
        raise ValueError(
            "codec.centered is False, and diffusers' AutoencoderKL takes images in [-1, 1]; "
            "export.format='safetensors' takes any"
        )
    save(folder / "vae", net, params, sample_size=about.image_size)
    return {name: getattr(about, name) for name in ("sde", "parametrization", "c_noise")}


def _read(folder: Path) -> tuple[Path, dict[str, Any]]:
    path = network_file(folder, "vae")
    content = read_json(path)
    if content.get("_class_name") != CLASS:
        raise ValueError(
            f"{path} is of class {shown(content.get('_class_name'))}; only {CLASS} can be imported "
            "as an AutoencoderKL"
        )
    return path, content


def _their_name(ours: Name, net: AutoencoderKL) -> str:
    half, *inner = ours
    if half in ("encoder", "decoder"):
        return f"{half}.{their_name(tuple(inner), len(net.ch_mult) - 1)}"
    return f"{half}.{'bias' if inner[-1] == 'bias' else 'weight'}"


def parameter_shapes(net: AutoencoderKL) -> PyTree:
    """The shapes of the parameters. Nothing is computed."""

    def init(key):
        x = jnp.zeros((1, net.factor, net.factor, net.in_channels))
        return net.clone(remat="none").init(key, x)["params"]

    return jax.eval_shape(init, jax.random.key(0))
