"""Folders of Hugging Face diffusers that hold a `UNet2DConditionModel`, the U-Net of Stable
Diffusion: `module_of` makes the network that a folder describes, `load` reads the weights, and
`save` writes a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from score_sde.nets.conditional_unet import ConditionalUNet
from score_sde.published.diffusers_config import Description, process
from score_sde.published.diffusers_export import (
    read_back,
    require_counterpart,
    scheduler,
    write_json,
)
from score_sde.published.diffusers_files import own_scheduler, scheduler_file
from score_sde.published.diffusers_names import their_name
from score_sde.published.diffusers_unet_config import CLASS, config_of, described
from score_sde.published.diffusers_weights import read_weights, write_weights
from score_sde.published.matching import (
    Imported,
    Name,
    fit,
    from_torch,
    require_same,
    swap_halves,
    to_torch,
)
from score_sde.published.weights import Stored
from score_sde.types import PyTree


def module_of(folder: Path) -> ConditionalUNet:
    """The network that config.json describes, in the subfolder `unet` of a pipeline or in the
    folder itself.

    Channels that the network reads and does not predict are those of an image beside x (inpainting,
    InstructPix2Pix). `attention_head_dim` is the number of heads: the name is an old mistake of
    diffusers.

    Raises:
        ValueError: a file is missing or damaged, or a field asks for what is not supported; one
            line that names the field.
    """
    return described(Path(folder))[2]


def load(folder: Path, net: ConditionalUNet, shape: tuple[int, ...] | None = None) -> Imported:
    """The weights of a folder, as float32. diffusers stores one set of them, and no step.

    shape: (h, w, c) of an example, if its channels are to be checked.

    Raises:
        ValueError: as `module_of`; `net` is not the network that the folder describes; the weights
            are missing or damaged, or do not fit `net` (the message lists those that do not). One
            line.
    """
    path, fields, described_net = described(Path(folder))
    # the file tells only how many numbers vector and sizes have together
    ignored = ["cond_features", "sizes"]
    require_same(path, _comparable(net), _comparable(described_net), "", ignored)
    channels = fields["in_channels"] - net.cond_channels
    if shape is not None and shape[-1] != channels:
        raise ValueError(f"{path} is for examples of {channels} channels, not {shape[-1]}")
    file, params = read_params(path, net, parameter_shapes(net, channels), fields)
    noise = scheduler_file(Path(folder))
    own = own_scheduler(noise) if noise else None
    return Imported(f"diffusers, {CLASS}", file, params, None, 0, own)


def save(
    folder: Path, net: ConditionalUNet, params: PyTree, sample_size: int | None = None
) -> None:
    """Writes config.json and the weights into a folder, which `load` and diffusers read.

    sample_size: height and width of x, which pipelines of diffusers take for a default.

    Raises:
        ValueError: diffusers has no counterpart of the network. One line.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    flat = {name: np.asarray(value, np.float32) for name, value in flatten_dict(params).items()}
    channels = flat["conv_in", "kernel"].shape[2], flat["out_conv", "kernel"].shape[3]
    write_json(folder / "config.json", config_of(net, *channels, sample_size))
    back = read_back(module_of, folder)
    require_counterpart(CLASS, _comparable(net), _comparable(back))
    write_params(folder, net, flat)


def read_params(
    path: Path, net: ConditionalUNet, shapes: PyTree, fields: dict[str, Any]
) -> tuple[Path, PyTree]:
    """The file beside config.json at `path`, and its weights as the parameters of `net`, a U-Net or
    a ControlNet of one.

    Raises:
        ValueError: the weights are missing or damaged, or do not fit. One line.
    """
    file, given = read_weights(path.parent)
    flat = flatten_dict(shapes)
    names = {ours: their_name(ours, len(net.ch_mult) - 1) for ours in flat}

    def ours_of(name: Name, stored: Stored) -> np.ndarray:
        value = from_torch(stored.read(), len(flat[name].shape))
        return sines_first(net, name, value) if fields["flip_sin_to_cos"] else value

    return file, fit(file, shapes, names, given, ours_of)


def write_params(folder: Path, net: ConditionalUNet, flat: dict[Name, np.ndarray]) -> None:
    """Writes parameters, by their paths, as `read_params` reads them."""
    arrays = {
        their_name(name, len(net.ch_mult) - 1): to_torch(sines_first(net, name, value))
        for name, value in flat.items()
    }
    write_weights(folder, arrays)


def write(folder: Path, net: ConditionalUNet, params: PyTree, about: Description) -> dict[str, Any]:
    """unet/ and scheduler/ of a pipeline, which has an autoencoder and a text encoder too.

    Returns: the fields of a config that the scheduler decides, as an import reads them.

    Raises:
        ValueError: as `published.save`.
    """
    fields, noise = scheduler(about), folder / "scheduler" / "scheduler_config.json"
    save(folder / "unet", net, params, about.image_size)
    noise.parent.mkdir()
    write_json(noise, fields)
    return process(noise, folder / "unet" / "config.json", "positional")


def _comparable(net: ConditionalUNet) -> ConditionalUNet:
    """The same network; equal ones have equal fields."""
    return net.clone(num_heads=net.heads)


def parameter_shapes(net: ConditionalUNet, channels: int) -> PyTree:
    """The shapes of the parameters, for x of so many channels. Nothing is computed."""
    size = 2 ** (len(net.ch_mult) - 1)

    def init(key):
        cond = {
            "context": jnp.zeros((1, 1, net.context_features)),
            "vector": jnp.zeros((1, net.cond_features)),
            "sizes": jnp.zeros((1, net.sizes)),
            "image": jnp.zeros((1, size, size, net.cond_channels)),
        }
        x = jnp.zeros((1, size, size, channels))
        return net.clone(remat="none").init(key, x, jnp.ones(1), cond)["params"]

    return jax.eval_shape(init, jax.random.key(0))


def sines_first(net: ConditionalUNet, ours: Name, kernel: np.ndarray) -> np.ndarray:
    """A kernel for features [sin, cos] of the noise, or of each size, from one for [cos, sin]; and
    back."""
    if ours == ("embed_0", "kernel"):
        return swap_halves(kernel)
    if ours == ("embed_vectors_0", "kernel") and net.sizes:
        start, each = net.cond_features, net.size_features
        ends = range(start, len(kernel), each)
        parts = [swap_halves(kernel[i : i + each]) for i in ends]
        return np.concatenate([kernel[:start], *parts])
    return kernel
