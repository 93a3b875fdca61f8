"""Tokenizers: from texts to the ids of tokens that an encoder of text reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from os import PathLike
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32

from score_sde.conditioning import clip_vocabulary
from score_sde.conditioning.subwords import Subwords
from score_sde.conditioning.token_rows import checked, room, rows_of
from score_sde.conditioning.tokenizer_files import (
    contents,
    digest,
    folder_of,
    guarded,
    model_of,
    read_json,
    read_text,
)
from score_sde.conditioning.words import words
from score_sde.errors import ConfigError, DataError

__all__ = ["Bytes", "clip", "load", "t5", "words"]  # what a config can name

_CLIP_LENGTH, _T5_LENGTH = 77, 512
_CLIP_FILES = (
    *("vocab.json", "merges.txt", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
_T5_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_SPARE = 128  # tokens that encoders have at most more than their tokenizers: T5 has 28
_SHORTEST = 3  # a begin, a sign and an end
_LONGEST = 100_000  # tokens; folders say 10^30 where they mean that there is no limit


@runtime_checkable
class Tokenizer(Protocol):
    """From texts to rows of ids, `(texts) -> int32 [n, length]`.

    A text that is too long is cut, and one Python warning says what is lost.

    Raises:
        DataError: a text is no string, or no Unicode.
    """

    @property
    def length(self) -> int:
        """The tokens of a row, with those before and after the text and the padding."""
        ...

    @property
    def vocabulary(self) -> int:
        """Ids are below this number."""
        ...

    @property
    def pad(self) -> int:
        """The id that fills a row behind the text. A text may hold it too."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of the files and the length. Tokenizers with the same one give the same ids."""
        ...

    def __call__(self, texts: Sequence[str]) -> Int32[np.ndarray, "n length"]:
        """The ids of these texts."""
        ...

    def texts(self, rows: Int32[np.ndarray, "n length"]) -> list[str]:
        """The texts of rows, as far as the ids tell."""
        ...


@dataclasses.dataclass(frozen=True)
class Bytes:
    """The bytes of a text in UTF-8, for encoders that are trained along with the network. It reads
    no file.

    Byte b has the id b + 3, the end of a text 1, the padding 0: the ids of ByT5 (arXiv:2105.13626)
    for plain text. The id 2 is not used.

    Raises:
        ConfigError: the length leaves no room for text.
    """

    length: int
    vocabulary: int = dataclasses.field(default=259, init=False)
    pad: int = dataclasses.field(default=0, init=False)

    def __post_init__(self):
        room(self.length, (), (1,))

    @property
    def digest(self) -> str:
        """Of this definition."""
        return digest(f"bytes + 3, end 1, pad 0, length {self.length}", {})

    def __call__(self, texts: Sequence[Any]) -> Int32[np.ndarray, "n length"]:
        """The ids of these texts."""
        ids = [[b + 3 for b in text.encode()] for text in checked(texts)]
        return rows_of(texts, ids, self, (), (1,), self._lost)

    def texts(self, rows: Int32[np.ndarray, "n length"]) -> list[str]:
        """The texts of rows."""
        return [bytes(i - 3 for i in row if i >= 3).decode(errors="replace") for row in rows]

    def _lost(self, text, n):
        return text.encode()[n:].decode(errors="replace")


def load(folder: str | PathLike, length: int | None = None) -> Subwords:
    """The tokenizer of a folder, such as PIPELINE/tokenizer: that of CLIP or that of T5, as its
    files say.

    length: of the rows; by default that of the folder, or 77 for CLIP and 512 for T5.

    Raises:
        DataError: as `clip` and `t5`; the folder holds neither; it holds a whole pipeline.
        ConfigError: the length leaves no room for text.
    """
    folder = folder_of(folder)
    names = {path.name for path in folder.iterdir()}
    if "tokenizer.json" in names:
        kind = model_of(folder).get("type")
        if kind not in ("BPE", "Unigram"):
            raise DataError(
                f"{folder}/tokenizer.json has a model of type {kind!r}: only BPE, of CLIP, and "
                "Unigram, of T5, are read"
            )
        return t5(folder, length) if kind == "Unigram" else clip(folder, length)
    if {"vocab.json", "merges.txt"} & names:
        return clip(folder, length)
    if "spiece.model" in names:
        return t5(folder, length)
    raise DataError(
        f"{folder} holds no tokenizer: that of CLIP is vocab.json and merges.txt, that of T5 is "
        "tokenizer.json"
    )


def clip(folder: str | PathLike, length: int | None = None) -> Subwords:
    """CLIP's tokenizer (arXiv:2103.00020): byte-pair encoding of lower-case words, between a begin
    and an end. The ids are those of transformers' `CLIPTokenizer`.

    It reads vocab.json and merges.txt, or tokenizer.json where that is there. The padding and
    further tokens are in tokenizer_config.json, special_tokens_map.json and added_tokens.json. What
    the second says goes before what the first says; both later files are not read where the first
    has the field added_tokens_decoder, as in transformers. Without any of them the padding is the
    end, as in Stable Diffusion 1 and the first tokenizer of SDXL. Stable Diffusion 2 and the second
    tokenizer of SDXL say "!", id 0: there each "!" of a text has this id too.

    length: of the rows; by default the field model_max_length, or 77.

    Raises:
        DataError: a file is missing or damaged; the vocabulary is not one of CLIP.
        ConfigError: the length leaves no room for text.
    """
    folder = folder_of(folder)
    content = contents(folder, _CLIP_FILES)
    if "tokenizer.json" in content:
        model = model_of(folder)
        vocabulary, merges = model.get("vocab"), model.get("merges")
    else:
        for name in ("vocab.json", "merges.txt"):
            if name not in content:
                raise DataError(
                    f"{folder} has no {name}: a tokenizer of CLIP is vocab.json and merges.txt"
                )
        vocabulary = read_json(folder / "vocab.json")
        merges = read_text(folder / "merges.txt")
    # all but the first two may be missing
    config, special, added, whole = (
        read_json(folder / name) if name in content else {}
        for name in (*_CLIP_FILES[3:], "tokenizer.json")
    )
    found = guarded(
        folder,
        "CLIP",
        lambda: clip_vocabulary.build(vocabulary, merges, config, special, added, whole),
    )
    length = _length_of(config, _CLIP_LENGTH) if length is None else length
    return Subwords(
        length=length,
        vocabulary=1 + max(found.backend.get_vocab(with_added_tokens=True).values()),
        pad=found.pad,
        digest=digest(f"clip, length {length}", content),
        before=(found.begin,),
        after=(found.end,),
        backend=found.backend,
    )


def t5(folder: str | PathLike, length: int | None = None) -> Subwords:
    """T5's tokenizer (arXiv:1910.10683): a unigram model of parts of words (arXiv:1804.10959), and
    an end after every text. It reads tokenizer.json, and the padding from tokenizer_config.json.

    length: of the rows; by default the field model_max_length, or 512. SD3 takes 256.

    Raises:
        DataError: a file is missing or damaged.
        ConfigError: the length leaves no room for text.
    """
    folder = folder_of(folder)
    content = contents(folder, _T5_FILES)
    if "tokenizer.json" not in content:
        only = ", and spiece.model is not read" if (folder / "spiece.model").exists() else ""
        raise DataError(
            f"{folder} has no tokenizer.json{only}: transformers writes it, "
            "T5Tokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    config, special = (
        read_json(folder / name) if name in content else {} for name in _T5_FILES[1:]
    )
    text = read_text(folder / "tokenizer.json")
    backend, pad, after = guarded(folder, "T5", lambda: _unigram(text, special, config))
    length = _length_of(config, _T5_LENGTH) if length is None else length
    largest = max(backend.get_vocab(with_added_tokens=True).values())
    hashed = digest(f"t5, length {length}", content)
    return Subwords(length, largest + 1, pad, hashed, (), after, backend)


def check_vocabulary(tokenizer: Tokenizer, size: int) -> None:
    """Raises ConfigError if the tokenizer is not that of an encoder that knows `size` tokens: it
    gives ids beyond them, or by more than `_SPARE` too few."""
    if not size - _SPARE <= tokenizer.vocabulary <= size:
        raise ConfigError(
            f"the tokenizer gives ids up to {tokenizer.vocabulary - 1}, and the encoder knows "
            f"{size} tokens: take the tokenizer and the encoder from one pipeline"
        )


def _unigram(text: str, special: dict, config: dict) -> tuple[Any, int, tuple[int, ...]]:
    """The library's object, the id of the padding, and the ids after a text."""
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_str(text)
    backend.no_truncation()
    backend.no_padding()
    name = clip_vocabulary.content_of(special.get("pad_token", config.get("pad_token", "<pad>")))
    pad = backend.token_to_id(name)
    if pad is None:
        raise ValueError(f"its padding {name!r} is no token")
    backend.encode("\U0010ffff")  # fails here, not later, if there is no token for unknown signs
    return backend, pad, tuple(backend.encode("").ids)


def _length_of(config: dict[str, Any], default: int) -> int:
    length = config.get("model_max_length")
    return length if type(length) is int and _SHORTEST <= length <= _LONGEST else default
