"""The digits and data sets of TFDS: what is read is what was written, and one clear line per
mistake."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets
from sklearn.datasets import load_digits

import score_sde.data as data
from score_sde.data.prepare import main as prepare_main
from score_sde.data.source import in_memory, labelled_images
from score_sde.errors import DataError
from tests.data.test_pipeline import assert_same


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    FakeRgb(data_dir=folder).download_and_prepare(file_format="array_record")
    FakeGrey(data_dir=folder).download_and_prepare(file_format="array_record")
    return folder


class Fake(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tensorflow_datasets.core.Version("1.0.0")
    url_infos = None

    def _info(self):
        return tensorflow_datasets.core.DatasetInfo(
            builder=self, features=self.features, disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(20), "test": self._generate_examples(4)}

    def _generate_examples(self, n):
        for i in range(n):
            yield i, self.example(i)


class FakeRgb(Fake):
    features = tensorflow_datasets.features.FeaturesDict(
        {
            "image": tensorflow_datasets.features.Tensor(shape=(8, 12, 3), dtype=np.uint8),
            "label": tensorflow_datasets.features.ClassLabel(num_classes=5),
        }
    )

    @staticmethod
    def example(i):
        image = np.random.default_rng(i).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        return {"image": image, "label": i % 5}


class FakeGrey(Fake):
    features = tensorflow_datasets.features.FeaturesDict(
        {"image": tensorflow_datasets.features.Tensor(shape=(4, 4), dtype=np.uint8)}
    )

    @staticmethod
    def example(i):
        return {"image": np.full((4, 4), i, np.uint8)}


class FakeEncoded(Fake):
    features = tensorflow_datasets.features.FeaturesDict(
        {"image": tensorflow_datasets.features.Image(shape=(4, 4, 3))}
    )

    @staticmethod
    def example(i):
        return {"image": np.full((4, 4, 3), i, np.uint8)}


@pytest.fixture(scope="module")
def digits(data_dir):
    return data.digits(data_dir=data_dir)


def test_digits_are_those_of_scikit_learn(digits):
    truth = load_digits()
    assert (len(digits.train), len(digits.test)) == (1500, 297)
    assert digits.name == "digits"
    assert digits.features == labelled_images((8, 8, 1), 17, 10)
    train, test = in_memory(digits.train), in_memory(digits.test)
    assert train.parts["image"].dtype == np.uint8
    images = np.concatenate([train.parts["image"], test.parts["image"]])[..., 0]
    labels = np.concatenate([train.parts["label"], test.parts["label"]])
    # every image of the file once, with its label, in the order of the stated permutation
    order = np.random.default_rng(0).permutation(1797)
    np.testing.assert_array_equal(images, truth.images[order])
    np.testing.assert_array_equal(labels, truth.target[order])


def test_digits_are_prepared_once_and_silently(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    (tmp_path / ".prepare-killed" / "sklearn_digits").mkdir(parents=True)  # left by a killed run
    data.digits()
    info = tmp_path / "sklearn_digits" / "1.0.0" / "dataset_info.json"
    written = info.stat().st_mtime_ns
    data.digits()
    assert info.stat().st_mtime_ns == written
    assert sorted(p.name for p in tmp_path.iterdir()) == [".prepare-killed", "sklearn_digits"]
    assert capfd.readouterr() == ("", "")


def test_digits_prepared_by_two_processes_at_once(tmp_path, monkeypatch):
    from score_sde.data.digits_builder import SklearnDigits

    original = SklearnDigits.download_and_prepare

    def overtaken(self, **options):
        original(self, **options)
        monkeypatch.undo()
        assert len(data.digits(data_dir=tmp_path).train) == 1500  # the other one comes first

    monkeypatch.setattr(SklearnDigits, "download_and_prepare", overtaken)
    assert len(data.digits(data_dir=tmp_path).train) == 1500


def test_digits_in_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"digits cannot be prepared in .*file .*set data_dir"):
        data.digits(data_dir=tmp_path / "file")


@pytest.mark.parametrize("memory", [False, True])
def test_tfds_reads_what_was_written(data_dir, memory):
    rgb = data.tfds("fake_rgb", data_dir=data_dir, memory=memory)
    assert rgb.features == labelled_images((8, 12, 3), 256, 5)
    assert (len(rgb.train), len(rgb.test)) == (20, 4)
    for i in range(20):
        assert_same(
            rgb.train[i],
            {k: np.asarray(v) for k, v in FakeRgb.example(i).items()} | {"label": np.int32(i % 5)},
        )


def test_tfds_without_labels_in_grey(data_dir):
    grey = data.tfds(
        "fake_grey", data_dir=data_dir, train_split="train[:75%]", test_split="train[75%:]"
    )
    assert grey.features == labelled_images((4, 4, 1), 256, 1)
    assert (len(grey.train), len(grey.test)) == (15, 5)
    assert_same(grey.test[2], {"image": np.full((4, 4, 1), 17, np.uint8), "label": np.int32(0)})


def test_tfds_crops_the_centre_and_shrinks_by_the_mean(data_dir):
    small = data.tfds("fake_rgb", data_dir=data_dir, image_size=4)
    assert small.features["image"].shape == (4, 4, 3)
    centre = FakeRgb.example(3)["image"][:, 2:10].astype(float)
    mean = centre.reshape(4, 2, 4, 2, 3).mean((1, 3))
    assert np.abs(small.train[3]["image"] - mean).max() <= 1  # pillow rounds after each axis
    square = data.tfds("fake_rgb", data_dir=data_dir, image_size=8)
    np.testing.assert_array_equal(square.train[3]["image"], centre)


def test_tfds_enlarges_grey(data_dir):
    large = data.tfds("fake_grey", data_dir=data_dir, image_size=6)
    np.testing.assert_array_equal(large.train[9]["image"], np.full((6, 6, 1), 9, np.uint8))


def fake_features(monkeypatch, shape, dtype, name="image"):
    info = SimpleNamespace(
        features={name: SimpleNamespace(shape=shape, np_dtype=dtype)},
        splits=["train", "test"],
        file_format=SimpleNamespace(value="array_record"),
    )
    builder = SimpleNamespace(
        info=info,
        data_path=Path.cwd(),
        as_data_source=lambda split: [
            {"image": np.full((n, n + 2, 3), n, np.uint8)} for n in (3, 5)
        ],
    )
    monkeypatch.setattr("score_sde.data.tfds_images.find", lambda dataset, data_dir: builder)


def test_tfds_images_of_many_sizes(monkeypatch):
    fake_features(monkeypatch, (None, None, 3), np.uint8)
    with pytest.raises(DataError, match=r"x: image sizes differ .* so set image_size"):
        data.tfds("x")
    train = data.tfds("x", image_size=4).train
    for i, n in enumerate((3, 5)):
        np.testing.assert_array_equal(train[i]["image"], np.full((4, 4, 3), n))


def test_tfds_features_that_are_no_images(monkeypatch):
    fake_features(monkeypatch, (16,), np.float32, name="text")
    with pytest.raises(DataError, match="x has no feature 'image', only text"):
        data.tfds("x")
    fake_features(monkeypatch, (4, 4), np.float32)
    with pytest.raises(DataError, match=r"images must be uint8 .*, got float32 \[4, 4\]"):
        data.tfds("x")


def test_tfds_errors(data_dir):
    with pytest.raises(
        DataError, match="no TFDS data set is called 'cifa10'; did you mean cifar10"
    ):
        data.tfds("cifa10", data_dir=data_dir)
    with pytest.raises(DataError, match=r"cifar10:9\.9\.9: .*cannot be loaded at version"):
        data.tfds("cifar10:9.9.9", data_dir=data_dir)
    with pytest.raises(DataError, match=r"no split 'validation'; there are train, test, and"):
        data.tfds("fake_rgb", data_dir=data_dir, test_split="validation")
    cifar10 = data.tfds("cifar10", data_dir=data_dir, memory=True)
    assert cifar10.features == labelled_images((32, 32, 3), 256, 10)
    with pytest.raises(DataError) as error:
        len(cifar10.train)
    assert str(error.value) == (
        f"cifar10 is not prepared in {data_dir}: run `pip install 'score_sde[prepare]'` and then "
        f"`python -m score_sde.data.prepare --dataset cifar10 --data_dir {data_dir}`"
    )


def test_tfds_prepared_in_another_format(data_dir, monkeypatch):
    from score_sde.data import tfds_images

    info = SimpleNamespace(file_format=SimpleNamespace(value="tfrecord"))
    builder = SimpleNamespace(info=info, data_path=data_dir)
    monkeypatch.setattr(tfds_images, "find", lambda dataset, data_dir: builder)
    with pytest.raises(DataError, match=r"x is prepared in .* as tfrecord, .*another data_dir"):
        data.tfds("x", data_dir=data_dir)


def test_the_preparation_command(tmp_path):
    prepare_main(["--dataset", "fake_grey", "--data_dir", str(tmp_path)])
    assert len(data.tfds("fake_grey", data_dir=tmp_path).train) == 20
    with pytest.raises(SystemExit, match="error: no TFDS data set is called 'nothing_like_it'"):
        prepare_main(["--dataset", "nothing_like_it", "--data_dir", str(tmp_path)])


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed"
)
def test_preparing_without_tensorflow(tmp_path):
    with pytest.raises(SystemExit) as error:
        prepare_main(["--dataset", "fake_encoded", "--data_dir", str(tmp_path)])
    assert str(error.value) == (
        "error: preparing fake_encoded needs a package that is not installed "
        "(No module named 'tensorflow'): run `pip install 'score_sde[prepare]'`"
    )
