"""In what images are compared beside their pixels: constructors `(**options) -> Features`.

None of them is LPIPS, whose weights would have to be fetched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.nets.layers import ResBlock
from score_sde.types import Frozen, Needs, PyTree, expand

__all__ = ["classifier", "random_convolutions"]  # what a config can name

Features = Callable[[Float[Array, "b ..."]], Sequence[Float[Array, "b ..."]]]
"""Arrays of features of images, each as large as the images' own numbers are."""


def random_convolutions(
    patch: int = 8, stride: int = 4, channels: int = 64, seed: int = 0
) -> Features:
    """Squares of patch x patch pixels, `stride` apart, through a layer that nobody trained: filters
    drawn from N(0, 2/n), n the numbers of a square, and a rectifier.

    Raises:
      ValueError: a number is below 1. When it is called: the image is smaller than a square.
    """
    if min(patch, stride, channels) < 1:
        raise ValueError(f"patch={patch}, stride={stride}, channels={channels} must be 1 or more")

    def features(x):
        if min(x.shape[1:3]) < patch:
            raise ValueError(f"patch={patch} is larger than images of {x.shape[1]}x{x.shape[2]}")
        shape = (patch, patch, x.shape[-1], channels)
        filters = jax.random.normal(jax.random.key(seed), shape, x.dtype)
        filters = filters * math.sqrt(2 / math.prod(shape[:3]))
        found = jax.lax.conv_general_dilated(
            x, filters, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return [jax.nn.relu(found)]

    return features


def classifier(workdir: str) -> Needs:
    """What comes out of the residual blocks of the classifier in a workdir, which was trained on
    images of the same codec, at the least noise.

    Raises:
      ValueError: when it is called, a network without such blocks.
    """

    def make(frozen: Frozen) -> Features:
        model = frozen.about["model"]
        sde, t_min = model.sde, model.sde.t_min

        def features(params: PyTree, x: Array) -> list[Array]:
            t = jnp.full(len(x), t_min, x.dtype)
            alpha, sigma = sde.alpha(t), sde.sigma(t)
            _, _, c_in = model.parametrization.scales(alpha, sigma)
            _, found = frozen.module.apply(
                {"params": params},
                expand(c_in * alpha, x) * x,
                model.parametrization.c_noise(sde, t),
                None,
                False,
                capture_intermediates=lambda layer, _: isinstance(layer, ResBlock),
                mutable=["intermediates"],
            )
            if not (layers := jax.tree.leaves(found)):
                raise ValueError(f"{workdir} holds no classifier of residual blocks")
            return layers

        return jax.tree_util.Partial(features, frozen.params)

    return Needs((workdir,), make)


def distance(
    features: Features, x: Float[Array, "b ..."], y: Float[Array, "b ..."]
) -> Float[Array, " b"]:
    """The mean square of the difference of features, summed over the arrays of these."""
    pairs = zip(features(x), features(y), strict=True)
    squares = [jnp.mean((a - b).reshape(len(a), -1) ** 2, axis=1) for a, b in pairs]
    return jnp.sum(jnp.stack(squares), axis=0)
