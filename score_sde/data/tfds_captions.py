"""The captions of a data set of TensorFlow Datasets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from score_sde.data.captions import written
from score_sde.data.tfds_fields import text_shape, texts_in
from score_sde.errors import DataError


def number_of_captions(dataset: str, features: Any, field: str) -> int | None:
    """How many texts an example has in a field; None where TFDS does not know it.

    field: of a text, or of a sequence of texts, as `tfds_fields.text_shape` has it.

    Raises DataError where there is no such field, or it holds no text.
    """
    shape = text_shape(dataset, features, field, "caption_field")
    known = [n for n in shape if n is not None]
    return math.prod(known) if len(known) == len(shape) else None


def texts_of(example: Mapping[str, Any], field: str, dataset: str) -> list[str]:
    """The captions of an example.

    Raises DataError if there is none or one is no Unicode text.
    """
    found = texts_in(example, field)
    where = f"{dataset}: an example"
    try:
        texts = [v.decode() if isinstance(v, bytes) else str(v) for v in found]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} has a caption that is no Unicode text ({error.reason}): set caption_field to "
            "another field"
        ) from error
    return written(texts, where, f"{field!r} is empty, so set caption_field to another field")
