"""Errors with a message of one line: mistakes of a user, and accidents of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class ReportedError(Exception):
    """The message is one line that says what is wrong and what to do about it. The command line
    prints it and ends with the exit code `code`."""

    code = 1


class ConfigError(ReportedError, ValueError):
    """A config that cannot be built."""


class DataError(ReportedError, ValueError):
    """Data that are missing or damaged, or that are of another kind than wanted."""


class CheckpointError(ReportedError, RuntimeError):
    """A checkpoint that is missing or does not fit, or a workdir that cannot be used."""


class NonFiniteError(ReportedError, RuntimeError):
    """The loss or the gradient became infinite or NaN."""


class ConvergenceError(ReportedError, RuntimeError):
    """An ODE that took more steps than it may, or samples that left the finite numbers."""


class HostsError(ReportedError, RuntimeError):
    """Processes that do not find each other or do not agree."""


class InterruptedRunError(ReportedError, RuntimeError):
    """A signal ended a run in order. `code` is the exit code that a shell or scheduler expects,
    128 + the signal's number: 143 for SIGTERM, 130 for SIGINT."""

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.code = 128 + signum


def one_line(text: object, most: int = 150) -> str:
    """A name out of a foreign file, or what another library says of the file, for a message: its
    printable letters on one line, cut after so many."""
    start = str(text)[: 10 * most]
    line = " ".join("".join(c if c.isprintable() else " " for c in start).split())
    return line if len(line) <= most else f"{line[:most]} ..."


def reason(error: BaseException) -> str:
    """What another library says of a file, for a message."""
    said = one_line(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


@contextlib.contextmanager
def foreign(start: str, kind: type[Exception] = DataError) -> Iterator[None]:
    """Around another library's reader of files. Whatever a damaged file makes it raise becomes a
    `kind` whose message is `START (what the library says)`.

    Errors of this package pass, and so does an end of the program. Readers written in Rust panic
    with what is no Exception.
    """
    try:
        yield
    except (ReportedError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise kind(f"{start} ({reason(error)})") from error
