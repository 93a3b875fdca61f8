"""Class labels as conditions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from score_sde.conditioning.conditioner import Raw, in_turn
from score_sde.types import Cond, Feature, Key


def labels(features: Mapping[str, Feature]) -> Labels:
    """The labels of a data set; for one without labels, the label 0 of a single class."""
    return Labels(features["label"].values if "label" in features else 1)  # pyright: ignore[reportArgumentType]


@dataclasses.dataclass(frozen=True)
class Labels:
    """The label of each example, 0..classes-1; -1 if it is unknown."""

    classes: int

    field = "labels"

    @property
    def digests(self) -> dict[str, str]:
        """None."""
        return {}

    @property
    def features(self) -> dict[str, Feature]:
        """The label."""
        return {"label": Feature((), self.classes)}

    @property
    def nothing(self) -> Raw:
        """The label -1."""
        return {"label": np.int32(-1)}

    @property
    def sizes(self) -> dict[str, int]:
        """The number of classes."""
        return {"label": self.classes}

    def read(self, example: Raw) -> dict[str, Any]:
        """It reads no text."""
        return {}

    def encode(self, raw: Raw, key: Key | None = None) -> Cond:
        """The label as it is."""
        return {"label": jnp.asarray(raw["label"])}

    def stored(self, raw: Raw) -> dict[str, Array]:
        """The label."""
        return {"label": jnp.asarray(raw["label"])}

    def request(self, wanted: Sequence[Any], examples: Any = ()) -> Callable[[Array, Array], Raw]:
        """The labels asked for in turn, -1 for none; any class at random if there are none.

        Raises:
          ValueError: one of them is not of a class.
        """
        self.check({"label": wanted})
        if wanted:
            return in_turn({"label": np.asarray(wanted, np.int32)})
        return self._any

    def _any(self, keys: Array, numbers: Array) -> Raw:
        def any_class(key):
            return jax.random.randint(key, (), 0, self.classes)

        return {"label": jax.vmap(any_class)(keys)}

    def told(self, raw: Raw) -> dict[str, np.ndarray]:
        """The labels."""
        return {"labels": np.asarray(raw["label"])}

    def check(self, raw: Raw) -> None:
        """Raises a ValueError for a label that is neither a class nor -1."""
        for label in raw["label"]:
            if not isinstance(label, int | np.integer) or not -1 <= label < self.classes:
                raise ValueError(
                    f"label {label} is none of the {self.classes} classes 0 to "
                    f"{self.classes - 1}, nor -1 for no class"
                )


def log_prob(logits: Float[Array, "b n"], label: Int[Array, " b"]) -> Float[Array, " b"]:
    """ln p(label), nats, by a classifier's logits; 0 for the label -1."""
    chosen = jnp.maximum(label, 0)[:, None]
    of_label = jnp.take_along_axis(jax.nn.log_softmax(logits), chosen, axis=1)[:, 0]
    return jnp.where(label < 0, 0, of_label)
