"""Files of textual inversion (Gal et al. 2022, arXiv:2208.01618): a new word, and what a text
encoder reads in the place of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from score_sde.published import torch_file
from score_sde.published.weights import read_safetensors

_LAYOUTS = (("clip_l", "clip_g"), ("emb_params",))
"""The names of arrays in files that do not say the word: of XL, an array for each encoder, and of
AUTOMATIC1111's web page."""


class NewWord(NamedTuple):
    """name: the word. rows: of its tokens, for each text encoder in turn."""

    name: str
    rows: tuple[Float32[np.ndarray, "n d"], ...]


def read(path: Path) -> NewWord:
    """The word of a file: of diffusers, {word: [n, d] or [d]}, or one that is named as its word is
    and holds `emb_params`, or `clip_l` and `clip_g`. A .bin or .pt file is read without executing
    anything.

    Raises:
        OSError: as `open`. ValueError: the file is damaged, or holds something else. One line.
    """
    if path.suffix == ".safetensors":
        stored = {name: each.read() for name, each in read_safetensors(path).items()}
    else:
        stored = torch_file.read_arrays(path)
    names = next((names for names in _LAYOUTS if stored.keys() == {*names}), None)
    if names is None and len(stored) != 1:
        raise ValueError(
            f"{path} is no textual inversion, which has one array by the name of its word: it has "
            f"{len(stored)} arrays"
        )
    word = path.stem if names else next(iter(stored))
    rows = tuple(np.atleast_2d(stored[name]).astype(np.float32) for name in names or stored)
    if any(each.ndim != 2 or not len(each) for each in rows) or len({*map(len, rows)}) > 1:
        shapes = ", ".join(str(each.shape) for each in rows)
        raise ValueError(f"{path} is no textual inversion: its arrays have the shapes {shapes}")
    if not word.strip() or not all(np.isfinite(each).all() for each in rows):
        raise ValueError(f"{path}: the word of this textual inversion is empty, or not finite")
    return NewWord(word, rows)


def write(folder: Path, name: str, rows: Sequence[Float[np.ndarray, "n d"]], form: str) -> None:
    """Writes FOLDER/NAME.safetensors, which `read` reads: the rows of a word's tokens, for each
    text encoder in turn.

    form: "diffusers", which says the word, for one encoder; or "automatic1111", which is named as
        the word is, for one encoder or for the two of XL.

    Raises:
        ValueError: the form has no place for so many encoders.
    """
    from safetensors.numpy import save_file

    layouts = [(name,)] if form == "diffusers" else _LAYOUTS
    names = next((names for names in layouts if len(names) == len(rows)), None)
    if names is None:
        raise ValueError(f"a file of textual inversion of {form} is not for {len(rows)} encoders")
    found = {key: np.ascontiguousarray(a) for key, a in zip(names, rows, strict=True)}
    save_file(found, folder / f"{name}.safetensors")
