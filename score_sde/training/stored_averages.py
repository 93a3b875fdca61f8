"""Power-function averages stored in training, and the average of any length made of them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from score_sde.errors import CheckpointError, NonFiniteError, foreign, one_line
from score_sde.runtime import hosts, npz_file
from score_sde.runtime.atomic import replacing
from score_sde.training.ema import Profiles, combine, gamma_of
from score_sde.types import PyTree


class Reconstruction(NamedTuple):
    """params; step: where their average ends; count: of the stored averages in it; error: of its
    profile (`ema.Combination`)."""

    params: PyTree
    step: int
    count: int
    error: float


class StoredAverages:
    """The averages of a workdir: for each stored step a file `DIR/averages/STEP.npz` with all
    lengths. Process 0 writes it, whole or not at all. Every process calls every method."""

    def __init__(self, workdir: Path):
        self.path = workdir / "averages"

    def steps(self) -> list[int]:
        """The steps that have a file, ascending."""
        return sorted(int(file.stem) for file in self.path.glob("*.npz") if file.stem.isdecimal())

    def begin(self, start: int, lengths: tuple[float, ...]) -> None:
        """Removes, before training goes on from step `start`, the files of later steps and what a
        killed run left half-written.

        Raises:
          CheckpointError: the files that stay have other lengths, or are damaged.
        """
        kept = [step for step in self.steps() if step <= start]
        if kept and (found := self._lengths(kept[-1])) != lengths:
            raise CheckpointError(
                f"{self.path} has averages of the lengths {found}, and train.ema_lengths={lengths}:"
                " train on with the former"
            )
        if hosts.is_main():
            self.path.mkdir(parents=True, exist_ok=True)
            for file in (*self.path.glob("*.tmp"), *map(self._file, self.steps())):
                if file.suffix == ".tmp" or int(file.stem) > start:
                    file.unlink()
        hosts.meet("old averages are removed")

    def save(
        self, step: int, lengths: tuple[float, ...], averages: tuple[PyTree, ...], dtype: str
    ) -> None:
        """Stores the averages of these lengths as `dtype`.

        Raises:
          ValueError: a number is not finite, or not as `dtype`. OSError: it cannot be written.
        """
        arrays = {
            f"{i}/{name}": _cast(leaf, dtype)
            for i, average in enumerate(averages)
            for name, leaf in _named(hosts.gathered(average)).items()
        }
        if wrong := [name for name, value in arrays.items() if not np.isfinite(value).all()]:
            raise ValueError(f"the average {wrong[0]} is not finite as {dtype}")
        if not hosts.is_main():
            return
        with replacing(self._file(step)) as file:
            np.savez(file, lengths=np.array(lengths), **arrays)  # pyright: ignore[reportArgumentType]

    def reconstruct(self, params: PyTree, length: float, step: int | None = None) -> Reconstruction:
        """The average of a length that ends at a stored step, or at the newest; float32.

        params: arrays of the wanted shapes. In memory are one float64 sum and one array of a file.

        Raises:
          CheckpointError: nothing was stored, not at that step, of another network, or a file is
            damaged. ValueError: no length between 0 and `ema.MAX_LENGTH`.
        """
        gamma, steps = gamma_of(length), self.steps()
        if not steps:
            raise CheckpointError(
                f"{self.path} has no averages to make that of length {length} from: "
                "train with --config.train.ema_lengths='(0.05, 0.1)' in another run"
            )
        end = steps[-1] if step is None else step
        if end not in steps:
            raise CheckpointError(f"{self.path} has no averages of step {end}: one of {steps}")
        parts = [
            (n, i, gamma_of(stored))
            for n in steps[: steps.index(end) + 1]
            for i, stored in enumerate(self._lengths(n))
        ]
        ends, _, gammas = np.array(parts, np.float64).T
        combination = combine(Profiles(gammas, ends), Profiles(np.array([gamma]), np.array([end])))
        shapes = {name: leaf.shape for name, leaf in _named(params).items()}
        total = {name: np.zeros(shape, np.float64) for name, shape in shapes.items()}
        for (n, i, _), weight in zip(parts, combination.weights, strict=True):
            if weight:
                self._add(total, n, i, weight)
        leaves = [total[name].astype(np.float32) for name in shapes]
        made = jax.tree.unflatten(jax.tree.structure(params), leaves)
        return Reconstruction(
            made, end, int(np.count_nonzero(combination.weights)), combination.error
        )

    def _file(self, step: int) -> Path:
        return self.path / f"{step}.npz"

    def _lengths(self, step: int) -> tuple[float, ...]:
        with _reading(self._file(step)):
            found = npz_file.read(self._file(step), ["lengths"])["lengths"].tolist()
            for length in found:
                gamma_of(length)
            return tuple(found)

    def _add(self, total: dict[str, np.ndarray], step: int, index: int, weight: float) -> None:
        """Adds weight times the stored average of that index to the total."""
        file, prefix = self._file(step), f"{index}/"
        with _reading(file):
            stored = {name for name in npz_file.names(file) if name.startswith(prefix)}
            if stored != {prefix + name for name in total}:
                raise CheckpointError(f"{file} is of another network than the config's")
            for name, value in total.items():
                found = npz_file.read(file, [prefix + name])[prefix + name]
                if found.shape != value.shape or found.dtype.kind != "f":
                    raise CheckpointError(
                        f"{file} is of another network than the config's: {name} is {found.dtype} "
                        f"{one_line(found.shape)}, not {value.shape}"
                    )
                value += weight * found.astype(np.float64)


class Storing:
    """Stores the averages of a run; none if there are no `lengths`.

    start: the step that training goes on from. every: how often to store, in steps; 0 for never.
    first: the index in `TrainState.ema` of the first of `lengths`.

    Raises:
      CheckpointError: the workdir has averages of other lengths.
    """

    def __init__(
        self,
        workdir: Path,
        start: int,
        lengths: tuple[float, ...],
        every: int,
        dtype: str,
        first: int,
    ):
        self.lengths, self.dtype, self.first = lengths, dtype, first
        self.every = every if lengths else 0
        self.stored = StoredAverages(workdir)
        if lengths:
            self.stored.begin(start, lengths)

    def store(self, step: int, averages: tuple[PyTree, ...]) -> None:
        """Stores the averages at this step.

        Raises:
          NonFiniteError: a number is not finite; then nothing is stored.
        """
        if not self.lengths:
            return
        try:
            self.stored.save(step, self.lengths, averages[self.first :], self.dtype)
        except ValueError as error:
            raise NonFiniteError(f"{error} at step {step}") from None


def _cast(leaf: Any, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # `save` looks for it
        return np.asarray(leaf).astype(dtype)


def _reading(path: Path) -> contextlib.AbstractContextManager[None]:
    """Turns whatever a damaged file leads to into a CheckpointError."""
    return foreign(f"{path} is damaged: remove it, the other files may be enough", CheckpointError)


def _named(tree: PyTree) -> dict[str, Any]:
    """The leaves by their paths, in the order of the tree."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
