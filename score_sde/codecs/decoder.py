"""The latent that a decoder makes an image of."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from score_sde.codecs.codec import Codec

_RATE = 0.1  # of Adam, in units of x; it falls to 0 on a cosine


def inverted(codec: Codec, shown: Any, steps: int) -> Float[Array, "b ..."]:
    """The x [b, ...] whose decoded image is nearest to what is shown,

        argmin_x |decode(x) - y|^2,    y what is shown, as real numbers,

    by `steps` steps of Adam from `codec.locate(shown)` (Hong et al. 2024, arXiv:2311.18387). With 0
    steps it is what the encoder gives, which inverts its decoder only approximately. A codec
    without a decoder, such as that of pixels, locates x exactly.
    """
    x = codec.locate(shown)
    if codec.inner is codec or not steps:
        return x
    wanted = codec.inner.decode(codec.inner.locate(shown))

    optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, steps))

    def distance(x):
        return jnp.sum((codec.decode(x) - wanted) ** 2)

    def step(state, _):
        x, of_adam = state
        with jax.numpy_dtype_promotion("standard"):  # optax mixes floats and integer counts
            update, of_adam = optimizer.update(jax.grad(distance)(x), of_adam)
        return (x + update, of_adam), None

    (x, _), _ = jax.lax.scan(step, (x, optimizer.init(x)), length=steps)
    return x
