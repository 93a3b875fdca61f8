"""Rows of tokens of text files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde.data.source import Data, Mapped
from score_sde.errors import DataError, foreign
from score_sde.types import Feature

__all__ = ["text_file"]  # what a config can name

MOST_BYTES = 2**31  # of the files, which are held in memory


def text_file(
    path: str | os.PathLike,
    *,
    length: int = 256,
    tokens: str = "bytes",
    test_fraction: float = 0.1,
    stride: int | None = None,
) -> Data:
    """The part "text", int32 [length], of a file, or of all .txt files of a folder one after the
    other. Its end is for the test; the last tokens that fill no row are left out.

    tokens: "bytes", 256 values; "characters", those that there are, in the order of Unicode; or a
        file tokenizer.json of the library `tokenizers`.
    stride: tokens between the starts of two training rows; `length` if it is None. Test rows do not
        overlap.

    Raises DataError where the file is missing, empty, no text in UTF-8 (bytes may be anything), or
    too short for a training row and a test row.
    """
    if length < 1 or (stride is not None and stride < 1):
        raise DataError(f"length and stride must be at least 1, got {length} and {stride}")
    content = _content(Path(path).expanduser())
    spelled = _SPELLINGS[tokens](content) if tokens in _SPELLINGS else by_file(tokens, content)
    ids, rows = spelled.ids, len(spelled.ids) // length
    if rows < 2:
        raise DataError(
            f"{path} has {len(ids)} tokens, too few for a training row and a test row of {length}: "
            "take a longer text or a smaller length"
        )
    if not 0 < test_fraction <= 0.5:
        raise DataError(f"test_fraction must be in (0, 0.5], got {test_fraction}")
    end = (rows - max(1, round(test_fraction * rows))) * length
    train = range(0, end - length + 1, stride or length)
    test = range(end, rows * length, length)

    def read(start):
        return {"text": ids[start : start + length], "label": np.zeros((), np.int32)}

    text = Feature((length,), len(spelled.names), names=spelled.names)
    features = {"text": text, "label": Feature((), 1)}
    return Data(Path(path).stem, Mapped(train, read), Mapped(test, read), features)


class Spelled(NamedTuple):
    """The tokens of a text, int32 [n], and the bytes of each value (`Feature.names`)."""

    ids: np.ndarray
    names: tuple[str, ...]


def by_bytes(content: bytes) -> Spelled:
    """A token a byte."""
    names = tuple(bytes([i]).decode("latin-1") for i in range(256))
    return Spelled(np.frombuffer(content, np.uint8).astype(np.int32), names)


def by_characters(content: bytes) -> Spelled:
    """A token a character, of those that the text has.

    Raises DataError unless it is UTF-8.
    """
    code = np.frombuffer(_decoded(content).encode("utf-32-le"), np.uint32)
    alphabet = np.flatnonzero(np.bincount(code))
    number = np.zeros(1 + alphabet[-1], np.int32)
    number[alphabet] = np.arange(len(alphabet))
    return Spelled(number[code], names_of([chr(c) for c in alphabet]))


_SPELLINGS = {"bytes": by_bytes, "characters": by_characters}


def names_of(texts: Sequence[str]) -> tuple[str, ...]:
    """The bytes of each text, as `Feature.names` has them."""
    return tuple(text.encode().decode("latin-1") for text in texts)


def by_file(tokens: str, content: bytes) -> Spelled:
    """The tokens of a file tokenizer.json. It cuts and pads nothing, whatever the file says.

    Raises DataError where the file is damaged or none, or the text is not UTF-8.
    """
    from tokenizers import Tokenizer

    known = ", ".join(_SPELLINGS)
    with foreign(f"tokens={tokens!r} is neither of {known}, nor a tokenizer.json"):
        backend: Any = Tokenizer.from_file(tokens)
        backend.no_truncation()
        backend.no_padding()
        ids = backend.encode(_decoded(content), add_special_tokens=False).ids
        return Spelled(np.array(ids, np.int32), _names(backend))


def _names(backend: Any) -> tuple[str, ...]:
    """The bytes of each id; nothing of one that no token has."""
    texts = {i: text for text, i in backend.get_vocab(with_added_tokens=True).items()}
    if type(backend.decoder).__name__ == "ByteLevel":
        of_sign = {sign: bytes([b]).decode("latin-1") for b, sign in _byte_signs().items()}
        spell = lambda i: "".join(of_sign.get(sign, "") for sign in texts[i])  # noqa: E731
    else:  # what a token adds behind another one: with its space, if it has one
        first = min(texts)
        before = backend.decode([first], skip_special_tokens=False)

        def spell(i):
            both = backend.decode([first, i], skip_special_tokens=False)
            return names_of([both.removeprefix(before)])[0]

    return tuple(spell(i) if i in texts else "" for i in range(1 + max(texts)))


def _byte_signs() -> dict[int, str]:
    """The sign that stands for each byte in byte-level BPE (Radford et al. 2019, GPT-2): itself if
    it can be seen, else one of those from 256 on."""
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [b for b in range(256) if b not in seen]
    return {b: chr(b) for b in seen} | {b: chr(256 + i) for i, b in enumerate(others)}


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"the text is not UTF-8 ({error}): take tokens='bytes'") from error


def _content(path: Path) -> bytes:
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    try:
        size = sum(file.stat().st_size for file in files)
        if size > MOST_BYTES:
            raise DataError(f"{path} has {size:,} bytes, more than {MOST_BYTES:,}: cut it")
        content = b"".join(file.read_bytes() for file in files)
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read: {error.strerror}") from error
    if not content:
        raise DataError(f"{path} holds no text: it needs a text file, or a folder of .txt files")
    return content
