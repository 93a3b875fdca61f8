"""Files of LoRA over the networks of Stable Diffusion, as diffusers, peft and kohya's sd-scripts
write them: `read` gives the factors of our layers, and `write` a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.nets.conditional_unet import ConditionalUNet
from score_sde.published.diffusers_unet import sines_first
from score_sde.published.lora_layers import PEFT, arrays_of, factors_of, told
from score_sde.published.lora_names import (
    LEVEL,
    UNET,
    kohya_names,
    layers_of,
    parser,
    text_names,
    text_starts,
)
from score_sde.published.matching import Name, misfit
from score_sde.published.text_encoders import kernel_places
from score_sde.published.weights import read_safetensors
from score_sde.types import Factors

FORMATS = {"diffusers": "pytorch_lora_weights.safetensors", "kohya": "lora.safetensors"}


class LoRA(NamedTuple):
    """What a file holds.

    factors: of the U-Net, by the path of a layer. encoders: of each text encoder, by the name of a
    layer in transformers. left_out: how many layers of text encoders that are not there.
    """

    file: Path
    factors: dict[Name, Factors]
    encoders: tuple[dict[str, Factors], ...]
    left_out: int


def read(
    path: Path,
    net: ConditionalUNet,
    kernels: Mapping[Name, Array],
    encoders: Sequence[nn.Module] = (),
) -> LoRA:
    """The factors in a file, or in a folder of diffusers or peft, in float32. Nothing is executed.

    The alpha of a layer is in the file, or in what peft tells of it; else it is the rank.

    encoders: of text, which the U-Net reads, in the order of a pipeline.

    Raises:
        FileNotFoundError. ValueError: it is damaged, has arrays that are no LoRA of these networks,
            or none of the U-Net; one line.
    """
    file, ours = _file(path), layers_of(net, kernels)
    texts = text_names(len(encoders))
    shapes = {UNET: {theirs: kernels[layer].shape for theirs, layer in ours.items()}}
    for name, module in zip(texts, encoders, strict=True):
        shapes[name] = {theirs: place.shape for theirs, place in kernel_places(module).items()}
    found, left_out = read_layers(file, net, shapes)
    if not found[UNET]:
        raise ValueError(f"{file} has no LoRA of the U-Net, but of text encoders alone")
    factors = {}
    for theirs, each in found[UNET].items():
        a = sines_first(net, (*ours[theirs], "kernel"), np.asarray(each.a))
        factors[ours[theirs]] = each._replace(a=jnp.asarray(a))
    return LoRA(file, factors, tuple(found[name] for name in texts), left_out)


def read_layers(
    file: Path, net: ConditionalUNet | None, shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
) -> tuple[dict[str, dict[str, Factors]], int]:
    """The factors by network and name of a layer, and how many layers are of other networks."""
    stored, parse = read_safetensors(file), parser(net, shapes)
    of_layer, problems, others = {}, [], set()
    for name, array in stored.items():
        key = parse(name)
        if key is None:
            problems.append(f"{name} is no part of a LoRA of its layers")
        elif key.network is None:
            others.add(key.layer)
        else:
            of_layer.setdefault((key.network, key.layer), {})[key.part] = (name, array)
    found = {network: {} for network in shapes}
    about = {network: told(file, network) for network in shapes}
    for (network, layer), parts in of_layer.items():
        try:
            shape = shapes[network][layer]
            found[network][layer] = factors_of(layer, shape, parts, about[network])
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError(f"{file} {misfit(problems)}")
    return found, len(others)


def write(
    folder: Path,
    net: ConditionalUNet,
    kernels: Mapping[Name, Array],
    factors: Mapping[Name, Factors],
    form: str,
    encoders: Sequence[Mapping[str, Factors]] = (),
) -> None:
    """Writes the factors of some of `net`'s kernels, and of layers of text encoders, into a folder.

    form: "diffusers", whose B has the scale, so that alpha is the rank, which every version reads;
        or "kohya", which has alpha, and of XL the names of the original code.
    encoders: of each, by the name of a layer in transformers.
    """
    from safetensors.numpy import save_file

    arrays: dict[str, np.ndarray] = {}
    is_kohya = form == "kohya"
    of_layer = _of_kohya if is_kohya else _of_diffusers
    for theirs, ours in layers_of(net, factors).items():
        each = factors[ours]
        a = sines_first(net, (*ours, "kernel"), np.asarray(each.a, np.float32))
        flat = kohya_names(net, theirs)[-1 if net.sizes else 0]
        name = flat if is_kohya else f"{UNET}.{theirs}"
        arrays |= of_layer(name, kernels[ours].shape, each._replace(a=a))
    texts = text_names(len(encoders))
    for network, of_encoder in zip(texts, encoders, strict=True):
        start = text_starts(network)[0 if len(encoders) == 1 else -1]
        for theirs, each in of_encoder.items():
            flat = f"{start}_{LEVEL}{theirs}".replace(".", "_")
            name = flat if is_kohya else f"{network}.{LEVEL}{theirs}"
            arrays |= of_layer(name, (each.a.shape[0], each.b.shape[1]), each)
    save_file(arrays, folder / FORMATS[form], {"format": "pt"})


def peft_arrays(name: str, shape: tuple[int, ...], factors: Factors) -> dict[str, np.ndarray]:
    """The arrays of one layer in the names of peft, without alpha. shape: of its kernel."""
    down, up = arrays_of(shape, factors)
    found = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    if factors.magnitude is not None:
        kept = (-1,) if len(shape) == 2 else (1, -1, 1, 1)
        norm = np.asarray(factors.magnitude, np.float32).reshape(kept)
        found[f"{name}.lora_magnitude_vector"] = norm
    return found


def _of_diffusers(name: str, shape: tuple[int, ...], factors: Factors) -> dict[str, np.ndarray]:
    """Those in the names of diffusers. B has the scale."""
    scale = np.float32(factors.alpha / factors.a.shape[-1])
    scaled = factors._replace(b=np.asarray(factors.b, np.float32) * scale)
    return peft_arrays(name, shape, scaled)


def _of_kohya(name: str, shape: tuple[int, ...], factors: Factors) -> dict[str, np.ndarray]:
    """Those in the names of sd-scripts, with alpha."""
    down, up = arrays_of(shape, factors)
    found = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    found[f"{name}.alpha"] = np.array(factors.alpha, np.float32)
    if factors.magnitude is not None:
        norm = np.asarray(factors.magnitude, np.float32)
        found[f"{name}.dora_scale"] = norm.reshape(-1, *(1,) * (len(shape) - 1))
    return found


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    names = (FORMATS["diffusers"], PEFT, FORMATS["kohya"])
    found = next((path / name for name in names if (path / name).exists()), None)
    if found is None:
        raise ValueError(f"{path} has none of {', '.join(names)}: give the file of the LoRA")
    return found
