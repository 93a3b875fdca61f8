"""Captions of every source: what is read is what was written, and one clear line per mistake."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image

import score_sde.data as data
from score_sde.data import eval_batches, train_iterator
from score_sde.data.captions import repeated
from score_sde.data.latents import latents
from score_sde.data.source import in_memory
from score_sde.errors import DataError
from score_sde.types import Feature
from tests.data.test_tfds import Fake


def test_a_caption_is_text():
    features = data.absent(image_size=4, num_captions=3).features
    assert features["caption"] == Feature((3,), None, text=True)
    assert not features["image"].text
    assert not Feature(()).text
    reals = data.absent_reals(shape=(4, 2), num_captions=2).features
    assert reals["caption"] == Feature((2,), None, text=True)
    assert "caption" not in data.absent(image_size=4).features
    with pytest.raises(DataError, match="num_captions must be at least 0, got -1"):
        data.absent(image_size=4, num_captions=-1)


def test_fewer_captions_are_repeated_in_turn():
    assert repeated(["a", "bc"], 5).tolist() == ["a", "bc", "a", "bc", "a"]
    assert repeated(["a", "bc"], 1).tolist() == ["a"]


# Folders


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(path)


def folder_of(tmp_path, n=4):
    for i in range(n):
        write(tmp_path / f"{i}.png", 10 * i)
    return tmp_path


def lines(path, *entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), "utf-8")


def said(source):
    """By the grey of each image, its captions."""
    return {
        int(e["image"][0, 0, 0]): e["caption"].tolist()
        for e in map(source.__getitem__, range(len(source)))
    }


def both(pictures):
    return said(pictures.train) | said(pictures.test)


@pytest.mark.parametrize("memory", [False, True])
def test_a_folder_with_metadata(tmp_path, memory):
    folder_of(tmp_path)
    texts = ["one", ["two", "zwei ü", "deux"], ["three", "drei"], "four"]
    lines(
        tmp_path / "metadata.jsonl",
        *({"file_name": f"{i}.png", "text": texts[i], "other": 7} for i in (2, 0, 3, 1)),
    )
    pictures = data.folder(
        tmp_path, image_size=4, test_fraction=0.5, caption_field="text", memory=memory
    )
    assert pictures.features["caption"] == Feature((3,), None, text=True)
    assert both(pictures) == {
        0: ["one"] * 3,
        10: ["two", "zwei ü", "deux"],
        20: ["three", "drei", "three"],
        30: ["four"] * 3,
    }
    two = data.folder(tmp_path, image_size=4, caption_field="text", num_captions=2)
    assert two.features["caption"].shape == (2,)
    assert both(two)[10] == ["two", "zwei ü"]
    none = data.folder(tmp_path, image_size=4)
    assert set(none.features) == set(none.train[0]) == {"image", "label"}


def test_metadata_in_folders_of_its_own(tmp_path):
    """The paths are from the folder of each file, which may be above the images or beside them."""
    for i, name in enumerate(("a/0.png", "a/deep/1.png", "b/2.png", "b/3.png")):
        write(tmp_path / name, i)
    lines(
        tmp_path / "metadata.jsonl",
        {"file_name": "b/2.png", "text": "of the root"},
        {"file_name": "./b/3.png", "text": "with a dot"},
    )
    lines(
        tmp_path / "a/metadata.jsonl",
        {"file_name": "0.png", "text": "of a"},
        {"file_name": "deep/1.png", "text": "of deep"},
    )
    pictures = data.folder(tmp_path, image_size=4, caption_field="text")
    assert both(pictures) == {0: ["of a"], 1: ["of deep"], 2: ["of the root"], 3: ["with a dot"]}
    assert pictures.features["label"].values == 2


def test_a_folder_with_text_files(tmp_path):
    folder_of(tmp_path, 2)
    (tmp_path / "0.txt").write_text("\ufeffa dog\r\n\n  a brown dog \n", "utf-8")
    (tmp_path / "1.txt").write_text("a cät", "utf-8")
    pictures = data.folder(tmp_path, image_size=4, test_fraction=0.5, caption_field=".txt")
    assert both(pictures) == {0: ["a dog", "a brown dog"], 10: ["a cät", "a cät"]}
    absent = data.folder(tmp_path / "gone", image_size=4, caption_field=".txt", num_captions=4)
    assert absent.features["caption"].shape == (4,)


GOOD = [{"file_name": f"{i}.png", "text": "x"} for i in range(4)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"holds no metadata\.jsonl, .*'text' of each image: write it, or set caption_field"),
        ("nonsense", r"metadata\.jsonl, line 1 is no JSON object: it should read"),
        ("[1, 2]", r"metadata\.jsonl, line 1 is no JSON object"),
        ("[" * 100_000, "line 1 is no JSON object"),
        ([*GOOD, {"file_name": "9.png", "text": "x"}], r"names 9\.png, which is no image there"),
        ([*GOOD, {"file_name": "../0.png", "text": "x"}], r"names \.\./0\.png, which is no image"),
        ([*GOOD, GOOD[1]], r"line 5 names 1\.png again: put its captions in one list"),
        (GOOD[:3], r"1 of 4 images have no line in metadata\.jsonl, such as 3\.png: add one"),
        ([{"file_name": "0.png", "caption": "x"}], "line 1 has no field 'text', only file_name, c"),
        ([{"text": "x"}], "line 1 has no file_name: write"),
        ([{"file_name": 3, "text": "x"}], "line 1 has no file_name: write"),
        ([{"file_name": "0.png", "text": 3}], "line 1: 'text' should be a text or a list of texts"),
        ([{"file_name": "0.png", "text": ["x", 3]}], "should be a text or a list of texts"),
        ([{"file_name": "0.png", "text": []}], "line 1 has no caption: write one"),
        ([{"file_name": "0.png", "text": " "}], "line 1 has no caption: write one"),
        ([{"file_name": "0.png", "text": "\ud800"}], "line 1 has a caption that is no Unicode"),
        (b'{"file_name": "\xff"}', r"metadata\.jsonl is no UTF-8 text .*: save it as UTF-8"),
    ],
)
def test_wrong_metadata_is_one_line(tmp_path, content, message):
    folder_of(tmp_path)
    table = tmp_path / "metadata.jsonl"
    if isinstance(content, list):
        lines(table, *content)
    elif content is not None:
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message) as error:
        data.folder(tmp_path, image_size=4, caption_field="text")
    assert "\n" not in str(error.value)


def test_wrong_text_files_are_one_line(tmp_path):
    folder_of(tmp_path, 2)
    (tmp_path / "0.txt").write_text("x")
    with pytest.raises(DataError, match=r"1\.png has no caption: write 1\.txt beside it, one capt"):
        data.folder(tmp_path, image_size=4, caption_field=".txt")
    (tmp_path / "1.txt").write_text(" \n\n")
    with pytest.raises(DataError, match=r"1\.txt has no caption: write one, or remove its image"):
        data.folder(tmp_path, image_size=4, caption_field=".txt")
    with pytest.raises(DataError, match="num_captions must be at least 1, got 0"):
        data.folder(tmp_path, image_size=4, caption_field=".txt", num_captions=0)


# Arrays

IMAGES = np.arange(4 * 2 * 2, dtype=np.uint8).reshape(4, 2, 2)
TEXTS = np.array([["a", "b", ""], ["long text", "", ""], ["ü", "v", "w"], ["", "x", ""]])


def test_npz_with_captions(tmp_path):
    np.savez(tmp_path / "one.npz", image=IMAGES, captions=TEXTS)
    one = data.npz(tmp_path / "one.npz", test_fraction=0.5, caption_field="captions")
    assert one.features["caption"] == Feature((3,), None, text=True)
    assert one.test[0]["caption"].tolist() == ["a", "b", "a"]
    assert one.train[0]["caption"].tolist() == ["long text"] * 3
    assert one.test[1]["caption"].tolist() == ["ü", "v", "w"]
    assert one.train[1]["caption"].tolist() == ["x"] * 3
    assert set(data.npz(tmp_path / "one.npz").features) == {"image", "label"}

    np.savez(
        tmp_path / "two.npz",
        train_images=IMAGES[:2],
        test_images=IMAGES[2:],
        train_captions=TEXTS[:2],
        test_captions=np.array(["alone", "single"]),
    )
    two = data.npz(tmp_path / "two.npz", caption_field="captions")
    assert two.features["caption"].shape == (2,)
    assert two.train[0]["caption"].tolist() == ["a", "b"]
    assert two.test[1]["caption"].tolist() == ["single", "single"]


def test_latents_with_captions(tmp_path):
    latent = np.random.default_rng(0).normal(size=(4, 2, 2, 1)).astype(np.float32)
    np.savez(tmp_path / "x.npz", latent=latent, prompt=TEXTS)
    reals = data.npz_reals(tmp_path / "x.npz", test_fraction=0.5, caption_field="prompt")
    assert reals.features["caption"] == Feature((3,), None, text=True)
    assert reals.train[1]["caption"].tolist() == ["x"] * 3
    np.save(tmp_path / "latents.npy", latent)
    np.save(tmp_path / "labels.npy", np.zeros(4, int))
    np.save(tmp_path / "captions.npy", TEXTS)
    disk = latents(tmp_path, test_fraction=0.5, caption_field="captions")
    assert disk.features["caption"] == Feature((3,), None, text=True)
    assert disk.test[0]["caption"].tolist() == ["a", "b", "a"]
    assert disk.train[1]["caption"].tolist() == ["x"] * 3
    assert set(latents(tmp_path).features) == {"latent", "label"}
    assert latents(tmp_path / "no", caption_field="captions").features["caption"].shape == (1,)
    np.save(tmp_path / "captions.npy", TEXTS[:3])
    with pytest.raises(DataError, match=r"captions\.npy should hold strings .*\[4\] or \[4, k\]"):
        latents(tmp_path, caption_field="captions")


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (np.array(["a", "b", "c"]), r"x: captions should hold strings .*, but holds <U1 \[3\]"),
        (np.array([b"a"] * 4), r"captions should hold strings \(NumPy's dtype U\), .*\|S1 \[4\]"),
        (np.arange(4), r"captions should hold strings"),
        (np.array([["a"], ["b"], [" "], ["d"]]), r"captions\[2\] has no caption: write one"),
        (np.array(["a", "b", 3, "d"], object), r"Python objects: save it as numbers, or text as"),
        (np.array(["a", "b", "c", "\ud800"]), r"captions\[3\] has a caption that is no Unicode"),
    ],
)
def test_wrong_arrays_of_captions_are_one_line(tmp_path, captions, message):
    np.savez(tmp_path / "x.npz", image=IMAGES, captions=captions)
    with pytest.raises(DataError, match=message.replace("x:", r"x\.npz:")) as error:
        data.npz(tmp_path / "x.npz", caption_field="captions")
    assert "\n" not in str(error.value)


def test_captions_that_are_not_there(tmp_path):
    np.savez(tmp_path / "x.npz", image=IMAGES, prompt=np.array(["a"] * 4))
    with pytest.raises(DataError, match=r"no array 'captions'; its arrays of strings are: prompt"):
        data.npz(tmp_path / "x.npz", caption_field="captions")
    damaged = np.frombuffer(b"\xff" * 16, "<U1")
    np.savez(tmp_path / "y.npz", image=IMAGES, captions=damaged)
    with pytest.raises(DataError, match=r"y\.npz: captions\[0\] is damaged"):
        data.npz(tmp_path / "y.npz", caption_field="captions")


# TFDS


def captioned_features():
    kinds = tensorflow_datasets.features
    return kinds.FeaturesDict(
        {
            "image": kinds.Tensor(shape=(4, 4, 3), dtype=np.uint8),
            "title": kinds.Text(),
            "pair": kinds.Sequence(kinds.Text(), length=2),
            "captions": kinds.Sequence({"id": kinds.Scalar(np.int64), "text": kinds.Text()}),
        }
    )


class FakeCaptions(Fake):
    @property
    def features(self):
        return captioned_features()

    @staticmethod
    def example(i):
        texts = [f"Bild {i}, nummer {j}" for j in range(1 + i % 3)]
        return {
            "image": np.full((4, 4, 3), i, np.uint8),
            "title": f"Größe {i}" if i < 19 else "",
            "pair": [f"a{i}", f"b{i}"],
            "captions": [{"id": j, "text": text} for j, text in enumerate(texts)],
        }


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    FakeCaptions(data_dir=folder).download_and_prepare(file_format="array_record")
    return folder


@pytest.mark.parametrize(
    ("field", "k", "texts"),
    [
        ("title", 1, ["Größe 4"]),
        ("pair", 2, ["a4", "b4"]),
        ("captions.text", 3, ["Bild 4, nummer 0", "Bild 4, nummer 1"]),
    ],
)
def test_tfds_with_captions(tfds_dir, field, k, texts):
    pictures = data.tfds("fake_captions", data_dir=tfds_dir, caption_field=field)
    assert pictures.features["caption"] == Feature((k,), None, text=True)
    assert pictures.train[4]["caption"].tolist() == (2 * texts)[:k]
    np.testing.assert_array_equal(pictures.train[4]["image"], np.full((4, 4, 3), 4))
    five = data.tfds("fake_captions", data_dir=tfds_dir, caption_field=field, num_captions=5)
    assert five.features["caption"].shape == (5,)
    assert five.train[4]["caption"].tolist() == (5 * texts)[:5]


def test_tfds_without_captions(tfds_dir, tmp_path):
    pictures = data.tfds("fake_captions", data_dir=tfds_dir)
    assert set(pictures.features) == set(pictures.train[0]) == {"image", "label"}
    absent = data.tfds("fake_captions", data_dir=tmp_path, caption_field="captions.text")
    assert absent.features["caption"].shape == (1,)
    with pytest.raises(DataError, match="is not prepared"):
        len(absent.train)


def test_tfds_captions_that_are_not_there(tfds_dir):
    for field in ("text", "captions", "captions.id", "image", "captions.text.x"):
        with pytest.raises(
            DataError, match=r"has no text '.*'; caption_field can be: captions\.text, pair, title"
        ):
            data.tfds("fake_captions", data_dir=tfds_dir, caption_field=field)
    titled = data.tfds("fake_captions", data_dir=tfds_dir, caption_field="title")
    with pytest.raises(
        DataError, match="fake_captions: an example has no caption: 'title' is empt"
    ):
        titled.train[19]


# Batches


def test_captions_travel_in_batches_with_their_images(tmp_path):
    """Also where those of one batch are shorter than those of another."""
    for i in range(10):
        write(tmp_path / f"{i}.png", i)
        (tmp_path / f"{i}.txt").write_text(f"{'long ' * i}picture\n{i}")
    pictures = data.folder(tmp_path, image_size=4, test_fraction=0.5, caption_field=".txt")

    def check(batch):
        assert batch["caption"].shape == (3, 2)
        for image, caption in zip(batch["image"], batch["caption"], strict=True):
            i = int(image.max())
            assert caption.tolist() == [f"{'long ' * i}picture", str(i)]

    batches = train_iterator(pictures.train, batch_size=3, seed=0)
    for _ in range(4):
        check(next(batches))
    for batch in eval_batches(pictures.test, 3):
        check(batch)
    assert in_memory(pictures.test).parts["caption"].tolist() == [
        [f"{'long ' * i}picture", str(i)] for i in range(0, 10, 2)
    ]


def test_labels_of_metadata(tmp_path):
    """Classes without an image keep their number; a wrong line is told."""
    folder_of(tmp_path)
    options = {"image_size": 4, "test_fraction": 0.5, "label_field": "label"}

    def write_labels(*labels):
        lines = [json.dumps({"file_name": f"{i}.png", "label": a}) for i, a in enumerate(labels)]
        (tmp_path / "metadata.jsonl").write_text("\n".join(lines))

    write_labels(3, 0, 3, 7)
    pictures = data.folder(tmp_path, **options)
    assert [int(pictures.test[i]["label"]) for i in range(2)] == [3, 3]
    assert [int(pictures.train[i]["label"]) for i in range(2)] == [0, 7]
    assert pictures.features["label"].values == 8
    assert data.folder(tmp_path, **options, num_classes=10).features["label"].values == 10
    with pytest.raises(DataError, match=r"has 8 classes: num_classes=7 is too few"):
        data.folder(tmp_path, **options, num_classes=7)
    for wrong in ("3", -1, True, 0.5, 2**31):
        write_labels(3, wrong, 3, 7)
        with pytest.raises(DataError, match="line 2: 'label' should be a whole number from 0 on"):
            data.folder(tmp_path, **options)
