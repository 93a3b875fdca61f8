"""Retrieval: the nearest images of a database as conditions (Blattmann et al. 2022,
arXiv:2204.11824; Sheynin et al. 2022, arXiv:2204.02849)."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from score_sde.conditioning.beside_text import BesideText
from score_sde.conditioning.conditioner import Conditioner, Raw, request_beside
from score_sde.conditioning.image_encoder import encoder_of
from score_sde.conditioning.image_features import Latents, Numbers
from score_sde.conditioning.nothing import Nothing
from score_sde.conditioning.search import different, nearest_others
from score_sde.types import Cond, Feature, Frozen, Key, Needs, as_tree

__all__ = ["neighbours"]  # what a config can name

DATABASE = "database"  # what `digests` call it
NEIGHBOURS = "neighbours"  # the raw part: features [k, d] that mode `encode` found
MOST_EXAMPLES = 1024  # whose neighbours stand in where no images are given
_BATCH = 256  # images of a database whose features are made at a time


def neighbours(
    features: Mapping[str, Feature],
    *,
    database: Num[np.ndarray, "n *shape"],
    k: int = 4,
    text: Conditioner | Needs | None = None,
    part: str = "image",
    autoencoder: str | None = None,
) -> Neighbours | Needs:
    """cond["context"] [b, k, d], the features of the k images of a database that are nearest to
    the image of an example by the Euclidean distance of their features, the nearest first.

    An image that equals the query is left out: so in training an example never sees itself, nor an
    exact copy of it. Sampling leaves it out, too, for the network has never seen one. Of equal
    images of the database one is kept.

    database: images [n, ...], as the part has them. In a config it is a data set, such as
        "folder(path='PICTURES', image_size=32)", whose training examples are taken; without it,
        those of the config's own data set.
    k: how many neighbours.
    text: a conditioner of labels or text that is a condition, too; None for no other condition.
    part: the raw part that is compared, 0..values-1 or real numbers.
    autoencoder: the workdir or folder of an autoencoder, whose latents are the features; None for
        the numbers of the part, 0..values-1 as -1 to 1.

    Raises:
        ValueError: k is not positive; the database has fewer than k + 1 different images, or images
            of another shape; the text gives cond["context"], too.
    """
    rows = different(np.asarray(database))
    _check(features[part], rows, k)
    of_text, compared = _texts(text), _features(features, part, autoencoder)

    def make(*frozen: Frozen) -> Neighbours:
        count = len(of_text.folders)
        inner, own = of_text.make(*frozen[:count]), compared.make(*frozen[count:])
        if "context" in inner.sizes:
            raise ValueError("text gives cond['context'], as the neighbours do: take text='labels'")
        points, known = _in_batches(own, rows), features.get(NEIGHBOURS)
        if known is not None and known.shape != (k, points.shape[1]):
            raise ValueError(
                f"the data set holds neighbours of shape {known.shape}, and this config finds "
                f"{(k, points.shape[1])}: run --mode encode again"
            )
        digest = hashlib.sha256(rows.tobytes()).hexdigest()
        leaves = as_tree(inner), own, jnp.asarray(rows), points
        return Neighbours(*leaves, digest, k, part, features[part], known is not None)

    folders = (*of_text.folders, *compared.folders)
    return Needs(folders, make) if folders else make()


def _texts(text: Conditioner | Needs | None) -> Needs:
    """The conditioner that the neighbours are added to."""
    if isinstance(text, Needs):
        return text
    return Needs((), lambda: Nothing() if text is None else text)


def _features(features: Mapping[str, Feature], part: str, autoencoder: str | None) -> Needs:
    """What images are compared by."""
    if autoencoder is None:
        return Needs((), lambda: as_tree(Numbers(features[part].values)))
    return Needs((autoencoder,), lambda net: Latents(encoder_of(features, net)))


def _check(feature: Feature, rows: np.ndarray, k: int) -> None:
    """Raises a ValueError for a database in which there are no k neighbours."""
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if rows.shape[1:] != feature.shape:
        raise ValueError(
            f"the database has images of shape {rows.shape[1:]}, and the data set of shape "
            f"{feature.shape}"
        )
    if len(rows) <= k:
        raise ValueError(
            f"k={k} needs {k + 1} different images, for one may be the query itself: the database "
            f"has {len(rows)}"
        )


def _in_batches(compared: Callable[[Any], Array], rows: np.ndarray) -> Float[Array, "n d"]:
    """The features of all rows, some at a time."""
    of_batch = jax.jit(lambda compared, raw: compared(raw))
    starts = range(0, len(rows), _BATCH)
    return jnp.concatenate([of_batch(compared, rows[i : i + _BATCH]) for i in starts])


_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Neighbours(BesideText):
    """A conditioner of the nearest images of a database (`neighbours`). The condition that says
    nothing is k neighbours of zeros, and "unknown" of the text.

    compared: `raw [b, ...] -> features [b, d]`. rows: the images of the database, all different.
    points: their features. digest: the SHA-256 of the rows. image: what they are.
    known: whether the data set has the neighbours already, as mode `encode` found them.
    """

    text: Any
    compared: Any
    rows: Num[Array, "n *shape"] = dataclasses.field(compare=False, repr=False)
    points: Float[Array, "n d"] = dataclasses.field(compare=False, repr=False)
    digest: str = dataclasses.field(metadata=_STATIC)
    k: int = dataclasses.field(metadata=_STATIC)
    part: str = dataclasses.field(metadata=_STATIC)
    image: Feature = dataclasses.field(metadata=_STATIC)
    known: bool = dataclasses.field(default=False, metadata=_STATIC)

    @property
    def digests(self) -> dict[str, str]:
        """Those of the text and of the features, and that of the database."""
        return {**self.text.digests, **self.compared.digests, DATABASE: self.digest}

    @property
    def features(self) -> dict[str, Feature]:
        """Those of the text, and the image; or its neighbours, where the data set has them."""
        found = {NEIGHBOURS: Feature(self._shape)} if self.known else {self.part: self.image}
        return {**self.text.features, **found}

    @property
    def nothing(self) -> Raw:
        """That of the text, and neighbours of zeros."""
        return {**self.text.nothing, NEIGHBOURS: np.zeros(self._shape, self.points.dtype)}

    @property
    def sizes(self) -> dict[str, int]:
        """Those of the text, and the numbers of a neighbour."""
        return {**self.text.sizes, "context": self._shape[1]}

    def encode(self, raw: Raw, key: Key | None = None) -> Cond:
        """The conditions of the text, and the neighbours."""
        return {**self.text.encode(raw, key), "context": self._found(raw)}

    def stored(self, raw: Raw) -> dict[str, Array]:
        """What is stored of the text, and the neighbours."""
        return {**self.text.stored(raw), NEIGHBOURS: self._found(raw)}

    def request(self, wanted: Sequence[Any], examples: Any = ()) -> Callable[[Array, Array], Raw]:
        """What the text asks for, beside the neighbours of the examples in turn; without examples,
        those of the images of the database.

        Raises:
          ValueError: as the text; the examples have no such image.
        """
        few = [examples[i] for i in range(min(len(examples), MOST_EXAMPLES))]
        name = next((n for n in (NEIGHBOURS, self.part) if few and n in few[0]), self.part)
        if few and name not in few[0]:
            raise ValueError(
                f"the examples have no part {self.part!r} whose neighbours could be found: set "
                "config.data to a data set that has it"
            )
        queries = np.stack([e[name] for e in few]) if few else self.rows[:MOST_EXAMPLES]

        parts = {name: jnp.asarray(queries)}
        return request_beside(self.text, wanted, examples, parts)

    @property
    def _shape(self) -> tuple[int, int]:
        """Of the neighbours of one example."""
        return self.k, self.points.shape[1]

    def _found(self, raw: Raw) -> Float[Array, "b k d"]:
        """The features of the neighbours: those that are known, or those of the image."""
        if NEIGHBOURS in raw:
            return jnp.asarray(raw[NEIGHBOURS])
        image = jnp.asarray(raw[self.part])
        chosen = nearest_others(self.compared(image), self.points, self.k, image, self.rows)
        return self.points[chosen]
