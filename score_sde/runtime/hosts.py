"""One run on several hosts: each has a process that runs the same program on a part of the data.

Process 0 writes the workdir. Each other process does the same with a copy of the workdir, which is
thrown away. So code that writes need not know its process, and no decision depends on what another
process has written so far. Checkpoints and averages are too large to copy, and are shared.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from score_sde.errors import HostsError
from score_sde.types import PyTree

HEARTBEAT = 60  # a process without a heartbeat for so many seconds is dead, and the others end
TOGETHER = 10  # an error that all processes meet reaches all of them within so many seconds
SHARED = ("checkpoints", "averages")
_IGNORED = shutil.ignore_patterns(
    *SHARED, "damaged_checkpoints", "tensorboard", "profile", ".shared_*", "*.tmp"
)


def start() -> None:
    """Joins the other processes. To be called before the first use of a device.

    JAX finds the address of process 0, the number of processes and the number of this one (under
    SLURM, Open MPI, Kubernetes, on TPU pods). Elsewhere they are JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID in the environment.

    Raises:
      HostsError: nothing is found. (If the others do not come within five minutes, JAX ends the
        process.)
    """
    # This service would handle SIGTERM, which `signals` does.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        count, index = (
            None if (text := os.environ.get(name)) is None else int(text)
            for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
        )
        jax.distributed.initialize(
            num_processes=count, process_id=index, heartbeat_timeout_seconds=HEARTBEAT
        )
    except ValueError as error:
        raise HostsError(
            f"--distributed found no other processes ({error}): run under SLURM, Open MPI or on a "
            "TPU pod, or set JAX_COORDINATOR_ADDRESS=HOST:PORT (of process 0), JAX_NUM_PROCESSES=N "
            "and JAX_PROCESS_ID=0..N-1 for each"
        ) from error
    if not is_main():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def is_main() -> bool:
    """Whether this is process 0, or the only one."""
    return jax.process_index() == 0


def meet(name: str) -> None:
    """Waits until all processes are here.

    Raises:
      AssertionError: in all processes, if some wait at a meeting of another name.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def of_main(numbers: list[int], most: int = 64) -> list[int]:
    """The last `most` of the numbers that process 0 has; none is negative."""
    if jax.process_count() == 1:
        return numbers
    numbers = numbers[-most:]
    row = np.array([*numbers, *[-1] * (most - len(numbers))], np.int32)
    return [n for n in multihost_utils.broadcast_one_to_all(row).tolist() if n >= 0]


def least(number: int) -> int:
    """The least of the numbers of all processes, in int32."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.array([number], np.int32)).min())


def gathered(tree: PyTree) -> PyTree:
    """Every array as a whole NumPy array, in every process."""

    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)

    def whole(a):
        if a.is_fully_addressable or a.is_fully_replicated:
            return np.asarray(a)
        return multihost_utils.process_allgather(a, tiled=True)

    return jax.tree.map(whole, tree)


@contextmanager
def own_workdir(workdir: Path) -> Iterator[Path]:
    """The workdir for process 0, and a temporary copy for each other process.

    Raises:
      HostsError: the processes do not share the workdir.
    """
    if jax.process_count() == 1:
        yield workdir
        return
    with tempfile.TemporaryDirectory() as folder:
        _check_shared(workdir)
        own = workdir
        if not is_main():
            own = Path(folder) / workdir.name
            shutil.copytree(workdir, own, ignore=_IGNORED)
            for name in SHARED:
                (own / name).symlink_to((workdir / name).absolute())
        meet("the workdir is copied")
        yield own


def _check_shared(workdir: Path) -> None:
    """Raises HostsError unless all processes see a file that process 0 makes."""
    (number,) = of_main([int.from_bytes(os.urandom(3))])
    token = workdir / f".shared_{number}"
    if is_main():
        workdir.mkdir(parents=True, exist_ok=True)
        token.touch()
    meet("the token is there")
    seen = multihost_utils.process_allgather(np.array([token.exists()]), tiled=True)
    if is_main():
        token.unlink()
    if not seen.all():
        raise HostsError(
            f"process {np.argmin(seen)} does not see what process 0 writes into {workdir}: give a "
            "--workdir that all hosts share"
        )


def end() -> None:
    """Waits for the others to end. Without it they would take this process for dead."""
    jax.distributed.shutdown()


def leave(message: str, code: int) -> NoReturn:
    """Ends this process with a message and a code.

    If all processes end now, they end in order, and only process 0 prints its message. Else this
    one ends at once, and the others end when they miss its heartbeat.
    """
    if not jax.distributed.is_initialized():
        print(message, file=sys.stderr)
        sys.exit(code)
    if is_main():
        print(message, file=sys.stderr)
    try:
        ocp.multihost.get_barrier_sync_fn()(key="leave", timeout_ms=1000 * TOGETHER)
    except Exception:  # not all came to the barrier
        if not is_main():
            print(f"process {jax.process_index()}: {message}", file=sys.stderr)
        _exit_at_once(code)
    end()
    sys.exit(code)


def leave_after(error: jax.errors.JaxRuntimeError) -> NoReturn:  # pyright: ignore[reportInvalidTypeForm]
    """Ends this process at once after an error of the devices, which may mean that another process
    has ended. Raises the error again if this is the only process."""
    if not jax.distributed.is_initialized():
        raise error
    print(
        f"error: process {jax.process_index()} of {jax.process_count()} met "
        f"{str(error).splitlines()[0]!r}: if another process has ended, its output says why, and "
        "the same command goes on from the newest checkpoint",
        file=sys.stderr,
    )
    _exit_at_once(1)


def _exit_at_once(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # at a usual exit JAX would wait for the others
