"""Two data sets as the two ends of a bridge."""

from __future__ import annotations

from collections.abc import Sequence

from score_sde.data.source import Data, Example, Mapped, Source
from score_sde.errors import DataError

__all__ = ["two_sets"]  # what a config can name


def two_sets(of: Sequence[Data], *, part: str = "image", paired: bool = False) -> Data:
    """The examples of one data set, and in the part "source" those of another, x_1.

    of: two data sets: that of x_0, whose other parts stay, and that of x_1. In a config a loader
        each, such as "folder(path='photos', image_size=64)".
    part: that both have.
    paired: whether example i of one belongs to example i of the other. If not, batches pair them
        anew by `data.augment`, such as "independent_coupling".

    Raises:
      DataError: there are not two; they lack the part, or it has another shape; pairs of data sets
        that differ in length.
    """
    if len(of) != 2:
        raise DataError(f"two_sets needs two data sets, of=(LOADER, LOADER), not {len(of)}")
    first, second = of
    shapes = [data.features[part].shape if part in data.features else None for data in of]
    if None in shapes or shapes[0] != shapes[1]:
        raise DataError(
            f"the part {part!r} of {first.name} has the shape {shapes[0]}, and that of "
            f"{second.name} {shapes[1]}: both ends need the same"
        )

    def both(ours: Source, theirs: Source) -> Source:
        if paired and len(ours) != len(theirs):
            raise DataError(
                f"{first.name} has {len(ours)} examples and {second.name} {len(theirs)}: pairs "
                "need as many; set paired=False"
            )

        def read(index: int) -> Example:
            return {**ours[index], "source": theirs[index % len(theirs)][part]}

        return Mapped(range(len(ours)), read)

    features = {**first.features, "source": second.features[part]}
    train, test = both(first.train, second.train), both(first.test, second.test)
    return Data(f"{first.name} and {second.name}", train, test, features)
