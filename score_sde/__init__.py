"""Score-based SDE and diffusion models in JAX, proven against exact scores."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from score_sde.experiment.interactive import Interactive

__version__ = "0.3.0"


def load(workdir: str | PathLike, **fields: Any) -> Interactive:
    """The model that was trained, or imported, in a workdir.

        model = score_sde.load("runs/digits")
        images = model.sample(jax.random.key(0), 16, steps=20, solver="dpmpp")

    workdir: the folder of `--workdir`.
    fields: of its config, in the place of the stored ones: `**{"sampling.ema": 1}`.

    Raises:
      CheckpointError: there is no checkpoint, or it is damaged. ConfigError: a wrong field.
    """
    from score_sde.experiment.interactive import load  # JAX and the rest, when they are needed

    return load(workdir, fields)
