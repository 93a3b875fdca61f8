"""Import of other people's checkpoints into the parameters of our networks, and their export."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import flax.linen as nn
from jaxtyping import Array

from score_sde.nets.adm import ADM, ADMClassifier
from score_sde.nets.autoencoder import AutoencoderKL
from score_sde.nets.clip_text import CLIPText
from score_sde.nets.clip_vision import CLIPVision
from score_sde.nets.conditional_unet import ConditionalUNet
from score_sde.nets.controlnet import ControlUNet
from score_sde.nets.dit import DiT
from score_sde.nets.edm import DhariwalUNet, SongUNet
from score_sde.nets.edm2 import EDM2UNet
from score_sde.nets.ncsnpp import NCSNpp
from score_sde.nets.t5 import T5Encoder
from score_sde.published import (
    adm,
    diffusers,
    diffusers_controlnet,
    diffusers_export,
    diffusers_unet,
    diffusers_unet_config,
    diffusers_vae,
    dit,
    dit_export,
    edm,
    jax_2021,
    lora,
    text_encoders,
    torch_2021,
)
from score_sde.published import edm_pickle as edm_pickle
from score_sde.published.diffusers_config import Description
from score_sde.published.diffusers_files import read_json, shown
from score_sde.published.matching import Imported as Imported
from score_sde.types import Factors, PyTree


def load(path: str | PathLike, net: nn.Module, shape: tuple[int, ...] | None = None) -> Imported:
    """Reads a checkpoint into the parameters of `net`; nothing in it is executed.

    Args:
        path: of the file or folder.
        net: with the fields of that model's config. Its class says which checkpoints it reads.
        shape: (h, w, c) of an example, on which the places of attention depend. The networks of
            Stable Diffusion and the encoders of CLIP and T5 need none.

    Raises:
        FileNotFoundError, PermissionError: as `open` does.
        ValueError: the source is damaged or of no known kind, or its parameters do not fit `net`
            (the message lists those that do not); a network needs the shape. One line.
    """
    reader = _READERS.get(type(net))
    if reader is None:
        known = ", ".join(cls.__name__ for cls in _READERS)
        raise ValueError(
            f"there are published networks of class {known}, and none of {type(net).__name__}"
        )
    if shape is None and reader not in _WITHOUT_SHAPE:
        raise ValueError(f"a {type(net).__name__} is read with the shape of an example: give it")
    return reader(Path(path), net, shape)


def save(folder: Path, net: nn.Module, params: PyTree, about: Description) -> dict[str, str]:
    """Writes a folder of diffusers, which `load` reads back.

    Args:
        folder: a new one.
        net: its class says which model of diffusers it is.
        about: the process, the prediction and the images, in the words of a config; its `net` is
            not read.

    Returns: sde, parametrization and c_noise of a config, as an import of the folder reads them.

    Raises:
        ValueError: diffusers has no counterpart of the network or of the process. One line.
    """
    writer = _WRITERS.get(type(net))
    if writer is None:
        known = ", ".join(cls.__name__ for cls in _WRITERS)
        raise ValueError(
            f"diffusers has networks of class {known}, and none of {type(net).__name__}: "
            "export.format='safetensors' takes any network"
        )
    return writer(folder, net, params, about)


def load_lora(
    path: Path,
    net: nn.Module,
    kernels: Mapping[tuple[str, ...], Array],
    encoders: Sequence[nn.Module] = (),
) -> lora.LoRA:
    """What a file of LoRA says of the kernels of `net`, by the paths of their layers, and of the
    text encoders that it reads.

    Raises:
        FileNotFoundError. ValueError: the file is damaged or no LoRA of `net`; there are none of
            networks of its class. One line.
    """
    return lora.read(Path(path), _with_loras(net), kernels, encoders)


def save_lora(
    folder: Path,
    net: nn.Module,
    kernels: Mapping[tuple[str, ...], Array],
    factors: Mapping[tuple[str, ...], Factors],
    form: str,
    encoders: Sequence[Mapping[str, Factors]] = (),
) -> None:
    """Writes a file of LoRA, which `load_lora` reads back, into a folder.

    form: one of `lora.FORMATS`. encoders: of each text encoder, by the name of a layer.

    Raises:
        ValueError: there are none of networks of `net`'s class. One line.
    """
    lora.write(folder, _with_loras(net), kernels, factors, form, encoders)


def _with_loras(net: nn.Module) -> ConditionalUNet:
    if not isinstance(net, ConditionalUNet):
        raise ValueError(
            "files of LoRA are read and written over U-Nets of Stable Diffusion, of the class "
            f"ConditionalUNet, and not over a {type(net).__name__}"
        )
    return net


def hint_options(folder: Path) -> dict[str, Any]:
    """The fields of the adapter `controlnet` that a folder of a ControlNet says.

    Raises:
        ValueError: it is missing or damaged, or holds none that is supported. One line.
    """
    with _naming(folder):
        net = diffusers_controlnet.module_of(folder)
    return {"hint_features": net.hint_features, "hint_channels": net.hint_channels}


def save_controlnet(folder: Path, net: nn.Module, params: PyTree) -> None:
    """Writes a folder of a ControlNet, which `load` reads back.

    Raises:
        ValueError: diffusers has none of this class, or with these fields. One line.
    """
    if not isinstance(net, ControlUNet):
        raise ValueError(
            f"diffusers has ControlNets of class ControlUNet, and none of {type(net).__name__}: "
            "export.format='safetensors' takes any network"
        )
    diffusers_controlnet.save(folder, net, params)


def describes_network(folder: Path) -> bool:
    """Whether a folder has a config.json of diffusers or transformers, which tells a class."""
    path = folder / "config.json"
    return path.exists() and not {"_class_name", "architectures"}.isdisjoint(read_json(path))


def module_of(folder: Path) -> nn.Module:
    """The network that config.json of a folder describes: an autoencoder or a U-Net of diffusers,
    an encoder of text or of images of transformers.

    Raises:
        ValueError: it describes another network. One line.
    """
    of_class = {
        diffusers_vae.CLASS: diffusers_vae.module_of,
        diffusers_unet_config.CLASS: diffusers_unet.module_of,
    }
    content = read_json(folder / "config.json")
    if "_class_name" not in content:
        with _naming(folder):
            return text_encoders.module_of(folder)
    if content["_class_name"] not in list(of_class):  # it may be a list, which has no hash
        raise ValueError(
            f"{folder}/config.json is of class {shown(content['_class_name'])}; those read are "
            f"{', '.join(of_class)}, and encoders of transformers"
        )
    with _naming(folder):
        return of_class[content["_class_name"]](folder)


@contextlib.contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Says where a field is that a network refuses, which does not know the folder."""
    try:
        yield
    except ValueError as error:
        if str(folder) in str(error):
            raise
        raise ValueError(f"{folder}/config.json: {error}") from error


def _ncsnpp(path: Path, net: NCSNpp, shape: tuple[int, ...]) -> Imported:
    """A folder is read as one of diffusers, a file of `torch.save` as one of the PyTorch port of
    the 2021 score_sde code, and any other file as one of the JAX code of 2021."""
    if path.is_dir():
        return diffusers.load(path, net, shape)
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{" and path.suffix == ".safetensors":
        raise ValueError(f"{path} does not say what its network is: give the folder that holds it")
    # a zip archive, or a pickle of protocol 2 to 5 (no msgpack state begins with these bytes)
    is_torch = start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    return (torch_2021 if is_torch else jax_2021).load(path, net, shape)


def _encoder(path: Path, net: nn.Module, shape: tuple[int, ...] | None) -> Imported:
    return text_encoders.load(path, net)


_WRITERS: dict[type, Callable[..., dict[str, str]]] = {
    NCSNpp: diffusers_export.write,
    DiT: dit_export.write,
    ConditionalUNet: diffusers_unet.write,
    AutoencoderKL: diffusers_vae.write,
}
_WITHOUT_SHAPE = (_encoder, diffusers_unet.load, diffusers_vae.load, diffusers_controlnet.load)
_READERS: dict[type, Callable[..., Imported]] = {
    NCSNpp: _ncsnpp,
    ADM: adm.load,
    ADMClassifier: adm.load,
    DiT: dit.load,
    SongUNet: edm.load,
    DhariwalUNet: edm.load,
    EDM2UNet: edm.load,
    CLIPText: _encoder,
    CLIPVision: _encoder,
    T5Encoder: _encoder,
    ConditionalUNet: diffusers_unet.load,
    ControlUNet: diffusers_controlnet.load,
    AutoencoderKL: diffusers_vae.load,
}
