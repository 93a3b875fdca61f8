"""An instruction, such as "make it blue", and the image that it changes (Brooks et al. 2023,
arXiv:2211.09800)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.conditioning.beside_text import BesideText
from score_sde.conditioning.conditioner import Conditioner, Raw, request_beside
from score_sde.conditioning.image_encoder import ImageEncoder, encoder_of
from score_sde.types import Cond, Feature, Frozen, Key, Needs, as_tree, expand

__all__ = ["instruction"]  # what a config can name

MOST_EXAMPLES = 1024  # whose images are edited where none are given
BESIDE = "source_latents"  # the raw part of what mode `encode` made of the image


def instruction(
    features: Mapping[str, Feature],
    *,
    text: Conditioner | Needs,
    autoencoder: str,
    part: str = "source",
    drop_image: float = 0.0,
) -> Needs:
    """What `text` gives, and cond["image"] [b, h, w, z], the latents of the image that the
    instruction changes. As in the paper they are the mean of the posterior, without the shift and
    scale of the latents that are drawn.

    text: a conditioner of captions, which are the instructions.
    autoencoder: the workdir or folder of the autoencoder, that of the codec.
    part: the raw part that holds the images before the change.
    drop_image: the probability that training loses the image of an example: it is 0 then. (The text
        is lost by `objective.drop_cond`, independently.) Guidance by both needs it
        (`text_and_image`).

    Raises:
        ValueError: the probability is none.
    """
    if not 0 <= drop_image < 1:
        raise ValueError(f"drop_image must be in [0, 1), not {drop_image}")

    def make(*frozen: Frozen) -> Instruction:
        inner = text.make(*frozen[:-1]) if isinstance(text, Needs) else text
        encoder = encoder_of(features, frozen[-1])
        return Instruction(as_tree(inner), encoder, part, BESIDE in features, drop_image)

    folders = text.folders if isinstance(text, Needs) else ()
    return Needs((*folders, autoencoder), make)


_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Instruction(BesideText):
    """A conditioner of text, and of an image beside x (`instruction`).

    What "says nothing" is the empty text beside the same image: a negative prompt keeps the image.

    encoder: of the image. encoded: whether the data set has its latents already.
    """

    text: Any
    encoder: ImageEncoder
    part: str = dataclasses.field(metadata=_STATIC)
    encoded: bool = dataclasses.field(metadata=_STATIC)
    drop_image: float = dataclasses.field(metadata=_STATIC)

    @property
    def digests(self) -> dict[str, str]:
        """Those of the text, and of the autoencoder that sees the image."""
        return {**self.text.digests, "autoencoder of the condition": self.encoder.digest}

    @property
    def features(self) -> dict[str, Feature]:
        """Those of the text; the image, or its latents."""
        image = {self.part: self.encoder.inner.feature}
        return {
            **self.text.features,
            **({BESIDE: Feature(self.encoder.shape)} if self.encoded else image),
        }

    @property
    def sizes(self) -> dict[str, int]:
        """Those of the text; the channels of the latents."""
        return {**self.text.sizes, "image": self.encoder.shape[-1]}

    def encode(self, raw: Raw, key: Key | None = None) -> Cond:
        """The conditions of the text, and the latents of the image, if there is one."""
        cond, beside = self.text.encode(raw, key), self._beside(raw)
        if beside is None:
            return cond
        if key is not None and self.drop_image:
            lost = jax.random.bernoulli(jax.random.fold_in(key, 2), self.drop_image, (len(beside),))
            beside = jnp.where(expand(lost, beside), 0, beside)
        return {**cond, "image": beside}

    def stored(self, raw: Raw) -> dict[str, Array]:
        """What is stored of the text, and the latents of the image."""
        beside = self._beside(raw)
        return {**self.text.stored(raw), **({} if beside is None else {BESIDE: beside})}

    def request(self, wanted: Sequence[Any], examples: Any = ()) -> Callable[[Array, Array], Raw]:
        """The instructions asked for, and the images of the examples in turn; without examples the
        latents are 0.

        Raises:
          ValueError: as the text.
        """
        few = [examples[i] for i in range(min(len(examples), MOST_EXAMPLES))]
        name = next(
            (n for n in (BESIDE, self.part, self.encoder.inner.part) if few and n in few[0]), None
        )
        if name is None:
            images = {BESIDE: jnp.zeros((1, *self.encoder.shape))}
        else:
            known = BESIDE if name == BESIDE else self.part
            images = {known: jnp.asarray(np.stack([e[name] for e in few]))}

        return request_beside(self.text, wanted, examples, images)

    def _beside(self, raw: Raw) -> Array | None:
        """The latents of the image; None without an image."""
        if self.part in raw:
            return self.encoder.mean(raw[self.part])
        return jnp.asarray(raw[BESIDE]) if BESIDE in raw else None
