"""The weights in a folder of Hugging Face diffusers, by the names that it uses today."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from score_sde.published.weights import Stored, read_folder, write_folder

_STEM = "diffusion_pytorch_model"
# What diffusers called the layers of attention before version 0.15.
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def read_weights(folder: Path) -> tuple[Path, dict[str, Stored]]:
    """The file of weights beside a network's config.json, and its arrays by name. The first
    versions of diffusers also stored a second copy of the Fourier frequencies, which is dropped.

    Raises:
        ValueError: as `weights.read_folder`.
    """
    file, given = read_folder(folder, _STEM, _STEM)
    return file, {
        ".".join(_OLD.get(part, part) for part in name.split(".")): stored
        for name, stored in given.items()
        if name != "time_proj.W"
    }


def write_weights(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """One file, as `read_weights` reads it."""
    write_folder(folder, arrays, _STEM)
