"""Checkpoints of the state, the data iterator and the config, by orbax."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from score_sde import hosts
from score_sde.types import PyTree

# orbax reports every phase of a save, and what failed in each of its threads before it raises it
logging.getLogger("absl").setLevel(logging.CRITICAL)


class CheckpointError(RuntimeError):
    """A checkpoint that is missing or does not fit; the message is one line on what to do."""


class Restored(NamedTuple):
    """state, data (of the iterator, or None), the step they were saved at, and the steps of newer
    checkpoints that could not be read."""

    state: PyTree
    data: Any
    step: int
    damaged: tuple[int, ...]


class Checkpoints:
    """The checkpoints of a workdir, in `DIR/checkpoints`; the newest `keep` of them are kept.

    Saving is asynchronous: the state is copied from the device, and written in the background.
    Of several processes each writes and reads the parts that its devices hold, and calls every
    method; they agree on what is damaged.
    """

    def __init__(self, workdir: str | Path, keep: int = 3):
        self.path = (Path(workdir) / "checkpoints").resolve()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        handlers = {
            "state": ocp.StandardCheckpointHandler(),
            "data": ocp.JsonCheckpointHandler(),
            "config": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(self.path, options=options, item_handlers=handlers)

    def save(self, step: int, state: PyTree, data: Any, config: dict[str, Any]) -> None:
        """Saves the state, the data iterator's state and the config (both as JSON) under the
        step, if it is new.

        Raises:
          OSError: this or an earlier one could not be written; those before are whole.
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
          OSError: it could not be.
        """
        with _writing(self.path):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is written, and ends the threads that write."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def restore(self, abstract: PyTree, step: int | None = None) -> Restored | None:
        """The newest checkpoint that can be read, or that of a step; None where there is none.

        abstract: the wanted state as `jax.ShapeDtypeStruct`s with shardings, which need not be
            those that it was saved with.
        A damaged checkpoint is skipped, with a line that says so, for the one before it; nothing
        is changed on the disk.

        Raises:
          CheckpointError: a checkpoint of other shapes than wanted, or all are damaged.
        """
        steps = [n for n in hosts.of_main(self.steps()) if step in (None, n)]
        damaged = []
        for step in reversed(steps):
            try:
                restored = self._restore(step, abstract)
            except CheckpointError:
                raise
            except (OSError, ValueError, KeyError, AssertionError) as error:
                reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else ""
                print(
                    f"checkpoint {step} in {self.path} is damaged and was skipped "
                    f"({type(error).__name__}: {reason})",
                    flush=True,
                )
                damaged.append(step)
                continue
            return Restored(restored.state, restored.data["state"], step, tuple(damaged))
        if steps:
            raise CheckpointError(
                f"none of the checkpoints {steps} in {self.path} can be read: "
                "restore the folder from a copy, or start anew in another --workdir"
            )
        return None

    def _restore(self, step: int, abstract: PyTree) -> Any:
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
        )
        try:
            self._check_shapes(step, abstract)
            return self._manager.restore(step, args=args)
        except (OSError, ValueError, KeyError):
            # The others may have read their parts, and then wait for this process at the end of
            # orbax's restore: at a meeting of another name theirs is damaged too.
            hosts.meet("a checkpoint is damaged")
            raise

    def set_aside(self, steps: tuple[int, ...]) -> None:
        """Moves checkpoints to `DIR/damaged_checkpoints`, so that their steps can be saved anew."""
        for step in steps if hosts.is_main() else ():
            target = self.path.parent / "damaged_checkpoints" / f"{step}_{time.time_ns()}"
            target.parent.mkdir(exist_ok=True)
            (self.path / str(step)).rename(target)
        hosts.meet("the damaged checkpoints are aside")
        self._manager.reload()

    def _check_shapes(self, step: int, abstract: PyTree) -> None:
        metadata = self._manager.item_metadata(step).state
        if metadata is None:
            raise ValueError("its metadata is missing")
        stored = _shapes(metadata.tree)
        wanted = _shapes(abstract)
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


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """A ValueError by which tensorstore tells an error of the system becomes that OSError."""
    try:
        yield
    except ValueError as error:
        if (code := re.search(r"os_error_code='(\d+)'", str(error))) is None:
            raise
        # asyncio would list every array that was not written
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
