"""Several data sets in one, each with its share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from score_sde.data.captions import caption_features
from score_sde.data.source import Changed, Data, Example, Source
from score_sde.errors import DataError

__all__ = ["mixture"]  # what a config can name


def mixture(
    of: Sequence[Data], *, weights: Sequence[float | int] = (), captions: Sequence[str] = ()
) -> Data:
    """The examples of several data sets. A data set that is small for its weight is repeated.

    With images of one subject and images of its class it is the data of DreamBooth with prior
    preservation (Ruiz et al. 2022, arXiv:2208.12242, eq. 2): the loss of the first plus, times the
    ratio of the weights, that of the second.

    of: in a config a loader each, such as "folder(path='subject', image_size=64)".
    weights: how often an example is of each; () for equally often.
    captions: a text for all examples of each, in the place of their own; () keeps those.

    Raises:
      DataError: the numbers of data sets, weights and captions differ; a weight is not positive;
        the examples have different parts.
    """
    if not of:
        raise DataError("a mixture needs data sets: of=('folder(path=...)', ...)")
    for name, given in (("weights", weights), ("captions", captions)):
        if given and len(given) != len(of):
            raise DataError(f"a mixture of {len(of)} data sets has {len(given)} {name}")
    shares = tuple(weights or (1.0,) * len(of))
    if min(shares) <= 0:
        raise DataError(f"the weights of a mixture must be positive, not {min(shares)}")
    parts = [_told(*pair) for pair in zip(of, captions, strict=True)] if captions else list(of)
    for part in parts[1:]:
        if part.features != parts[0].features:
            raise DataError(
                f"the examples of {part.name} and {parts[0].name} have different parts, "
                f"{part.features} and {parts[0].features}: a mixture needs the same"
            )
    train, test = (
        Mixed(tuple(getattr(part, split) for part in parts), shares) for split in ("train", "test")
    )
    return dataclasses.replace(
        parts[0], name="+".join(part.name for part in parts), train=train, test=test
    )


@dataclasses.dataclass(frozen=True)
class Mixed:
    """A source with the examples of several, each repeated so often that it has its share."""

    sources: tuple[Source, ...]
    shares: tuple[float | int, ...]

    @functools.cached_property
    def counts(self) -> list[int]:
        """How many examples are of each source."""
        # the source that is largest for its share comes once
        size = max(len(s) / share for s, share in zip(self.sources, self.shares, strict=True))
        return [round(share * size) for share in self.shares]

    def __len__(self) -> int:
        """The number of examples, repeated ones too."""
        return sum(self.counts)

    def __getitem__(self, index: int) -> Example:
        """One example."""
        if index < 0:
            index += len(self)
        for source, count in zip(self.sources, self.counts, strict=True):
            if index < count:
                return source[index % len(source)]
            index -= count
        raise IndexError(f"a mixture of {len(self)} examples")


def _told(data: Data, caption: str) -> Data:
    """The data set with one caption for all."""

    def change(example):
        return {**example, "caption": np.array([caption], np.str_)}

    return dataclasses.replace(
        data,
        train=Changed(data.train, change),
        test=Changed(data.test, change),
        features=data.features | caption_features(1),
    )
