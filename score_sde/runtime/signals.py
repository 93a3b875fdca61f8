"""Signals that end a run in order, a lock on its folder, and errors of the disk."""

from __future__ import annotations

import collections
import fcntl
import os
import platform
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from score_sde.errors import CheckpointError


class Signals:
    """received: the signal that asked this process to end the run, or None."""

    received: signal.Signals | None = None

    def heard(self) -> signal.Signals | None:
        """The signal that ends the run now, or None. To be called once in each turn of the loop."""
        return self.received


class SharedSignals(Signals):
    """For several processes: all hear in the same turn a signal that one of them received.

    Its number is sent over the devices beside the steps, and read DELAY turns later. By then it has
    arrived, and nobody waits for it.
    """

    DELAY = 2

    def __init__(self):
        mesh = Mesh(np.array(jax.devices()), ("devices",))
        self._spread = NamedSharding(mesh, PartitionSpec("devices"))
        self._largest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._sent = collections.deque()

    def heard(self) -> signal.Signals | None:
        own = np.full(jax.local_device_count(), self.received or 0, np.int32)
        numbers = jax.make_array_from_process_local_data(self._spread, own)
        self._sent.append(self._largest(numbers))
        if len(self._sent) <= self.DELAY:
            return None
        number = int(self._sent.popleft())
        return signal.Signals(number) if number else None


@contextmanager
def ending_in_order() -> Iterator[Signals]:
    """Notes SIGTERM and SIGINT, for a loop that asks `heard` between its steps. A second signal
    ends the process at once, with the code of `InterruptedRunError`.

    Only the main thread of Python can handle signals: in another thread nothing changes. A signal
    in a long compilation is noted after it.
    """
    signals = Signals() if jax.process_count() == 1 else SharedSignals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def handle(signum, _frame):
        if signals.received is not None:
            os._exit(128 + signum)
        signals.received = signal.Signals(signum)
        # not print: the signal may have interrupted one
        os.write(2, b"\nending after this step; a second signal exits at once\n")

    before = {signum: signal.signal(signum, handle) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield signals
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def only_run(workdir: Path, name: str = "lock") -> Iterator[None]:
    """Holds the lock DIR/NAME, which the system frees when the process ends, in whatever way.

    The file stays. If it were removed, two runs could hold locks on two files of that name.

    Raises:
      CheckpointError: another run holds it.
    """
    with (workdir / name).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "?"
            raise CheckpointError(
                f"another run ({owner}) writes into {workdir}: wait for it, or choose "
                "another --workdir"
            ) from None
        except OSError as error:  # some network file systems have no locks
            print(f"{workdir} cannot be locked ({error.strerror}): let no second run write there")
        file.truncate(0)
        file.write(f"process {os.getpid()} of {platform.node()}")
        file.flush()
        yield


@contextmanager
def writing(workdir: Path) -> Iterator[None]:
    """Around all modes: tells in one line of a full disk or a folder that cannot be written.

    Raises:
      CheckpointError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{error.strerror or error} ({error.filename or workdir}): mend that and run the same "
            "command again, which goes on from what was written"
        ) from error
