"""Extractors: functions from examples, such as images 0..255, to features."""

from __future__ import annotations

import functools
from os import PathLike

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Num

from score_sde.evaluation.metrics import inception as network
from score_sde.evaluation.metrics.resizing import METHODS, resize
from score_sde.evaluation.metrics.summary import Extractor, Features, everywhere

__all__ = ["inception", "pixels"]

# x / CENTER - 1 maps 0..255 to about -1..1.
_CENTERS = {"pytorch": 127.5, "tensorflow": 128.0, "clean": 128.0}


def pixels() -> Extractor:
    """The numbers 0..255 themselves, scaled to [0, 1] and in one row; no classes. For small
    examples."""
    return _pixels


def inception(
    path: str | PathLike,
    resize: str = "pytorch",
    center: float | None = None,
    logit_bias: bool = False,
) -> Extractor:
    """The 2,048 features and 1,008 classes of images that FID, KID and the Inception Score use.

    path: `pt_inception-2015-12-05-6726825d.pth`, of the releases of
        https://github.com/mseitzer/pytorch-fid.
    resize: how images are resized to 299x299 (`resizing`): "pytorch", as in pytorch-fid;
        "tensorflow", as in the code of the FID paper; "clean", as in clean-fid.
    center: the network sees `x / center - 1` of the resized x in 0..255. The default is that of the
        same codes: 127.5 for "pytorch", 128 for the others. The 2021 code has "tensorflow" and
        127.5.
    logit_bias: whether the last layer has its bias. It had none in the first Inception Score, and
        has none in torch-fidelity.

    Grey images are repeated to three channels. If images are spread over a mesh, the parameters are
    copied to all its devices once.

    Raises:
      ValueError: the file cannot be read, is damaged or does not fit; or `resize` is unknown.
    """
    if resize not in METHODS:
        raise ValueError(f"resize is {resize!r}: one of {', '.join(METHODS)}")
    try:
        params = network.load(path)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}): download "
            "pt_inception-2015-12-05-6726825d.pth from the releases of "
            "https://github.com/mseitzer/pytorch-fid"
        ) from None
    if not logit_bias:
        params["fc"]["bias"] = jnp.zeros_like(params["fc"]["bias"])
    center = _CENTERS[resize] if center is None else center

    @functools.cache
    def placed(sharding):
        return jax.device_put(params, sharding)

    def extract(images):
        sharding = everywhere(images)
        return _inception(resize, center, placed(sharding) if sharding else params, images)

    return extract


@jax.jit
def _pixels(x: Num[Array, "b ..."]) -> Features:
    pool = x.reshape(len(x), -1).astype(jnp.float32) / 255
    return Features(pool, jnp.zeros((len(x), 0), jnp.float32))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _inception(method: str, center: float, params, images: Num[Array, "b h w c"]) -> Features:
    x = prepared(images, method, center)
    pool, logits = network.InceptionV3().apply({"params": params}, x)
    return Features(pool, jax.nn.softmax(logits, axis=-1))  # pyright: ignore[reportArgumentType]


def prepared(
    images: Num[Array, "b h w c"], method: str, center: float
) -> Float32[Array, "b 299 299 3"]:
    """Images 0..255 as the network takes them. Raises ValueError unless they have 1 or 3
    channels."""
    if images.shape[-1] not in (1, 3):
        raise ValueError(f"Inception sees images of 1 or 3 channels, not {images.shape[-1]}")
    images = images.astype(jnp.float32)
    if images.shape[-1] == 1:
        images = jnp.repeat(images, 3, axis=-1)
    # cubic interpolation overshoots, and clean-fid clips that
    return jnp.clip(resize(images, method, network.SIZE), 0, 255) / center - 1
