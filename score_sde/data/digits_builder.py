"""The TFDS builder behind `digits`. A module of its own, since it imports TFDS at the top."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

NUM_TRAIN = 1500


class SklearnDigits(tfds.core.GeneratorBasedBuilder):
    """The 1,797 handwritten digits of scikit-learn, 8x8, values 0..16.

    They are permuted by a fixed seed, and then the first 1,500 are for training: in the file's own
    order the last images are by other writers than the first. The features are tensors, not
    encoded images, so that preparing it needs no TensorFlow.
    """

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # nothing to download; TFDS's own look-up needs a package it does not declare

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits, 8x8 pixels of 17 values.",
            homepage="https://archive.ics.uci.edu/dataset/80",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            disable_shuffling=True,  # the order on disk is that of the permutation
        )

    def _split_generators(self, dl_manager: object) -> dict[str, Iterator]:
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.images))
        images = digits.images.astype(np.uint8)[order, ..., None]
        labels = digits.target[order]
        return {
            "train": self._generate_examples(images[:NUM_TRAIN], labels[:NUM_TRAIN]),
            "test": self._generate_examples(images[NUM_TRAIN:], labels[NUM_TRAIN:]),
        }

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": image, "label": int(label)}
