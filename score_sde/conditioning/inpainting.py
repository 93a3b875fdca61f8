"""Text, and the known part of an image, for networks that were trained to inpaint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.conditioning.beside_text import BesideText
from score_sde.conditioning.conditioner import Conditioner, Raw
from score_sde.conditioning.image_encoder import ImageEncoder, encoder_of
from score_sde.types import Cond, Feature, Frozen, Key, Needs

__all__ = ["inpainting"]  # what a config can name

DRAWN = "drawn"  # the raw part: 1 where the image is drawn, 0 where it is known


def inpainting(features: Mapping[str, Feature], *, text: Needs, autoencoder: str) -> Needs:
    """What `text` gives, and cond["image"] [b, h, w, 1 + z]: the mask, in latents of one channel,
    and the latents of the known part of the image (the inpainting networks of Stable Diffusion).

    text: a conditioner with frozen encoders, such as "encoded_text(encoders=..., tokenizers=...)".
    autoencoder: the folder of the autoencoder, that of the codec.
    """

    def make(*frozen: Frozen) -> Inpainting:
        net = frozen[-1]
        encoder = encoder_of(features, net)
        shift, scale = (
            tuple(np.broadcast_to(net.about[name], encoder.shape[-1:]).tolist())
            for name in ("shift", "scale")
        )
        return Inpainting(text.make(*frozen[:-1]), encoder, shift, scale)

    return Needs((*text.folders, autoencoder), make)


_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Inpainting(BesideText):
    """A conditioner of text, and the known part of an image beside x (`inpainting`).

    The raw parts are those of the text, the image, and "drawn" [b, h, w, 1], 1 where the image is
    drawn. Of raw parts without a mask only the text is a condition: so guidance leads away from
    other words, and the image stays. A request asks for a whole image: nothing of it is known.

    encoder: of the image. shift, scale: of its latents, for each channel.
    """

    text: Conditioner
    encoder: ImageEncoder
    shift: tuple[float, ...] = dataclasses.field(metadata=_STATIC)
    scale: tuple[float, ...] = dataclasses.field(metadata=_STATIC)

    @property
    def digests(self) -> dict[str, str]:
        """Those of the text, and of the autoencoder that sees the image."""
        return {**self.text.digests, "autoencoder of the condition": self.encoder.digest}

    @property
    def features(self) -> dict[str, Feature]:
        """Those of the text, the image and the mask."""
        return {**self.text.features, **self._features}

    @property
    def sizes(self) -> dict[str, int]:
        """Those of the text; the channels of mask and latents."""
        return {**self.text.sizes, "image": 1 + self.encoder.shape[-1]}

    def encode(self, raw: Raw, key: Key | None = None) -> Cond:
        """The conditions of the text; and of the image, if there is a mask."""
        cond = self.text.encode(raw, key)
        if DRAWN not in raw:
            return cond
        return {**cond, "image": self.beside(raw[self.encoder.inner.part], raw[DRAWN])}

    def beside(self, raw: Any, drawn: Any) -> Float[Array, "b i j d"]:
        """Of images [b, h, w, c] and masks [b, h, w, 1]: the mask, then the scaled mean of the
        posterior of the image, which is 0 in the network's units where it is not known. Of the
        pixels that a latent stands for, the mask is that of the first, as in diffusers."""
        mask, steps = jnp.asarray(drawn, jnp.float32), self.encoder.factor
        mean = self.encoder.mean(raw, 1 - mask)
        shift, scale = (
            jnp.asarray(numbers, mean.dtype).reshape(1, 1, 1, -1)
            for numbers in (self.shift, self.scale)
        )
        return jnp.concatenate([mask[:, ::steps, ::steps], (mean - shift) * scale], axis=-1)

    def stored(self, raw: Raw) -> dict[str, Array]:
        """What is stored of the text."""
        return self.text.stored(raw)

    def request(self, wanted: Sequence[Any], examples: Any = ()) -> Callable[[Array, Array], Raw]:
        """What the text asks for. All of the image is to be drawn."""
        blank = {
            name: jnp.full(feature.shape, int(name == DRAWN), jnp.uint8)
            for name, feature in self._features.items()
        }
        return jax.tree_util.Partial(_blank, self.text.request(wanted, examples), blank)

    @property
    def _features(self) -> dict[str, Feature]:
        """Of the image and the mask."""
        inner = self.encoder.inner
        image = inner.feature
        return {inner.part: image, DRAWN: Feature((*image.shape[:2], 1), 2)}


def _blank(of_text: Callable, blank: Mapping[str, Array], keys: Array, numbers: Array) -> Raw:
    images = {
        name: jnp.broadcast_to(value, (len(numbers), *value.shape)) for name, value in blank.items()
    }
    return {**of_text(keys, numbers), **images}
