"""Tests in a fork of one process that has imported the libraries, which saves their seconds.

Forks come before the first computation: threads of XLA do not survive one.
"""

import importlib
import importlib.abc
import importlib.machinery
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
QUIET = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:nbmake"]
QUIET += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # what is imported once, for all
LIBRARIES = [
    "tests.conftest",  # before jax, for the devices that it simulates
    *("jax", "jax.numpy", "jax.scipy.special", "jax.scipy.stats", "flax.linen", "optax", "diffrax"),
    *("chex", "orbax.checkpoint", "grain.python", "hypothesis", "jaxtyping", "PIL.Image"),
    *("scipy.fft", "scipy.integrate", "scipy.linalg", "scipy.optimize", "scipy.special"),
    *("scipy.stats", "sklearn.datasets", "matplotlib.figure", "ml_collections.config_flags"),
]


def start() -> None:
    """Imports what tests import, but nothing of score_sde."""
    for name in LIBRARIES:
        importlib.import_module(name)


def fork(work: Callable[[], int], seconds: float, log: Path) -> tuple[int, float]:
    """The exit status of `work` in a process of its own, and the processor seconds that it took.

    seconds: of its processor; after them it is ended, by SIGXCPU, as after 100 times as long on the
    clock, by SIGALRM. A process that a signal ended has minus the signal as its status.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid == 0:
        status = 70  # of `work` that raises
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 5))
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            status = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    limit = time.monotonic() + 100 * seconds
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > limit:
            os.kill(pid, signal.SIGALRM)
        time.sleep(0.05)
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


class _Replaced(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Imports one module from other text than its file's."""

    def __init__(self, name, path, source):
        super().__init__(name, str(path))
        self.source = source

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin=self.path)

    def get_code(self, fullname):
        return compile(self.source, self.path, "exec", dont_inherit=True)


def replace(module: str, source: str) -> None:
    """From now on the import of `module`, a path, gives `source`."""
    name = module.removesuffix(".py").replace("/", ".")
    sys.meta_path.insert(0, _Replaced(name, ROOT / module, source))


class Order:
    """A plugin of pytest: runs the tests in the order given, and keeps the name of the first that
    fails, or of what could not be collected."""

    def __init__(self, tests):
        self.place = {test: i for i, test in enumerate(tests)}
        self.failed = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        items.sort(key=lambda item: self.place.get(item.nodeid, len(self.place)))

    def pytest_runtest_logreport(self, report):
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report):
        if report.failed and not self.failed:
            self.failed = report.nodeid


def run(tests: list[str], first: Path) -> int:
    """pytest's exit status; stops at the first failure, and writes its name to the file."""
    order = Order(tests)
    status = pytest.main([*QUIET, "-x", *tests], plugins=[order])
    first.write_text(order.failed)
    return int(status)
