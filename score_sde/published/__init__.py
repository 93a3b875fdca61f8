"""Import of other people's checkpoints into the parameters of our networks."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import flax.linen as nn

from score_sde.nets.ncsnpp import NCSNpp
from score_sde.published import diffusers, jax_2021, torch_2021
from score_sde.published.matching import Imported as Imported


def load(path: str | PathLike, net: nn.Module, image_shape: tuple[int, int, int]) -> Imported:
    """The checkpoint in a file or folder, of the kind that its content shows.

    A folder is diffusers'; a file of `torch.save` is the PyTorch port's of the 2021 score_sde code;
    any other file should be the JAX code's. Nothing in them is executed.

    Args:
        path: of the file or folder.
        net: with the fields of that model's config.
        image_shape: (h, w, c) of its data, which decides where attention is.

    Raises:
        FileNotFoundError, PermissionError: as `open` does.
        ValueError: the source is damaged, is of no known kind, or its parameters are not those of
            `net`; they are listed then. One line.
    """
    path = Path(path)
    if not isinstance(net, NCSNpp):
        raise ValueError(f"published networks are of class NCSNpp, not {type(net).__name__}")
    if path.is_dir():
        return diffusers.load(path, net, image_shape)
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{" and path.suffix == ".safetensors":
        raise ValueError(f"{path} does not say what its network is: give the folder that it is in")
    # a zip archive, or a pickle of protocol 2 to 5 (in msgpack an empty dictionary, and then more)
    is_torch = start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    return (torch_2021 if is_torch else jax_2021).load(path, net, image_shape)
