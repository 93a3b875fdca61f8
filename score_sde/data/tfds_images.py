"""Image data sets of TensorFlow Datasets, read without TensorFlow."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.data.captions import caption_features, check_number, repeated
from score_sde.data.resize import to_square
from score_sde.data.source import Absent, Data, Example, Mapped, Source, in_memory, labelled_images
from score_sde.data.tfds_captions import number_of_captions, texts_of
from score_sde.errors import DataError


def tfds(
    dataset: str,
    *,
    data_dir: str | os.PathLike | None = None,
    image_size: int | None = None,
    train_split: str = "train",
    test_split: str = "test",
    memory: bool = False,
    caption_field: str | None = None,
    num_captions: int | None = None,
) -> Data:
    """An image data set by its TFDS name (`"cifar10"`, `"celeb_a"`, `"name/config:version"`).

    data_dir: where data sets are prepared; by default `$TFDS_DATA_DIR`, else `~/.cache/score_sde`.
    image_size: images of another size are centre-cropped and resized (`resize.to_square`); None
        keeps them as they are.
    train_split, test_split: as TFDS writes them, so `"train[:95%]"` is a split too.
    memory: decode everything once into memory, where it fits: some seconds at the start for
        CIFAR-10, and then no decoding in any epoch.
    caption_field: the captions: a text or a sequence of texts, such as "caption" or
        "captions.text"; None for no captions.
    num_captions: of each example: more are left out, fewer are repeated in turn. None is the
        largest number that an example has: if TFDS does not know it, all texts are read once.

    A data set that is not prepared is described all the same, as far as TFDS knows it, since
    sampling needs no more; asked for examples, it raises DataError with the command that prepares.

    Raises DataError where the name or a split is unknown, the data set is prepared in a format that
    needs TensorFlow, its images are not uint8, they differ in size and image_size is not set, or
    there is no such text; and, when it is read, for an example without a caption.
    """
    check_number(num_captions)
    root = resolve(data_dir)
    builder = find(dataset, root)
    missing = _missing(builder, dataset, root)
    if not missing:
        _check_format(builder, dataset)
    features = builder.info.features
    shape = _image_shape(dataset, features, image_size)
    num_classes = getattr(dict(features).get("label"), "num_classes", None)
    k = 0
    if caption_field is not None:
        number = number_of_captions(dataset, features, caption_field)
        k = num_captions or number or 1
        if not (num_captions or number or missing):
            k = _most_captions(dataset, builder, (train_split, test_split), caption_field)

    def read(example: dict[str, Any]) -> Example:
        label = np.int32(example["label"] if num_classes else 0)
        parts = {"image": _fitted(example["image"], shape), "label": label}
        if caption_field is not None:
            parts["caption"] = repeated(texts_of(example, caption_field, dataset), k)
        return parts

    def source(split: str) -> Source:
        if missing:
            return Absent(missing)
        lazy = Mapped(examples(dataset, builder, split), read)
        return in_memory(lazy) if memory else lazy

    features = labelled_images(shape, classes=num_classes or 1) | caption_features(k)
    return Data(dataset, source(train_split), source(test_split), features)


def examples(dataset: str, builder: Any, split: str, **options: Any) -> Any:
    """What TFDS reads. Raises DataError for an unknown split."""
    try:
        return builder.as_data_source(split, **options)
    except ValueError as error:
        raise DataError(
            f"{dataset}: no split {split!r}; there are {', '.join(builder.info.splits)}, "
            "and parts of them such as 'train[:95%]' and 'train[95%:]'"
        ) from error


def _most_captions(dataset: str, builder: Any, splits: Sequence[str], field: str) -> int:
    """The largest number of captions of an example, without decoding the images."""
    from tensorflow_datasets import decode

    raw = {"image": decode.SkipDecoding()}
    return max(
        len(texts_of(example, field, dataset))
        for split in splits
        for example in examples(dataset, builder, split, decoders=raw)
    )


def _fitted(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """An image [h, w] or [h, w, c] brought to a square [*shape], unless it has that size."""
    if image.shape[:2] != shape[:2]:
        from PIL import Image

        grey = image.shape[2:] in ((), (1,))
        picture = Image.fromarray(image.reshape(image.shape[:2]) if grey else image)
        image = to_square(picture, shape[0], shape[2])
    return image.reshape(shape)


def _image_shape(dataset: str, features: Any, image_size: int | None) -> tuple[int, int, int]:
    """The shape of every image."""
    if "image" not in features:
        raise DataError(f"{dataset} has no feature 'image', only {', '.join(sorted(features))}")
    shape, dtype = features["image"].shape, np.dtype(features["image"].np_dtype)
    if dtype != np.uint8 or len(shape) not in (2, 3):
        raise DataError(
            f"{dataset}: images must be uint8 [h, w] or [h, w, c], got {dtype} {list(shape)}"
        )
    height, width, channels = (*shape, 1)[:3]
    if image_size is not None:
        height = width = image_size
        channels = 1 if channels == 1 else 3
    elif None in (height, width, channels):
        raise DataError(f"{dataset}: image sizes differ ({list(shape)}), so set image_size")
    return height, width, channels


def resolve(data_dir: str | os.PathLike | None) -> Path:
    """Where prepared data sets lie: as given, else `$TFDS_DATA_DIR`, else `~/.cache/score_sde`."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/.cache/score_sde").expanduser()


def find(dataset: str, data_dir: Path) -> Any:
    """The TFDS builder of a data set, prepared or not. Raises DataError where there is none."""
    import tensorflow_datasets

    try:
        return tensorflow_datasets.builder(dataset, data_dir=data_dir)
    except tensorflow_datasets.core.registered.DatasetNotFoundError as error:  # pyright: ignore[reportAttributeAccessIssue]
        known = tensorflow_datasets.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(dataset, known)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise DataError(f"no TFDS data set is called {dataset!r}{hint}") from error
    except (AssertionError, ValueError) as error:  # a config or version that does not exist
        raise DataError(f"{dataset}: {str(error).splitlines()[0]}") from error


def prepared(dataset: str, data_dir: Path) -> Any:
    """The TFDS builder of a data set that lies prepared, in a format that needs no TensorFlow.

    Raises DataError otherwise.
    """
    builder = find(dataset, data_dir)
    if missing := _missing(builder, dataset, data_dir):
        raise DataError(missing)
    _check_format(builder, dataset)
    return builder


def _missing(builder: Any, dataset: str, data_dir: Path) -> str | None:
    """What to do where the data set is not prepared."""
    if builder.data_path.exists():
        return None
    return (
        f"{dataset} is not prepared in {data_dir}: run `pip install 'score_sde[prepare]'` and "
        f"then `python -m score_sde.data.prepare --dataset {dataset} --data_dir {data_dir}`"
    )


def _check_format(builder: Any, dataset: str) -> None:
    if builder.info.file_format.value not in ("array_record", "parquet"):
        raise DataError(
            f"{dataset} is prepared in {builder.data_path} as {builder.info.file_format.value}, "
            "which has no random access: prepare it in another data_dir with "
            f"`python -m score_sde.data.prepare --dataset {dataset} --data_dir ...`"
        )
