"""`python main.py` in two processes of four devices each, on the loopback."""

import os
import socket
import time

import chex

from tests import soak

SECONDS = 240  # in which a run ends; more is a hang


def start(workdirs, arguments, heartbeat=600, only_first=()):
    """Two processes; the output of each is in WORKDIR.INDEX.

    workdirs: one, or one for each. arguments: of main.py, `workdir -> [...]`. only_first: arguments
    that the second does not have."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for index, workdir in enumerate((workdirs * 2)[:2]):
        own = [*arguments(workdir), *([] if index else only_first)]
        process = soak.FORKS.Process(
            target=_host, args=(index, port, heartbeat, own, f"{workdir}.{index}")
        )
        process.start()
        processes.append(process)
    return processes


def _host(index, port, heartbeat, arguments, output):
    os.environ |= {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(index),
    }
    from score_sde.runtime import hosts

    hosts.HEARTBEAT, hosts.TOGETHER = heartbeat, 2
    soak.child([*arguments, "--distributed"], output, devices=4)


def ended(processes):
    """Their exit codes, soon."""
    end = time.monotonic() + SECONDS
    for process in processes:
        process.join(max(end - time.monotonic(), 0))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def close(a, b):
    """To the rounding of sums in another order, over some steps."""
    chex.assert_trees_all_close(a, b, rtol=1e-4, atol=1e-5)


def losses(workdir):
    """Of each step."""
    return {row["step"]: row["loss"] for row in soak.rows(workdir)}
