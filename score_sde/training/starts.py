"""What a training begins with in the place of random parameters: constructors
`(**options) -> Start`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from score_sde.nets.video import from_image
from score_sde.types import Frozen, Needs, PyTree

__all__ = ["image_network"]  # what a config can name

Start = Callable[[PyTree], PyTree]
"""`(new parameters of the network) -> those to begin with`."""


def image_network(workdir: str) -> Needs:
    """The network of images in a workdir, for a network of video of the same fields: at first it
    draws the frames that the other draws (`nets.video.from_image`).

    Raises:
      ValueError: when it is called, the networks do not fit.
    """

    def make(frozen: Frozen) -> Start:
        image = jax.tree.map(jnp.asarray, frozen.params)
        return jax.tree_util.Partial(lambda image, params: from_image(params, image), image)

    return Needs((workdir,), make)
