"""`python main.py ARGUMENTS` without the seconds of imports: what it prints, and how it ends."""

import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests import xla
from tests.soak import FORKS, ROOT


class Ended(NamedTuple):
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


def child(arguments, folder, devices):
    """The command, in a process of its own."""
    for number, name in ((1, "out"), (2, "err")):
        with (folder / name).open("w") as file:
            os.dup2(file.fileno(), number)
    os.chdir(ROOT)
    os.environ["XLA_FLAGS"] = xla.flags(devices)
    from score_sde import command_line

    sys.argv = ["main.py", *arguments]
    command_line.run()


def main(*arguments, devices=8):
    """Runs it in the root of the repository, on so many simulated devices."""
    with tempfile.TemporaryDirectory() as folder:
        process = FORKS.Process(target=child, args=(arguments, Path(folder), devices))
        process.start()
        process.join()
        return Ended(
            process.exitcode, *((Path(folder) / name).read_text() for name in ("out", "err"))
        )
