"""How well images show what texts say, by CLIP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, Num

from score_sde.errors import DataError
from score_sde.evaluation.metrics.resizing import clean
from score_sde.published import text_encoders

# of the channels in [0, 1], over CLIP's training images
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)

Score = Callable[[Num[np.ndarray, "b h w c"], Sequence[str]], Float32[np.ndarray, " b"]]


def clip_score(
    folder: str | PathLike, tokenizer: Callable[[Sequence[str]], Int32[np.ndarray, "b l"]]
) -> Score:
    """`(images 0..255, texts) -> 100 cos(image, text)` of each pair, by the projected features of a
    `CLIPModel` of transformers, such as openai/clip-vit-large-patch14.

    Hessel et al. 2021 (arXiv:2104.08718) report 2.5 max(cos, 0). Papers on text-to-image report the
    mean of 100 cos; it depends on the network.

    tokenizer: that of the same folder, `conditioning.tokenizers.clip(folder)`.

    Raises:
        ValueError: the folder holds no `CLIPModel`, or it is damaged. The score raises DataError if
            there are not as many texts as images, or an id is beyond the network's vocabulary.
    """
    folder = Path(folder)
    text, vision = text_encoders.clip_modules(folder)
    params = tuple(text_encoders.load(folder, net).params for net in (text, vision))

    @jax.jit
    def cosines(params, images, ids):
        of_text: Any = text.apply({"params": params[0]}, ids)
        of_image: Any = vision.apply({"params": params[1]}, prepared(images, vision.size))
        a, b = of_text.pooled, of_image.pooled
        return jnp.sum(a * b, axis=1) / (jnp.linalg.norm(a, axis=1) * jnp.linalg.norm(b, axis=1))

    def score(images, texts):
        if len(images) != len(texts):
            raise DataError(f"there are {len(images)} images and {len(texts)} texts")
        ids = tokenizer(texts)
        if ids.max(initial=0) >= text.vocabulary:
            raise DataError(
                f"the tokenizer gives the id {ids.max()}, and {folder} knows {text.vocabulary} "
                "tokens: take the tokenizer of the same folder"
            )
        return 100 * np.asarray(cosines(params, jnp.asarray(images), jnp.asarray(ids)))

    return score


def prepared(images: Num[Array, "b h w c"], size: int) -> Float32[Array, "b size size 3"]:
    """Images 0..255 as CLIP takes them: the shorter side becomes `size` by Pillow's bicubic
    interpolation, with whole values; the middle is cut out; CLIP's mean is taken away, and the
    result divided by its standard deviation.

    Raises:
        DataError: they have neither 1 nor 3 channels.
    """
    height, width, channels = images.shape[1:]
    if channels not in (1, 3):
        raise DataError(f"CLIP sees images of 1 or 3 channels, not {channels}")
    x = images.astype(jnp.float32)
    short = min(height, width)
    rows, columns = (
        _middle(clean(n, size * n // short), size).astype(np.float32) for n in (height, width)
    )
    precision = jax.lax.Precision.HIGHEST
    x = _whole(jnp.einsum("bhwc,xw->bhxc", x, columns, precision=precision))
    x = _whole(jnp.einsum("bhxc,yh->byxc", x, rows, precision=precision))
    x = jnp.broadcast_to(x, (*x.shape[:3], 3)) / 255
    mean, std = (jnp.asarray(a, jnp.float32)[None, None, None] for a in (_MEAN, _STD))
    return (x - mean) / std


def _middle(matrix, size):
    start = (len(matrix) - size) // 2
    return matrix[start : start + size]


def _whole(x):
    return jnp.clip(jnp.round(x), 0, 255)
