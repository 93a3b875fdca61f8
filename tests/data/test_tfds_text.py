"""Text data sets of TFDS as rows of tokens: what was written is read back."""

import numpy as np
import pytest
import tensorflow_datasets

from score_sde.codecs.tokens import tokens as codec_of
from score_sde.config import build
from score_sde.data import tfds_text
from score_sde.errors import DataError
from tests.data.test_text import read, spelled
from tests.data.test_tfds import Fake

kinds = tensorflow_datasets.features


class FakeTexts(Fake):
    features = kinds.FeaturesDict(
        {
            "label": kinds.ClassLabel(num_classes=2),
            "text": kinds.Text(),
            "raw": kinds.Text(),
            "page": {"paragraphs": kinds.Sequence(kinds.Text())},
        }
    )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(20), "test": self._generate_examples(24)}

    @staticmethod
    def example(i):
        return {
            "label": i % 2,
            "text": document(i),
            "raw": bytes([255, i]),  # is no UTF-8
            "page": {"paragraphs": [f"{i}.{j} " for j in range(i % 3)]},
        }


def document(i):
    """One is empty, and the later ones, which only the test has, have letters of their own."""
    return "" if i == 3 else f"Größe {i} zählt." if i < 20 else f"Ω, {i} ñ"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    FakeTexts(data_dir=folder).download_and_prepare(file_format="array_record")
    return folder


def texts(data_dir, **options):
    """The data set as a config makes it."""
    options = {"length": 7, "data_dir": str(data_dir)} | options
    return build("data", {"name": "tfds_text", "dataset": "fake_texts", **options})


def written(numbers, separator="\n"):
    return separator.join(map(document, numbers))


def tokenizer_file(folder):
    """Byte-level BPE of pairs that are frequent."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([written(range(20))], trainer)
    backend.save(str(folder / "tokenizer.json"))
    return str(folder / "tokenizer.json")


@pytest.mark.parametrize("kind", ["bytes", "characters", "tokenizer.json"])
def test_rows_are_the_documents_one_after_the_other(kind, data_dir, tmp_path):
    """Of each split, up to its last whole row; and so do the bytes that the codec shows."""
    given = tokenizer_file(tmp_path) if kind == "tokenizer.json" else kind
    data = texts(data_dir, tokens=given)
    codec = codec_of(data.features)
    for split, numbers in (data.train, range(20)), (data.test, range(24)):
        rows, wanted = read(data, split), written(numbers).encode()
        shown = np.asarray(codec.show_raw(rows)).tobytes().replace(b"\0", b"")
        assert wanted.startswith(shown)
        longest = max(map(len, data.features["text"].names))
        assert 0 <= len(wanted) - len(shown) < 7 * longest
    assert data.features["text"].values == len(data.features["text"].names)
    if kind == "characters":
        alphabet = [name.encode("latin-1").decode() for name in data.features["text"].names]
        assert alphabet == sorted(set(written(range(24))))


def test_rows_are_those_of_a_text_file(data_dir, tmp_path):
    """Bit for bit, with rows that overlap."""
    (tmp_path / "a.txt").write_text(written(range(20)))
    file = build(
        "data", {"name": "text_file", "path": str(tmp_path / "a.txt"), "length": 7, "stride": 2}
    )
    ours = read(texts(data_dir, stride=2), texts(data_dir, stride=2).train)
    theirs = read(file, file.train)
    assert len(theirs) > 20
    np.testing.assert_array_equal(ours[: len(theirs)], theirs)
    assert ours.dtype == theirs.dtype


def test_splits_are_as_tfds_writes_them(data_dir):
    data = texts(data_dir, train_split="train[:50%]", test_split="train[15:]", length=1)
    assert spelled(data, read(data, data.train).reshape(-1)) == written(range(10))
    assert spelled(data, read(data, data.test).reshape(-1)) == written(range(15, 20))


def test_a_field_is_named_by_its_path(data_dir):
    """A sequence of texts is as many documents."""
    data = texts(data_dir, field="page.paragraphs", separator="", length=1)
    wanted = "".join(f"{i}.{j} " for i in range(20) for j in range(i % 3))
    assert spelled(data, read(data, data.train).reshape(-1)) == wanted
    raw = texts(data_dir, field="raw", separator="", length=2)
    np.testing.assert_array_equal(read(raw, raw.train), [[255, i] for i in range(20)])


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_documents_are_read_some_at_a_time(at_once, data_dir, monkeypatch):
    monkeypatch.setattr(tfds_text, "AT_ONCE", at_once)
    data = texts(data_dir, length=1)
    assert spelled(data, read(data, data.train).reshape(-1)) == written(range(20))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"field": "body"}, "no text 'body'; field can be: page.paragraphs, raw, text$"),
        ({"field": "label"}, "no text 'label'; field can be"),
        ({"train_split": "validation"}, "no split 'validation'; there are train, test"),
        ({"dataset": "fake_text"}, "no TFDS data set is called 'fake_text'"),
        ({"dataset": "imdb_reviews"}, "--dataset imdb_reviews"),
        ({"field": "raw", "tokens": "characters"}, "take tokens='bytes'"),
        ({"tokens": "letters"}, "neither of bytes, characters"),
        ({"length": 1000}, "the split 'train' has 3.. tokens, too few for a row of 1000"),
        (
            {
                "field": "page.paragraphs",  # the first example has none
                "tokens": "characters",
                "train_split": "train[:1]",
                "test_split": "test[:1]",
            },
            r"'train\[:1\]' has 0 tokens, too few",
        ),
        ({"length": 0}, "at least 1"),
    ],
)
def test_mistakes_are_told_in_one_line(options, message, data_dir):
    with pytest.raises(DataError, match=message) as error:
        texts(data_dir, **options)
    assert "\n" not in str(error.value)


def test_a_text_that_does_not_fit_in_memory_is_told(data_dir, monkeypatch):
    monkeypatch.setattr(tfds_text, "MOST_BYTES", 100)
    with pytest.raises(DataError, match=r"more than 100 bytes: take a part of it.*train\[:5%\]"):
        texts(data_dir)
