"""Captions: the part "caption" of an example, an array of k strings."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Shaped

from score_sde.errors import DataError
from score_sde.types import Feature


def caption_features(k: int) -> dict[str, Feature]:
    """The features of k captions; none where k is 0."""
    return {"caption": Feature((k,), None, text=True)} if k else {}


def check_number(num_captions: int | None, least: int = 1) -> None:
    """Raises DataError for a number of captions that no example has."""
    if num_captions is not None and num_captions < least:
        raise DataError(f"num_captions must be at least {least}, got {num_captions}")


def written(
    texts: Iterable[str], where: object, advice: str = "write one, or remove its image"
) -> list[str]:
    """The texts that are not blank.

    Raises DataError, which begins with `where`, if there is none or one is no Unicode text.
    """
    found = [text for text in texts if text.strip()]
    if not found:
        raise DataError(f"{where} has no caption: {advice}")
    for text in found:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where} has a caption that is no Unicode text ({error.reason}): write it anew"
            ) from error
    return found


def repeated(texts: Sequence[str], k: int) -> Shaped[np.ndarray, " k"]:
    """The first k texts; those that are fewer are repeated in turn."""
    return np.array([texts[i % len(texts)] for i in range(k)], np.str_)


def check_array(array: np.ndarray, n: int, where: object) -> None:
    """Raises DataError, which begins with `where`, for another array than strings [n] or [n, k]."""
    if array.dtype.kind != "U" or array.ndim not in (1, 2) or len(array) != n or not array.size:
        raise DataError(
            f"{where} should hold strings (NumPy's dtype U), [{n}] or [{n}, k], but holds "
            f"{array.dtype} {list(array.shape)}"
        )


def of_array(array: np.ndarray, index: int, where: object) -> list[str]:
    """The captions of one example of such an array; blank ones are filling.

    Raises DataError, which begins with `where`, if there is none or one is no Unicode text.
    """
    where = f"{where}[{index}]"
    row = np.ascontiguousarray(array[index : index + 1]).ravel()
    if row.view(f"{row.dtype.str[0]}u4").max() > sys.maxunicode:  # else Python itself may fail
        raise DataError(f"{where} is damaged, it has numbers that are no characters: save it anew")
    return written(row.tolist(), where)


def same_number(*splits: Sequence[Sequence[str]]) -> list[Shaped[np.ndarray, "n k"]]:
    """The captions of each split as an array, with the largest number k that an example has."""
    k = max(len(texts) for split in splits for texts in split)
    return [np.stack([repeated(texts, k) for texts in split]) for split in splits]
