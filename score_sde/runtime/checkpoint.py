"""Checkpoints of the state, the data iterator and the config, by orbax."""

from __future__ import annotations

import json
import logging
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import orbax.checkpoint as ocp

from score_sde.errors import CheckpointError
from score_sde.runtime import hosts
from score_sde.types import PyTree

# orbax logs every phase of a save, and every error in its threads before it raises it
logging.getLogger("absl").setLevel(logging.CRITICAL)

CHECKSUMS = "checksums.json"
_TRIES = 10
T = TypeVar("T")


class Restored(NamedTuple):
    """state; data, of the iterator, or None; the step at which they were saved; and damaged, the
    steps of newer checkpoints that could not be read."""

    state: PyTree
    data: Any
    step: int
    damaged: tuple[int, ...]


class _Summed:
    """Makes a handler of orbax write the CRC-32 of each of its files into CHECKSUMS beside them.

    orbax calls `finalize` in the background of process 0, after all processes have written and
    before the checkpoint counts as written.
    """

    def finalize(self, directory: os.PathLike) -> None:
        super().finalize(directory)  # pyright: ignore[reportAttributeAccessIssue]
        folder = Path(directory)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        sums = {path.relative_to(folder).as_posix(): _crc32(path) for path in files}
        (folder / CHECKSUMS).write_text(json.dumps(sums, indent=1), encoding="utf-8")


class _State(_Summed, ocp.StandardCheckpointHandler):
    pass


class _Json(_Summed, ocp.JsonCheckpointHandler):
    pass


# These errors do not come from the files: another checkpoint would raise them too.
_NOT_DAMAGE = (CheckpointError, jax.errors.JaxRuntimeError, MemoryError)


class Checkpoints:
    """The checkpoints of a workdir, in `DIR/checkpoints`; the newest `keep` of them are kept.

    Saving is asynchronous: the state is copied from the device, and written in the background.
    Every file has a checksum, and a file that has changed is never read. (Checkpoints of earlier
    versions have no checksums; there a changed bit may go unnoticed.)
    If there are several processes, each writes and reads the parts that its devices hold. All of
    them call every method, and they agree on what is damaged.

    Raises:
      CheckpointError: `DIR/checkpoints` is a file, or its name is not UTF-8.
    """

    def __init__(self, workdir: str | Path, keep: int = 3):
        self.path = (Path(workdir) / "checkpoints").resolve()
        if self.path.is_file():
            raise CheckpointError(
                f"{self.path} is a file, not a folder: move it away, or choose another --workdir"
            )
        if os.fsencode(self.path) != str(self.path).encode("utf-8", "surrogatepass"):
            raise CheckpointError(
                f"the name {str(self.path)!a} is not UTF-8 in this locale, and checkpoints "
                "need that: set PYTHONUTF8=1, or choose a --workdir of ASCII letters"
            )
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
        args = ocp.args
        for item, handler, *kinds in (
            ("state", _State(), args.StandardSave, args.StandardRestore),
            ("state", ocp.PyTreeCheckpointHandler(), args.PyTreeRestore),
            ("data", _Json(), args.JsonSave, args.JsonRestore),
            ("config", _Json(), args.JsonSave, args.JsonRestore),
        ):
            for kind in kinds:
                registry.add(item, kind, handler)
        self._manager = _while_others_remove(
            lambda: ocp.CheckpointManager(self.path, options=options, handler_registry=registry)
        )

    def save(self, step: int, state: PyTree, data: Any, config: dict[str, Any]) -> None:
        """Saves the state and, as JSON, the data iterator's state and the config. Does nothing if
        the step has a checkpoint.

        Raises:
          OSError: this checkpoint or an earlier one could not be written; those before are whole.
        """
        if step in self.steps():
            return
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=ocp.args.JsonSave({"state": data}),
            config=ocp.args.JsonSave(config),
        )
        with _writing(self.path):
            self._manager.save(step, args=args)

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
          OSError: it could not be written.
        """
        with _writing(self.path):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is written, and ends the threads that write."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def _newer_than(self, steps: list[int]) -> bool:
        """Whether a training has written a checkpoint since these were found. Then it may have
        removed a part of one of them."""
        _while_others_remove(self._manager.reload)
        return jax.process_count() == 1 and bool({*self.steps()} - {*steps})

    def restore(self, abstract: PyTree, step: int | None = None) -> Restored | None:
        """The newest checkpoint that can be read, or that of a step; None if there is none.

        abstract: the wanted state as `jax.ShapeDtypeStruct`s with shardings, which may differ from
            those that it was saved with. A dict such as {"ema": ...} restores these parts alone.
        A damaged checkpoint is skipped for the one before it, and a line says so. One that a
        training removes meanwhile is skipped for the one that took its place. Nothing is changed
        on the disk.

        Raises:
          CheckpointError: the checkpoint has other shapes than wanted, or all are damaged.
        """
        wanted, steps = step, [n for n in hosts.of_main(self.steps()) if step in (None, n)]
        damaged = []
        for step in reversed(steps):
            try:
                restored = self._restore(step, abstract)
            except _NOT_DAMAGE:
                raise
            except Exception as error:  # orbax raises any kind, also a bare Exception
                if wanted is None and self._newer_than(steps):
                    return self.restore(abstract)
                if not (self.path / str(step)).exists():
                    continue
                reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else ""
                print(
                    f"checkpoint {step} in {self.path} is damaged and was skipped "
                    f"({type(error).__name__}: {reason})",
                    flush=True,
                )
                damaged.append(step)
                continue
            return Restored(restored.state, restored.data["state"], step, tuple(damaged))
        if wanted is None and self._newer_than(steps):
            return self.restore(abstract)
        if steps:
            raise CheckpointError(
                f"none of the checkpoints {steps} in {self.path} can be read: "
                "restore the folder from a copy, or start anew in another --workdir"
            )
        return None

    def _restore(self, step: int, abstract: PyTree) -> Any:
        state = ocp.args.StandardRestore(abstract)
        if isinstance(abstract, dict):
            shardings = ocp.checkpoint_utils.construct_restore_args(abstract)
            state = ocp.args.PyTreeRestore(abstract, restore_args=shardings, partial_restore=True)
        args = ocp.args.Composite(state=state, data=ocp.args.JsonRestore())
        try:
            self._check_files(step)
            self._check_shapes(step, abstract)
            return self._manager.restore(step, args=args)
        except (*_NOT_DAMAGE, AssertionError):  # the AssertionError is that of `meet` below
            raise
        except Exception:
            # Other processes may have read their parts without an error and wait at orbax's own
            # barrier. One with another name makes them fail too, so that all skip the checkpoint.
            hosts.meet("a checkpoint is damaged")
            raise

    def set_aside(self, steps: tuple[int, ...]) -> None:
        """Moves checkpoints to `DIR/damaged_checkpoints`, to free their steps."""
        for step in steps if hosts.is_main() else ():
            target = self.path.parent / "damaged_checkpoints" / f"{step}_{time.time_ns()}"
            target.parent.mkdir(exist_ok=True)
            (self.path / str(step)).rename(target)
        hosts.meet("the damaged checkpoints are aside")
        self._manager.reload()

    def _check_files(self, step: int) -> None:
        """Raises ValueError if a file of a checkpoint differs from its checksum.

        Each process checks a part of the files, and all raise the same error.
        """
        folder, wanted = self.path / str(step), {}
        for sums in folder.glob(f"*/{CHECKSUMS}"):
            of_item = json.loads(sums.read_text(encoding="utf-8"))
            wanted |= {sums.parent / name: value for name, value in of_item.items()}
        paths = sorted(wanted)
        own = range(jax.process_index(), len(paths), jax.process_count())
        wrong = (i for i in own if _crc32(paths[i]) != wanted[paths[i]])
        first = hosts.least(next(wrong, len(paths)))
        if first < len(paths):
            name = paths[first].relative_to(folder)
            raise ValueError(f"{name} is missing, or has changed")

    def _check_shapes(self, step: int, abstract: PyTree) -> None:
        metadata = self._manager.item_metadata(step).state
        if metadata is None:
            raise ValueError("its metadata is missing")
        stored, wanted = _shapes(metadata.tree), _shapes(abstract)
        if isinstance(abstract, dict):
            stored = {name: v for name, v in stored.items() if name.split("/")[0] in abstract}
        differing = sorted(
            name for name in stored.keys() | wanted.keys() if stored.get(name) != wanted.get(name)
        )
        if differing:
            first = differing[0]
            averages = " (train.ema_rates, train.ema_lengths)" if first.startswith("ema/") else ""
            raise CheckpointError(
                f"the checkpoint at step {step} in {self.path} is of another model or optimiser: "
                f"{len(differing)} arrays differ, the first is {first} "
                f"(stored {stored.get(first)}, wanted {wanted.get(first)}); "
                f"use the config it was made with{averages}, or another --workdir"
            )


def _while_others_remove(read: Callable[[], T]) -> T:
    """What `read` returns. It is called again if a training has removed a checkpoint that orbax had
    just listed. Several processes would wait for each other within it, so they call it once."""
    for _ in range(_TRIES - 1 if jax.process_count() == 1 else 0):
        with suppress(FileNotFoundError, NotADirectoryError):
            return read()
    return read()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns a ValueError of tensorstore that reports an error of the system into an OSError."""
    try:
        yield
    except ValueError as error:
        if (code := re.search(r"os_error_code='(\d+)'", str(error))) is None:
            raise
        # asyncio would list every array that was not written
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def _crc32(path: Path) -> str | None:
    """The CRC-32 of a file; None if it cannot be read."""
    value = 0
    try:
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                value = zlib.crc32(part, value)
    except OSError:
        return None
    return f"{value:08x}"


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
