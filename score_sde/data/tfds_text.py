"""Rows of tokens of a text data set of TensorFlow Datasets, read without TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from score_sde.data.source import Data
from score_sde.data.spelling import Ids, spelled
from score_sde.data.text_rows import MOST_BYTES, check_rows, rows, text_features
from score_sde.data.tfds_fields import text_shape, texts_in
from score_sde.data.tfds_images import examples, prepared, resolve
from score_sde.errors import DataError

__all__ = ["tfds_text"]  # what a config can name

AT_ONCE = 1000  # documents: one at a time takes seven times as long


def tfds_text(
    dataset: str,
    *,
    field: str = "text",
    length: int = 256,
    tokens: str = "bytes",
    separator: str = "\n",
    stride: int | None = None,
    train_split: str = "train",
    test_split: str = "test",
    data_dir: str | os.PathLike | None = None,
) -> Data:
    """The part "text", int32 [length], of a data set by its TFDS name (`"lm1b"`,
    `"imdb_reviews/plain_text"`). The documents of a split are one text, in the order of their
    files, and it is cut into rows as `text_file` does.

    field: a text or a sequence of texts, such as "text" or "paragraphs.text".
    tokens: "bytes", "characters" (of both splits) or a file tokenizer.json, as `spelling.spelled`
        has them.
    separator: what stands between two documents.
    stride: tokens between the starts of two training rows; `length` if it is None. Test rows do not
        overlap.
    train_split, test_split: as TFDS writes them, so `"train[:5%]"` is a split too.
    data_dir: where data sets are prepared; by default `$TFDS_DATA_DIR`, else `~/.cache/score_sde`.

    Raises DataError where the data set is not prepared, or in a format that needs TensorFlow; the
    split or the field is unknown; or the text of a split is too long for memory, too short for a
    row, or not UTF-8 (bytes may be anything).
    """
    check_rows(length, stride)
    builder = prepared(dataset, resolve(data_dir))
    text_shape(dataset, builder.info.features, field, "field")
    splits = train_split, test_split
    texts = [_text(dataset, builder, split, field, separator.encode()) for split in splits]
    (train, test), names = spelled(tokens, texts)
    for split, ids in (train_split, train), (test_split, test):
        _check_size(dataset, split, ids, length)
    return Data(
        dataset, rows(train, length, stride), rows(test, length), text_features(length, names)
    )


def _text(dataset: str, builder: Any, split: str, field: str, separator: bytes) -> bytes:
    """All documents of a split."""
    found, size = [], 0
    for document in _documents(examples(dataset, builder, split), field):
        found.append(document)
        size += len(document) + len(separator)
        if size > MOST_BYTES:
            raise DataError(
                f"{dataset}: the split {split!r} has more than {MOST_BYTES:,} bytes: take a part "
                "of it, such as 'train[:5%]'"
            )
    return separator.join(found)


def _documents(source: Any, field: str) -> Iterator[bytes]:
    for start in range(0, len(source), AT_ONCE):
        for example in source.__getitems__(range(start, min(start + AT_ONCE, len(source)))):
            for text in texts_in(example, field):
                yield text if isinstance(text, bytes) else text.encode()


def _check_size(dataset: str, split: str, ids: Ids, length: int) -> None:
    if len(ids) < length:
        raise DataError(
            f"{dataset}: the split {split!r} has {len(ids)} tokens, too few for a row of {length}: "
            "take a larger split or a smaller length"
        )
