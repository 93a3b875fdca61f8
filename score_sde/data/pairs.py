"""Pairs of a noise and a sample, which a trained network made of it, in an .npz file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from score_sde.data.files import described, read_arrays
from score_sde.errors import DataError
from score_sde.runtime.atomic import replacing


class Pairs(NamedTuple):
    """x: what the ODE leads to, in the network's space. noise: z, so that the path begins at
    `alpha x + sigma z`. raw: the raw parts that were asked for, such as "label". about: what they
    depend on, as JSON has it."""

    x: Float[np.ndarray, "n ..."]
    noise: Float[np.ndarray, "n ..."]
    raw: dict[str, np.ndarray]
    about: dict[str, Any]


def write(path: Path, pairs: Pairs) -> None:
    """Writes the file, whole or not at all."""
    raw = {f"raw/{name}": array for name, array in pairs.raw.items()}
    about = np.array(json.dumps(pairs.about))
    with replacing(path) as file:
        np.savez(file, x=pairs.x, noise=pairs.noise, about=about, **raw)  # pyright: ignore[reportArgumentType]


def read(path: Path) -> Pairs:
    """The pairs of a file.

    Raises:
      DataError: it is missing, damaged or something else.
    """
    arrays = read_arrays(path)
    try:
        x, noise, about = arrays["x"], arrays["noise"], json.loads(str(arrays["about"]))
    except (KeyError, ValueError):
        raise DataError(f"{path} holds {described(arrays)}, and no pairs of --mode pairs") from None
    raw = {k.removeprefix("raw/"): v for k, v in arrays.items() if k.startswith("raw/")}
    return Pairs(x, noise, raw, about)
