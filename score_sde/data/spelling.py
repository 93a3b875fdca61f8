"""From texts to tokens: bytes, characters, or those of a file tokenizer.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from score_sde.errors import DataError, foreign

Ids = Int[np.ndarray, " n"]


class Spelled(NamedTuple):
    """The tokens of each text, int32 [n], and the bytes of each value (`Feature.names`)."""

    ids: list[Ids]
    names: tuple[str, ...]


def spelled(tokens: str, texts: Sequence[bytes]) -> Spelled:
    """Texts as tokens of one vocabulary.

    tokens: "bytes", 256 values; "characters", those that the texts have, in the order of Unicode;
        or a file tokenizer.json of the library `tokenizers`, which cuts and pads nothing, whatever
        the file says.

    Raises DataError where tokens is none of these, or a text is not UTF-8 (bytes may be anything).
    """
    return _SPELLINGS[tokens](texts) if tokens in _SPELLINGS else _by_file(tokens, texts)


def _by_bytes(texts: Sequence[bytes]) -> Spelled:
    names = tuple(bytes([i]).decode("latin-1") for i in range(256))
    return Spelled([np.frombuffer(text, np.uint8).astype(np.int32) for text in texts], names)


def _by_characters(texts: Sequence[bytes]) -> Spelled:
    codes = [np.frombuffer(_decoded(text).encode("utf-32-le"), np.uint32) for text in texts]
    alphabet = np.unique(np.concatenate([np.flatnonzero(np.bincount(code)) for code in codes]))
    number = np.zeros(1 + alphabet.max(initial=0), np.int32)
    number[alphabet] = np.arange(len(alphabet))
    return Spelled([number[code] for code in codes], names_of([chr(c) for c in alphabet]))


_SPELLINGS = {"bytes": _by_bytes, "characters": _by_characters}


def names_of(texts: Sequence[str]) -> tuple[str, ...]:
    """The bytes of each text, as `Feature.names` has them."""
    return tuple(text.encode().decode("latin-1") for text in texts)


def _by_file(tokens: str, texts: Sequence[bytes]) -> Spelled:
    from tokenizers import Tokenizer

    known = ", ".join(_SPELLINGS)
    with foreign(f"tokens={tokens!r} is neither of {known}, nor a tokenizer.json"):
        backend: Any = Tokenizer.from_file(tokens)
        backend.no_truncation()
        backend.no_padding()
        ids = [backend.encode(_decoded(text), add_special_tokens=False).ids for text in texts]
        return Spelled([np.array(row, np.int32) for row in ids], _names(backend))


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
