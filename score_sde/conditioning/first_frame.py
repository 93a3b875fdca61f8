"""Image to video: the first frame of a clip, beside text or labels."""

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
from score_sde.types import Cond, Feature, Key, Needs, as_tree

__all__ = ["first_frame"]  # what a config can name

MOST_EXAMPLES = 1024  # whose frames stand in where no images are given


def first_frame(
    features: Mapping[str, Feature], *, text: Conditioner | Needs, part: str = "video"
) -> FirstFrame | Needs:
    """What `text` gives, and cond["image"]: the first frame, beside each frame of x. The network
    reads it with `net.cond_channels`.

    text: a conditioner of text or labels, such as "labels". part: the raw part of clips.

    Raises:
        ValueError: the data set has no clips of whole numbers there.
    """
    feature = features.get(part)
    if feature is None or feature.values is None or len(feature.shape) != 4:
        raise ValueError(f"the data set has no clips {part!r}, frames of whole numbers")

    def make(inner: Any) -> FirstFrame:
        return FirstFrame(as_tree(inner), part, feature)

    if isinstance(text, Needs):
        return Needs(text.folders, lambda *frozen: make(text.make(*frozen)))
    return make(text)


_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FirstFrame(BesideText):
    """A conditioner of text or labels, and the first frame in [-1, 1] (`first_frame`). Its raw part
    is a clip or an image. It reads the first frame of a clip."""

    text: Any
    part: str = dataclasses.field(metadata=_STATIC)
    feature: Feature = dataclasses.field(metadata=_STATIC)

    @property
    def features(self) -> dict[str, Feature]:
        """Those of the text, and the clip."""
        return {**self.text.features, self.part: self.feature}

    @property
    def sizes(self) -> dict[str, int]:
        """Those of the text, and the channels of a frame."""
        return {**self.text.sizes, "image": self.feature.shape[-1]}

    def encode(self, raw: Raw, key: Key | None = None) -> Cond:
        """The conditions of the text, and the frame, if there is one."""
        cond = self.text.encode(raw, key)
        if self.part not in raw:
            return cond
        values = jnp.asarray(raw[self.part]).astype(jnp.float32)
        frames, *frame = self.feature.shape
        first = values.reshape(len(values), -1, *frame)[:, :1]
        image = 2 * first / ((self.feature.values or 2) - 1) - 1
        return {**cond, "image": jnp.repeat(image, frames, axis=1)}

    def stored(self, raw: Raw) -> dict[str, Array]:
        """What is stored of the text, and the clip."""
        return {**self.text.stored(raw), self.part: jnp.asarray(raw[self.part])}

    def request(self, wanted: Sequence[Any], examples: Any = ()) -> Callable[[Array, Array], Raw]:
        """What the text asks for, and the first frames of the examples in turn, if there are any.

        Raises:
          ValueError: as the text.
        """
        few = [examples[i] for i in range(min(len(examples), MOST_EXAMPLES))]
        _, *frame = self.feature.shape
        first = [np.asarray(e[self.part]).reshape(-1, *frame)[0] for e in few]
        images = {self.part: jnp.asarray(np.stack(first))} if first else {}

        return request_beside(self.text, wanted, examples, images)
