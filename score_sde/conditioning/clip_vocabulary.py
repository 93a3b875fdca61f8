"""CLIP's byte-pair encoding, made from the content of a folder's files."""

from __future__ import annotations

from typing import Any, NamedTuple

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
_DEFAULTS = {"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": END}
# the order in which transformers gives ids to those that are not in the vocabulary
_NAMED = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_FURTHER = ("additional_special_tokens", "extra_special_tokens")
# A word is a mark, the end of a contraction, letters, one digit, or a run of other signs.
_WORDS = (BEGIN, END, "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", r"\p{L}+", r"\p{N}")
_PATTERN = "|".join([*(word.replace("|", r"\|") for word in _WORDS), r"[^\s\p{L}\p{N}]+"])


class Vocabulary(NamedTuple):
    """A `tokenizers.Tokenizer` that gives the ids within a text, and the ids of the marks."""

    backend: Any
    begin: int
    end: int
    pad: int


def build(
    vocabulary: Any,
    merges: Any,
    config: dict[str, Any],
    special_map: dict[str, Any],
    added: dict[str, Any],
    whole: dict[str, Any],
) -> Vocabulary:
    """The tokenizer of these contents.

    Args:
        vocabulary: id of each token. merges: the text of merges.txt, or a list of pairs.
        config, special_map, added, whole: of tokenizer_config.json, special_tokens_map.json,
            added_tokens.json and tokenizer.json; {} where a file is missing.

    Raises:
        Exception: a content makes no sense; the library raises errors of many classes.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    named, declared = _tokens(config, special_map, added, whole)
    _check(vocabulary, {BEGIN, END} - {token.content for token in declared.values()})
    unknown = content_of(named["unk_token"])
    backend = Tokenizer(
        models.BPE(
            vocabulary,
            pairs(merges),
            unk_token=unknown,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
        )
    )
    blanks = normalizers.Replace(Regex(r"\s+"), " ")
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), blanks, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(_PATTERN), behavior="removed", invert=True)
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    # the byte that is written Ġ is a blank
    end_of_word = decoders.Replace("</w>", "Ġ")
    backend.decoder = decoders.Sequence([end_of_word, decoders.ByteLevel()])
    backend.add_tokens([declared[i] for i in sorted(declared)])
    further = [token for key in _FURTHER for token in _listed(config, key)]
    for value in (*(named[key] for key in _NAMED if named.get(key)), *further):
        if content_of(value) not in {token.content for token in declared.values()}:
            backend.add_tokens([_token(value, special=True)])
    for i, token in declared.items():
        if backend.token_to_id(token.content) != i:
            raise ValueError(
                f"token {token.content!r} has the id {i} there, and would be "
                f"{backend.token_to_id(token.content)}: ids have a gap, or one is used twice"
            )
    ids: list[Any] = [
        backend.token_to_id(content_of(named[key]))
        for key in ("bos_token", "eos_token", "pad_token")
    ]
    return Vocabulary(backend, *ids)


def pairs(merges: Any) -> list[tuple[str, str]]:
    """The merges in order, from the text of merges.txt or from the list in tokenizer.json.

    Raises:
        ValueError: an entry is no pair.
    """
    if isinstance(merges, str):
        lines = [line.removesuffix("\r") for line in merges.removesuffix("\n").split("\n")]
        merges = [line for line in lines if not line.startswith("#version")]
    found = []
    for i, entry in enumerate(merges):
        pair = tuple(entry.split(" ")) if isinstance(entry, str) else tuple(entry)
        if len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
            raise ValueError(f"merge {i} is no pair of tokens")
        found.append(pair)
    return found


def content_of(token: Any) -> str:
    """The text of a token, which files have as a text or with its options.

    Raises:
        ValueError: it is neither.
    """
    content = token.get("content") if isinstance(token, dict) else getattr(token, "content", token)
    if not isinstance(content, str) or not content:
        raise ValueError("a special token has no text")
    return content


def _tokens(config, special_map, added, whole):
    """The special tokens by their names, and all added tokens by their ids."""
    declared = {}
    named = {**_DEFAULTS, **{key: config[key] for key in _NAMED if key in config}}
    if "added_tokens_decoder" in config:
        declared = {int(i): _token(entry) for i, entry in config["added_tokens_decoder"].items()}
    else:
        named |= {key: special_map[key] for key in _NAMED if key in special_map}
        contents = {content_of(token) for token in named.values() if token}
        for text, i in added.items():
            declared[i] = _token({"content": text, "normalized": text not in contents})
        for entry in whole.get("added_tokens", ()):
            declared[entry["id"]] = _token(entry)
    by_content = {token.content: token for token in declared.values()}
    for key, value in named.items():
        if value:
            named[key] = by_content.get(content_of(value), value)
    return named, declared


def _token(value: Any, special: bool = False) -> Any:
    """The library's object for a token. A text alone is matched before the text is normalised."""
    from tokenizers import AddedToken

    if isinstance(value, AddedToken):
        return value
    if isinstance(value, str):
        return AddedToken(value, special=special, normalized=False)
    special = special or bool(value.get("special"))
    options = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": not special}
    given = {key: bool(value.get(key, default)) for key, default in options.items()}
    return AddedToken(content_of(value), special=special, **given)


def _listed(config, key):
    found = config.get(key)
    return found if isinstance(found, list) else []


def _check(vocabulary: Any, needed: set[str]) -> None:
    if not isinstance(vocabulary, dict):
        raise ValueError("its vocabulary is no list of tokens with their ids")
    if not all(type(i) is int and 0 <= i < 2**31 for i in vocabulary.values()):
        raise ValueError("its vocabulary holds an id that is no whole number from 0 to 2^31 - 1")
    if missing := needed - set(vocabulary):
        raise ValueError(f"its vocabulary has no {' and no '.join(sorted(missing))}")
