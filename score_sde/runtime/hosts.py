"""One run on several hosts: a process for each runs the same program, and has a part of the data.

Process 0 writes what a workdir holds. The others do all that it does with a copy of the workdir,
which is thrown away: so no writer asks who it is, and no decision hangs on what another process has
written by then. Checkpoints and averages are the exception: too large to copy, they are shared.
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

HEARTBEAT = 60  # seconds without one, after which a process is dead, and the others end
TOGETHER = 10  # seconds in which the others make the same mistake, if it is theirs too
SHARED = ("checkpoints", "averages")
_IGNORED = shutil.ignore_patterns(
    *SHARED, "damaged_checkpoints", "tensorboard", "profile", ".shared_*", "*.tmp"
)


def start() -> None:
    """Joins the other processes; before any device is touched.

    The address of process 0, how many there are and which this is are found by JAX (SLURM, Open
    MPI, Kubernetes, TPU pods), or else are JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID in the environment.

    Raises:
      HostsError: nothing is found. (If the others do not come within five minutes, JAX ends the
        process.)
    """
    # It would take SIGTERM for itself, also where nobody asks it: `signals` has its own.
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
      AssertionError: in all of them, if some are elsewhere, at a meeting of another name.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def of_main(numbers: list[int], most: int = 64) -> list[int]:
    """The last `most` numbers, none negative, as process 0 has them."""
    if jax.process_count() == 1:
        return numbers
    numbers = numbers[-most:]
    row = np.array([*numbers, *[-1] * (most - len(numbers))], np.int32)
    return [n for n in multihost_utils.broadcast_one_to_all(row).tolist() if n >= 0]


def least(number: int) -> int:
    """The least of the numbers that the processes have, none beyond int32; the same in all."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.array([number], np.int32)).min())


def gathered(tree: PyTree) -> PyTree:
    """The whole of every array as NumPy's, in every process, wherever its parts lie."""

    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)

    def whole(a):
        if a.is_fully_addressable or a.is_fully_replicated:
            return np.asarray(a)
        return multihost_utils.process_allgather(a, tiled=True)

    return jax.tree.map(whole, tree)


@contextmanager
def own_workdir(workdir: Path) -> Iterator[Path]:
    """The workdir for process 0; for each of the others a copy, which ends with it.

    Raises:
      HostsError: the workdir is not one folder that all share.
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
    """Whether all processes see a file that process 0 makes."""
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
    """Waits for the others to end as well; without it they would take this one for dead."""
    jax.distributed.shutdown()


def leave(message: str, code: int) -> NoReturn:
    """Ends this process with a message and a code: in order if the others end as well, which then
    say no more than process 0 does, and else at once, so that they learn of it and end within
    HEARTBEAT seconds."""
    if not jax.distributed.is_initialized():
        print(message, file=sys.stderr)
        sys.exit(code)
    if is_main():
        print(message, file=sys.stderr)
    try:
        ocp.multihost.get_barrier_sync_fn()(key="leave", timeout_ms=1000 * TOGETHER)
    except Exception:  # whatever a barrier ends with to which not all come
        if not is_main():
            print(f"process {jax.process_index()}: {message}", file=sys.stderr)
        _exit_at_once(code)
    end()
    sys.exit(code)


def leave_after(error: jax.errors.JaxRuntimeError) -> NoReturn:
    """Ends one of several processes at once, after an error of the devices, as which the end of
    another shows; raises it again where there is but one."""
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
    os._exit(code)  # and not by what JAX does at exit, which is to wait for the others
