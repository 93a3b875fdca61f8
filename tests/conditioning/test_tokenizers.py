"""Tokenizers give the ids of transformers, and say what they cut and what they refuse."""

import json
import pickle
import shutil
import warnings

import numpy as np
import pytest

from score_sde.conditioning import tokenizers
from score_sde.conditioning.tokenizers import Bytes, Tokenizer, check_vocabulary
from score_sde.errors import ConfigError, DataError
from tests.golden.make_text import CONFIGS, END, HERE, T5_LENGTH, texts, write
from tests.stored import arrays

GIVEN = texts()
SIZE = 814  # of the golden vocabulary
LONG = 10_100  # more tokens than any text has
plain_warnings = pytest.mark.filterwarnings("ignore:.*longer than.*:UserWarning")


@pytest.fixture(scope="module")
def golden():
    return arrays(HERE / "ids.npz")


def agree(ids, theirs):
    wrong = [text[:40] for text, a, b in zip(GIVEN, ids, theirs, strict=True) if (a != b).any()]
    assert not wrong
    assert ids.dtype == np.int32


@plain_warnings
@pytest.mark.parametrize("kind", CONFIGS)
def test_ids_of_clip(kind, golden, tmp_path):
    """Of the files of Stable Diffusion 1, 2 and XL, of ones with added tokens, and of none."""
    tokenizer = tokenizers.load(write(kind, tmp_path))
    agree(tokenizer(GIVEN), golden[kind])
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.pad == (0 if kind in ("sd_2", "sd_xl_2") else SIZE - 1)
    assert tokenizer.vocabulary == (SIZE + 2 if kind == "added" else SIZE)
    assert tokenizer.length == 77


@pytest.mark.parametrize("kind", ["sd_1", "sd_2"])
def test_ids_of_whole_texts(kind, golden, tmp_path):
    tokenizer = tokenizers.clip(write(kind, tmp_path), LONG)
    starts, theirs = golden[f"{kind}_starts"], golden[f"{kind}_all"]
    for text, row, start, stop in zip(GIVEN, tokenizer(GIVEN), starts, starts[1:], strict=False):
        np.testing.assert_array_equal(row[: stop - start], theirs[start:stop], text[:40])
        assert (row[stop - start :] == tokenizer.pad).all()


def test_texts_of_ids(tmp_path):
    """In lower case, with a blank after each word and sign; and of the same ids again."""
    tokenizer = tokenizers.clip(write("sd_1", tmp_path))
    given = ["A red bicycle", "Two dogs, at night!", "日本の猫 café 😀", "it's 42", ""]
    found = tokenizer.texts(tokenizer(given))
    wanted = ["a red bicycle ", "two dogs , at night ! ", "日本の猫 café 😀 ", "it 's 4 2 ", ""]
    assert found == wanted
    np.testing.assert_array_equal(tokenizer(found), tokenizer(given))


@plain_warnings
def test_ids_from_tokenizer_json(golden, tmp_path):
    """As transformers writes it today; also where the file asks for padding of its own."""
    agree(tokenizers.load(HERE / "clip_json")(GIVEN), golden["sd_2"])
    agree(tokenizers.load(HERE / "t5_json", T5_LENGTH)(GIVEN), golden["t5"])
    shutil.copytree(HERE / "t5_json", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "tokenizer.json"
    cut = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    pad = {"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": None}
    pad |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"truncation": cut, "padding": pad}))
    agree(tokenizers.t5(tmp_path, T5_LENGTH)(GIVEN), golden["t5"])


@plain_warnings
def test_ids_of_bytes(golden):
    """Those of ByT5, which takes "</s>" and "<pad>" in a text for marks, and this one does not."""
    given = [text for text in GIVEN if "</s>" not in text and "<pad>" not in text]
    np.testing.assert_array_equal(Bytes(77)(given), golden["bytes"])
    row = Bytes(8)(["é</s>"])[0]
    assert row.tolist() == [0xC3 + 3, 0xA9 + 3, *(b + 3 for b in b"</s>"), 1, 0]


def test_lengths(tmp_path):
    """The field model_max_length, unless it means that there is no limit."""
    folder = write("bare", tmp_path)
    path = folder / "tokenizer_config.json"
    for given, length in ((20, 20), (10**30, 77), (0, 77), ("long", 77)):
        path.write_text(json.dumps({"model_max_length": given}))
        assert tokenizers.clip(folder).length == length
        assert tokenizers.clip(folder, 12)(["a"]).shape == (1, 12)
    assert tokenizers.t5(HERE / "t5_json").length == 512
    for make in (lambda n: tokenizers.clip(folder, n), Bytes):
        for length in (1, 0):
            with pytest.raises(ConfigError, match=f"length={length} leaves no room for text"):
                make(length)


def test_digests(tmp_path):
    """Equal for equal files and lengths alone."""
    a, b, c = (write(kind, tmp_path / kind) for kind in ("sd_1", "sd_2", "bare"))
    shutil.copytree(a, tmp_path / "copy")
    found = [tokenizers.load(folder).digest for folder in (a, b, c, tmp_path / "copy")]
    found += [tokenizers.load(a, 20).digest, Bytes(77).digest, Bytes(20).digest]
    assert found[0] == found[3]
    assert len(set(found)) == len(found) - 1
    assert all(len(digest) == 64 for digest in found)
    merges = c / "merges.txt"
    merges.write_text(merges.read_text().replace("\n", "\n\n", 0).rsplit("\n", 2)[0])
    assert tokenizers.load(c).digest != found[2]


def test_what_is_cut_is_said(tmp_path):
    tokenizer = tokenizers.clip(write("sd_1", tmp_path), 10)
    words = " ".join("abcdefghij")  # a token each
    with pytest.warns(UserWarning, match="longer than 8 tokens") as found:
        rows = tokenizer(["a b", words, f"{words} {'k' * 100}", words, words])
    (warning,) = found
    message = str(warning.message)
    assert message.startswith("4 of 5 texts are longer than 8 tokens and were cut: ")
    assert (
        "'a b c d e f g h i j' loses its last 2 tokens, 'i j'; 'a b c d e f g h i j kkkk" in message
    )
    assert "...' loses its last" in message
    assert message.endswith("; and so on for 1 more")
    assert len(message.splitlines()) == 1
    np.testing.assert_array_equal(rows[1], tokenizer(["a b c d e f g h"])[0])
    with pytest.warns(UserWarning, match="'na.ve' loses its last 3 tokens, '.ve'"):
        Bytes(4)(["naïve"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tokenizer([]).shape == (0, 10)
        tokenizer(["a b c d e f g h", ""])


def test_a_vocabulary_too_large(tmp_path):
    check_vocabulary(Bytes(20), 259)
    with pytest.raises(ConfigError, match="gives ids up to 258, and the encoder knows 258 tokens"):
        check_vocabulary(Bytes(20), 258)
    tokenizer = tokenizers.load(write("added", tmp_path))
    assert tokenizer(["<cat> <cat>_1"])[0, 1:3].max() == SIZE + 1
    with pytest.raises(ConfigError, match=f"up to {SIZE + 1}"):
        check_vocabulary(tokenizer, SIZE)


@pytest.mark.parametrize("tokenizer", [Bytes(9), tokenizers.t5(HERE / "t5_json", 9)])
def test_texts_that_are_refused(tokenizer):
    for given, message in (
        ("a cat", "takes a list of texts, not one text: \\['a cat'\\]"),
        (["a", 3], "text 1 is no string but a int"),
        (["a", None], "text 1 is no string but a NoneType"),
        (["a", "b\ud83d"], "text 1 is no Unicode: character 1 is half of a pair"),
    ):
        with pytest.raises(DataError, match=message):
            tokenizer(given)


# --- folders that are refused ----------------------------------------------------------------


def refused(folder, message, read=tokenizers.load):
    with pytest.raises(DataError, match=message) as found:
        read(folder)
    assert len(str(found.value).splitlines()) == 1


def test_missing_files(tmp_path):
    refused(tmp_path / "nothing", "is no folder: a tokenizer is a folder")
    refused(tmp_path, "holds no tokenizer: that of CLIP is vocab.json and merges.txt, that of T5")
    (tmp_path / "spiece.model").write_bytes(b"")
    refused(
        tmp_path, r"has no tokenizer.json, and spiece.model is not read: transformers writes it"
    )
    folder = write("sd_1", tmp_path / "clip")
    for name in ("merges.txt", "vocab.json"):
        (folder / name).rename(folder / "away")
        refused(folder, f"has no {name}: a tokenizer of CLIP is vocab.json and merges.txt$")
        (folder / "away").rename(folder / name)
    refused(folder, "has no tokenizer.json: transformers", tokenizers.t5)
    pipeline = tmp_path / "pipeline"
    for name in ("tokenizer", "tokenizer_2"):
        (pipeline / name).mkdir(parents=True)
    (pipeline / "model_index.json").write_text("{}")
    refused(pipeline, "is a whole pipeline: give one of its folders tokenizer, tokenizer_2$")


class Trap:
    """What a pickle must never do."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was executed",)


def test_damaged_files(tmp_path):
    folder = write("sd_1", tmp_path)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(pickle.dumps(Trap()))
        refused(folder, f"{name} is no text but a pickle or an archive: nothing of it was read$")
        if name != "merges.txt":
            path.write_bytes(content[: len(content) // 2])
            refused(folder, f"{name} is not valid JSON")
            path.write_text("[" * 100_000)
            refused(folder, f"{name} is not valid JSON")
            path.write_text("[1]")
            refused(folder, f"{name} does not hold names and values$")
        path.write_bytes(content)
    tokenizers.load(folder)


def without_unknown(content):
    content["model"]["unk_id"] = None


def without_end(content):
    content["post_processor"]["special_tokens"] = {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_unknown, "holds no tokenizer of T5 .*unk_id"),
        (without_end, "holds no tokenizer of T5"),
    ],
)
def test_unigram_models_that_lack_a_token(change, message, tmp_path):
    shutil.copytree(HERE / "t5_json", tmp_path, dirs_exist_ok=True)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    refused(tmp_path, message)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", {"a": 0, "b": "1"}, "an id that is no whole number"),
        ("vocab.json", {"a": 0, "b": -1}, "an id that is no whole number"),
        ("vocab.json", {"a": 0, "!": 1}, r"its vocabulary has no <\|endoftext\|> and no <\|start"),
        ("vocab.json", {"a": 0, END: 1, "<|startoftext|>": 2}, "holds no tokenizer of CLIP"),
        ("merges.txt", "#version: 0.2\na b\nabc\n", "merge 1 is no pair of tokens"),
        ("merges.txt", "#version: 0.2\na b\nqqq rrr\n", "holds no tokenizer of CLIP"),
        ("special_tokens_map.json", {"pad_token": {"x": 1}}, "a special token has no text"),
        ("tokenizer_config.json", {"pad_token": 5, "added_tokens_decoder": {}}, "has no text"),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"5000": {"content": "<cat>"}}},
            "token '<cat>' has the id 5000 there, and would be 814: ids have a gap",
        ),
        ("tokenizer.json", {"model": {"type": "WordPiece"}}, "model of type 'WordPiece': only BPE"),
        ("tokenizer.json", {"model": 3}, "tokenizer.json has no model"),
        ("tokenizer.json", {"model": {"type": "BPE"}}, "its vocabulary is no list of tokens"),
        ("tokenizer.json", {"model": {"type": "Unigram"}}, "holds no tokenizer of T5"),
    ],
)
def test_contents_that_make_no_sense(name, content, message, tmp_path):
    folder = write("sd_1", tmp_path)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text)
    refused(folder, message)
