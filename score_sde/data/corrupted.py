"""A data set whose pixels are partly missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from score_sde.data.draws import uniform
from score_sde.data.source import Data, Example, Source
from score_sde.errors import DataError
from score_sde.types import Feature

__all__ = ["corrupted"]  # what a config can name


def corrupted(
    of: Sequence[Data], *, missing: float = 0.4, part: str = "image", seed: int = 0
) -> Data:
    """Each pixel is missing with this probability, by itself, in both splits. Missing pixels are 0,
    in all channels, so the numbers that were there are not in the data set. The part "known" [h, w,
    1] is 1 where a pixel is known.

    of: in a config one loader, ("digits()",).
    seed: of what is missing, which is always the same.

    Raises:
      DataError: not one data set; missing is not from 0 to below 1; the part is no image.
    """
    if len(of) != 1:
        raise DataError(f"corrupted takes one data set, such as of=('digits()',), not {len(of)}")
    if not 0 <= missing < 1:
        raise DataError(f"missing must be from 0 to below 1, not {missing}")
    (data,) = of
    feature = data.features.get(part)
    if feature is None or len(feature.shape) != 3:
        raise DataError(f"corrupted needs images [h, w, c], and {data.name} has no such {part!r}")
    train, test = (
        Corrupted(source, part, missing, (seed, split))
        for split, source in enumerate((data.train, data.test))
    )
    features = {**data.features, "known": Feature((*feature.shape[:2], 1), 2)}
    name = f"{data.name} without {100 * missing:g} %"
    return dataclasses.replace(data, name=name, train=train, test=test, features=features)


@dataclasses.dataclass(frozen=True)
class Corrupted:
    """A source without the pixels that the words of a seed and an example's number say."""

    source: Source
    part: str
    missing: float
    words: tuple[int, ...]

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        """One example, with what is known of it."""
        index = range(len(self))[index]
        example = self.source[index]
        image = np.asarray(example[self.part])
        drawn = uniform((*self.words, index), image[..., 0].size)
        known = (drawn >= self.missing).reshape(*image.shape[:2], 1)
        image = np.where(known, image, np.zeros_like(image))
        return {**example, self.part: image, "known": known.astype(np.uint8)}
