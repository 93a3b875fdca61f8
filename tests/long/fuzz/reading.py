"""Reads damaged files, each reader in a process of its own, and writes how that ended.

python -m tests.long.fuzz.reading RESULTS 10000 0 images "a pipeline"
"""

import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from score_sde.errors import ReportedError
from tests.long.fuzz import cases
from tests.long.fuzz.mutations import mutated

MEMORY = 250 * 2**20  # bytes that a case may add to the peak of the process
SPACE = 4 * 2**30  # of addresses: numbers that are claimed and not there take no other memory
LARGEST = 2**20  # bytes of a file: one that is large takes its time, damaged or not
SECONDS = 5  # of processor time, for one file
LONGEST = 500  # letters of a message, without the folder; a list of known names may be long
TOLD = 20  # failures that are told


class TooLongError(BaseException):
    """A file that takes too long."""


class ForbiddenError(BaseException):
    """A file that made its reader do what no file may."""


def read_mutated(name: str, first: int, count: int, folder: Path, results: Path) -> None:
    """Writes the failures into RESULTS/NAME.json, and the number of the file being read into
    RESULTS/NAME, so that what ends the process is known too."""
    warnings.simplefilter("ignore")
    case = cases.CASES[name]
    folder.mkdir()
    case.write(folder)
    case.read(folder)  # of a sound file, nothing is raised
    whole = {target: (folder / target).read_bytes() for target in case.targets}
    sound = set(folder.rglob("*"))
    number, ended = (results / name).open("w"), (results / f"{name}.json").open("w")
    _forbid(folder)
    space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + SPACE
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    signal.signal(signal.SIGPROF, _too_long)
    failures, begin = [], time.process_time()
    for seed in range(first, first + count):
        number.seek(0)
        number.write(f"{seed} ")
        number.flush()
        rng = random.Random(f"{name} {seed}")
        target = rng.choice(list(whole))
        damaged = mutated(whole[target], case.targets[target], rng)
        (folder / target).write_bytes(damaged[:LARGEST])
        if told := _ended(case.read, folder, target):
            failures.append([seed, target, told])
        (folder / target).write_bytes(whole[target])
        for path in set(folder.rglob("*")) - sound:
            failures.append([seed, target, f"it left {path}"])
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if len(failures) >= TOLD:
            break
    spent = time.process_time() - begin
    told = {"count": seed + 1 - first, "failures": failures, "seconds": spent}
    ended.write(json.dumps(told))
    ended.close()


def _ended(read, folder, target) -> str | None:
    """What is wrong with how the reading ended; None if it read the file or refused it well."""
    before = _peak()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        read(folder)
        told = None
    except (ReportedError, ValueError, OSError) as error:
        told = _wrong(error, folder, target)
    except BaseException as error:
        told = "".join(traceback.format_exception(error)[-3:])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if _peak() - before > MEMORY:
        told = f"it took {(_peak() - before) / 2**20:,.0f} MiB ({told})"
    return told


def _wrong(error, folder, target) -> str | None:
    """What is wrong with an error: what led to it, or a message of several lines or of no file."""
    message = str(error).replace(str(folder), "FOLDER")
    causes, cause = [], error
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    for worst in (MemoryError, TooLongError, ForbiddenError):  # which readers may turn into others
        if any(isinstance(each, worst) for each in causes):
            return f"{worst.__name__}: {message[:500]}"
    names = ("FOLDER", Path(target).name, Path(target).stem, Path(target).parent.name or "FOLDER")
    if not message or "\n" in message or "\r" in message or len(message) > LONGEST:
        kind = type(error).__name__
        return f"the message is no short line ({len(message)}): {kind}: {message[:500]!r}"
    if not any(part in message for part in names):
        trace = "".join(traceback.format_exception(error)[-4:])
        return f"the message names no file: {type(error).__name__}: {message!r} {trace[-600:]}"
    return None


def _forbid(folder: Path) -> None:
    """Files cannot be written outside the folder, nor programs started, nor others reached."""

    def hook(event, arguments):
        if event in FORBIDDEN or (event == "open" and not _may_open(arguments, folder)):
            raise ForbiddenError(f"{event} {arguments!r:.200}")

    sys.addaudithook(hook)


def _may_open(arguments, folder) -> bool:
    path, mode = str(arguments[0]), arguments[1]
    if "outside" in path:  # what mutations name
        return False
    writes = isinstance(mode, str) and bool(set(mode) & set("wax+"))
    return not writes or Path(path).absolute().is_relative_to(folder) or path == os.devnull


FORBIDDEN = {
    *(
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.spawn",
        "os.fork",
        "os.forkpty",
        "os.startfile",
    ),
    *("subprocess.Popen", "socket.connect", "socket.bind", "urllib.Request", "ctypes.dlopen"),
    *(
        "os.link",
        "os.symlink",
        "os.chmod",
        "os.chown",
        "pickle.find_class",
        "shutil.unpack_archive",
    ),
}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _too_long(_signum, _frame):
    raise TooLongError(f"more than {SECONDS} s")


def main(results: Path, count: int, first: int, names: list[str]) -> None:
    """Reads `count` files with each reader, or as many as its case says if it is 0."""
    for name in names:
        if process := os.fork():
            os.waitpid(process, 0)
            continue
        resource.setrlimit(resource.RLIMIT_CPU, (3600, 3600))  # more is a hang
        with tempfile.TemporaryDirectory() as folder, (results / "log").open("a") as log:
            for number in (1, 2):
                os.dup2(log.fileno(), number)
            try:
                own = Path(folder) / "folder"
                read_mutated(name, first, count or cases.CASES[name].count, own, results)
            except BaseException:
                traceback.print_exc()
        os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
