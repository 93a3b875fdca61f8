"""Errors with a message of one line: mistakes of a user, and accidents of a run."""

from __future__ import annotations


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
