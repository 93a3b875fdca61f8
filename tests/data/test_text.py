"""Text files and words as tokens."""

import json

import numpy as np
import pytest

from score_sde.config import build
from score_sde.data import words
from score_sde.errors import DataError
from score_sde.media.text import text_of


def read(data, split):
    return np.stack([np.asarray(split[i]["text"]) for i in range(len(split))])


def spelled(data, row):
    names = data.features["text"].names
    return b"".join(names[i].encode("latin-1") for i in row).decode()


@pytest.mark.parametrize("tokens", ["bytes", "characters"])
def test_rows_are_the_text(tokens, tmp_path):
    """All rows in their order are the file up to its last whole row; the end is for the test."""
    content = "Größe zählt.\n" * 40
    (tmp_path / "a.txt").write_text(content)
    data = build(
        "data",
        {"name": "text_file", "path": str(tmp_path / "a.txt"), "length": 13, "tokens": tokens},
    )
    rows = np.concatenate([read(data, data.train), read(data, data.test)])
    found, feature = spelled(data, rows.reshape(-1)), data.features["text"]
    assert content.startswith(found)
    assert len(content.encode()) - len(found.encode()) < 2 * 13
    assert len(data.test) == round(0.1 * len(rows))
    assert feature.values == len(feature.names) == (256 if tokens == "bytes" else 13)


def test_a_folder_is_its_files_one_after_the_other(tmp_path):
    for name, content in (("b.txt", "world"), ("a.txt", "hello "), ("c.md", "not this")):
        (tmp_path / name).write_text(content)
    data = build("data", {"name": "text_file", "path": str(tmp_path), "length": 1})
    both = np.concatenate([read(data, data.train), read(data, data.test)])
    assert spelled(data, both.reshape(-1)) == "hello world"


def test_rows_may_overlap_in_training(tmp_path):
    (tmp_path / "a.txt").write_bytes(bytes(range(100)))
    data = build(
        "data", {"name": "text_file", "path": str(tmp_path / "a.txt"), "length": 10, "stride": 1}
    )
    rows = read(data, data.train)
    np.testing.assert_array_equal(rows, np.arange(81)[:, None] + np.arange(10))
    np.testing.assert_array_equal(read(data, data.test), [np.arange(90, 100)])


def test_tokens_of_a_tokenizer_file(tmp_path):
    """Those that the library itself gives, and their texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({"a": 0, "cat": 1, "sat": 2, "?": 3}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.save(str(tmp_path / "tokenizer.json"))
    content = "a cat sat a dog cat"
    (tmp_path / "a.txt").write_text(content)
    data = build(
        "data",
        {
            "name": "text_file",
            "path": str(tmp_path / "a.txt"),
            "length": 2,
            "tokens": str(tmp_path / "tokenizer.json"),
        },
    )
    both = np.concatenate([read(data, data.train), read(data, data.test)])
    assert both.reshape(-1).tolist() == backend.encode(content).ids
    assert data.features["text"].names == (" a", " cat", " sat", " ?")


@pytest.mark.parametrize("kind", ["ByteLevel", "Metaspace", "WordPiece"])
def test_tokens_of_every_kind_spell_the_text(kind, tmp_path):
    """Whatever stands for a space, and with a part of a letter as a token. The file says that it
    cuts texts; it does not."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    content = "the größte cat sat on the mat, the cat sat " * 12
    if kind == "WordPiece":
        backend = Tokenizer(models.WordPiece(unk_token="?"))
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=60, special_tokens=["?"], show_progress=False
        )
    else:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = getattr(pre_tokenizers, kind)(
            **({"add_prefix_space": False} if kind == "ByteLevel" else {"prepend_scheme": "never"})
        )
        backend.decoder = getattr(decoders, kind)(
            **({} if kind == "ByteLevel" else {"prepend_scheme": "never"})
        )
        backend.normalizer = normalizers.NFC()
        alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "ByteLevel" else []
        trainer = trainers.BpeTrainer(
            vocab_size=300 if alphabet else 40, initial_alphabet=alphabet, show_progress=False
        )
    backend.train_from_iterator([content], trainer)
    backend.enable_truncation(8)
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.txt").write_text(content)
    options = {"path": str(tmp_path / "a.txt"), "tokens": str(tmp_path / "tokenizer.json")}
    data = build("data", {"name": "text_file", "length": 1, **options})
    both = np.concatenate([read(data, data.train), read(data, data.test)]).reshape(-1)
    found = spelled(data, both)
    if kind == "WordPiece":  # which forgets where spaces were beside signs
        assert found.replace(" ", "") == content.replace(" ", "")
        assert found.count(" ") > 50
    else:
        assert found == content


def test_words_of_a_text(tmp_path):
    """Lower case, those with a digit or another letter left out, each as often as it is there."""
    (tmp_path / "a.txt").write_text("The cat the x1 naïve dog's the extraordinarily-long")
    data = build("data", {"name": "words", "path": str(tmp_path / "a.txt"), "length": 5})
    rows = np.concatenate([read(data, data.train), read(data, data.test)])
    assert sorted(words.spelled(rows)) == ["cat", "dog", "long", "s", "the", "the", "the"]
    assert rows.min() == 0
    assert rows.max() <= 26
    assert text_of(
        np.frombuffer(
            b"".join(data.features["text"].names[i].encode().ljust(1, b"\0") for i in rows[0]),
            np.uint8,
        ).reshape(-1, 1)
    ) in words.spelled(rows)


def test_the_words_within_python_are_many():
    data = build("data", "words")
    rows = read(data, data.train)
    found = words.spelled(rows)
    assert len(rows) > 40_000
    assert {"the", "class", "function"} < set(found)
    assert not any("?" in word for word in found)
    assert words.spelled([[3, -1, 0], [1, 0, 2]]) == ["c?", "ab?"]


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("text_file", b"", {}, "holds no text"),
        ("text_file", b"abc", {}, "too few"),
        ("text_file", b"\xff\xfe" * 300, {"tokens": "characters"}, "take tokens='bytes'"),
        ("text_file", b"a" * 600, {"tokens": "letters"}, "neither of bytes, characters"),
        ("text_file", b"a" * 600, {"test_fraction": 0.9}, "test_fraction"),
        ("text_file", None, {}, "cannot be read"),
        ("words", b"one", {}, "needs 2"),
        ("words", b"\xff", {}, "no text in UTF-8"),
        ("words", None, {}, "cannot be read"),
    ],
)
def test_bad_files_are_told_in_one_line(name, content, options, message, tmp_path):
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        build("data", {"name": name, "path": str(path), **options})
    assert "\n" not in str(error.value)


def test_a_damaged_tokenizer_is_told(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a" * 600)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": 3}))
    options = {"path": str(tmp_path / "a.txt"), "tokens": str(tmp_path / "tokenizer.json")}
    with pytest.raises(DataError, match="nor a tokenizer"):
        build("data", {"name": "text_file", **options})
