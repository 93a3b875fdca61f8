"""Tokens of parts of words, and of words that are added to a vocabulary."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from score_sde.conditioning.token_rows import checked, room, rows_of


@dataclasses.dataclass(frozen=True)
class Subwords:
    """The tokens of a vocabulary of parts of words, which `tokenizers.clip` and `tokenizers.t5`
    read from files.

    before, after: ids around every text. backend: a `tokenizers.Tokenizer`. several: the ids that
    stand in a row for one of these tokens: those of a word of several tokens.
    """

    length: int
    vocabulary: int
    pad: int
    digest: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    backend: Any = dataclasses.field(repr=False, compare=False)
    several: Mapping[int, tuple[int, ...]] = dataclasses.field(default_factory=dict, compare=False)

    def __post_init__(self):
        room(self.length, self.before, self.after)

    def __call__(self, texts: Sequence[Any]) -> Int32[np.ndarray, "n length"]:
        """The ids of these texts."""
        # one by one: a batch would start threads, which worker processes of a data set do not get
        ids = [[i for i, _ in self._encode(text)] for text in checked(texts)]
        return rows_of(texts, ids, self, self.before, self.after, self._lost)

    def texts(self, rows: Int32[np.ndarray, "n length"]) -> list[str]:
        """The texts of rows, in the spelling of the vocabulary."""
        marks = {*self.before, *self.after, self.pad}
        ids = [[i for i in row if i not in marks] for row in rows.tolist()]
        return [self.backend.decode(of_text) for of_text in ids]

    def with_words(self, words: Mapping[str, int]) -> Subwords:
        """The tokenizer with more words, each of so many tokens, whose ids follow those that there
        are. The first token is the word, and further ones are called WORD_1, WORD_2, ...

        Raises:
            ValueError: it knows a word already.
        """
        from tokenizers import Tokenizer as Backend

        backend, several, first = Backend.from_str(self.backend.to_str()), {}, self.vocabulary
        for word, count in words.items():
            names = [word, *(f"{word}_{i}" for i in range(1, count))]
            if known := [name for name in names if backend.token_to_id(name) is not None]:
                raise ValueError(f"the tokenizer has the word {known[0]!r} already")
            backend.add_tokens(names)
            ids = tuple(range(first, first + count))
            if tuple(map(backend.token_to_id, names)) != ids:
                raise ValueError(f"the ids of the vocabulary have gaps, so {word!r} gets none")
            several[first], first = ids, first + count
        more = hashlib.sha256(f"{self.digest} {dict(words)}".encode()).hexdigest()
        return dataclasses.replace(
            self,
            vocabulary=first,
            digest=more,
            backend=backend,
            several={**self.several, **several},
        )

    def _encode(self, text: str) -> list[tuple[int, int]]:
        """The id of each token, and where in the text it begins."""
        found = self.backend.encode(text, add_special_tokens=False)
        pairs = zip(found.ids, found.offsets, strict=True)
        return [
            (i, start) for token, (start, _) in pairs for i in self.several.get(token, (token,))
        ]

    def _lost(self, text, n):
        return text[self._encode(text)[n][1] :]
