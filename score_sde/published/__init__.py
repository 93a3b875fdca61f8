"""Import of other people's checkpoints into the parameters of our networks, and their export."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path

import flax.linen as nn

from score_sde.nets.adm import ADM, ADMClassifier
from score_sde.nets.dit import DiT
from score_sde.nets.edm import DhariwalUNet, SongUNet
from score_sde.nets.edm2 import EDM2UNet
from score_sde.nets.ncsnpp import NCSNpp
from score_sde.published import (
    adm,
    diffusers,
    diffusers_export,
    dit,
    dit_export,
    edm,
    jax_2021,
    torch_2021,
)
from score_sde.published import edm_pickle as edm_pickle
from score_sde.published.diffusers_config import Description
from score_sde.published.matching import Imported as Imported
from score_sde.types import PyTree


def load(path: str | PathLike, net: nn.Module, shape: tuple[int, ...]) -> Imported:
    """Reads a checkpoint into the parameters of `net`; nothing in it is executed.

    Args:
        path: of the file or folder.
        net: with the fields of that model's config. Its class says which checkpoints it reads.
        shape: (h, w, c) of an example, on which the places of attention depend.

    Raises:
        FileNotFoundError, PermissionError: as `open` does.
        ValueError: the source is damaged or of no known kind, or its parameters do not fit `net`
            (the message lists those that do not). One line.
    """
    reader = _READERS.get(type(net))
    if reader is None:
        known = ", ".join(cls.__name__ for cls in _READERS)
        raise ValueError(
            f"there are published networks of class {known}, and none of {type(net).__name__}"
        )
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


_WRITERS: dict[type, Callable[..., dict[str, str]]] = {
    NCSNpp: diffusers_export.write,
    DiT: dit_export.write,
}
_READERS: dict[type, Callable[..., Imported]] = {
    NCSNpp: _ncsnpp,
    ADM: adm.load,
    ADMClassifier: adm.load,
    DiT: dit.load,
    SongUNet: edm.load,
    DhariwalUNet: edm.load,
    EDM2UNet: edm.load,
}
