"""Which tests run which lines of the mutated folders, and how long each takes.

Most lines of numerical code run while JAX traces it, so that coverage sees them.
"""

import functools
import hashlib
import json
import re
import time
from collections import defaultdict
from pathlib import Path

from tests.mutation import warm

ROOT = warm.ROOT
FILE_SECONDS = 900.0  # of the processor, for the tests of one file
AT_IMPORT = ""  # the context of what no test runs


class _Recorder:
    """A plugin of pytest: each test is a context of coverage, and has a duration."""

    def __init__(self, coverage):
        self.coverage = coverage
        self.seconds = {}
        self.failed = []

    def pytest_runtest_logstart(self, nodeid, location):
        self.start = time.process_time()
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logfinish(self, nodeid, location):
        self.coverage.switch_context(AT_IMPORT)
        self.seconds[nodeid] = time.process_time() - self.start

    def pytest_runtest_logreport(self, report):
        if report.failed or report.skipped:
            self.failed.append(report.nodeid)


def _measure(tests: str, folders: list[str], digest: str, path: Path) -> int:
    import coverage
    import pytest

    sources = [str(ROOT / "score_sde" / folder) for folder in folders]
    measured = coverage.Coverage(data_file=None, source=sources, config_file=False)
    recorder = _Recorder(measured)
    measured.start()
    pytest.main([*warm.QUIET, tests], plugins=[recorder])
    measured.stop()
    data = measured.get_data()
    lines = {}
    for file in data.measured_files():
        contexts = data.contexts_by_lineno(file)
        lines[str(Path(file).relative_to(ROOT))] = {
            line: sorted({*tests} - {AT_IMPORT, *recorder.failed})
            for line, tests in contexts.items()
        }
    found = {"digest": digest, "seconds": recorder.seconds, "lines": lines}
    path.write_text(json.dumps(found | {"failed": recorder.failed}))
    return 0


def _digest(paths) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(paths))).hexdigest()


def update(tests: list[str], folders: list[str], out: Path) -> None:
    """Measures the files of tests whose text, or a mutated folder's text, has changed; one JSON
    file in `out` for each: the processor seconds of its tests, and the tests of each line."""
    sources = [p for folder in folders for p in (ROOT / "score_sde" / folder).rglob("*.py")]
    common = _digest(sources)
    out.mkdir(parents=True, exist_ok=True)
    for test in tests:
        path = out / (test.replace("/", ".") + ".json")
        digest = common + _digest([ROOT / test])
        if path.exists() and json.loads(path.read_text())["digest"] == digest:
            continue
        path.unlink(missing_ok=True)
        work = lambda: _measure(test, folders, digest, path)  # noqa: B023, E731
        status, seconds = warm.fork(work, FILE_SECONDS, path.with_suffix(".log"))
        failed = json.loads(path.read_text())["failed"] if path.exists() else f"status {status}"
        unused = f"; no use of {failed}" if failed else ""
        print(f"{test}: {seconds:.0f} s of the processor{unused}", flush=True)


@functools.cache
def _words(file: str) -> set[str]:
    return {*re.findall(r"\w+", (ROOT / file).read_text())}


class Map:
    """The tests of lines. A line that runs at import (a default, a field) has those of the function
    or class that it stands in, or else of its module, and the others of the same files and of files
    that name it: a test that reads a default, or that is refused an argument, may run no line of
    the module. (The test that happened to import the module is one of many.)"""

    def __init__(self, out: Path):
        self.seconds: dict[str, float] = {}
        self.lines: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for path in sorted(out.glob("*.json")):
            found = json.loads(path.read_text())
            passed = found["seconds"].keys() - {*found["failed"]}
            self.seconds |= {test: found["seconds"][test] for test in passed}
            for module, lines in found["lines"].items():
                for line, tests in lines.items():
                    self.lines[module][int(line)] |= set(tests)
        self.files = {test.partition("::")[0] for test in self.seconds}

    def tests(
        self, module: str, line: int, scopes: list[tuple[int, int]], names: list[str] | None
    ) -> list[str]:
        """The tests of a line, the fastest first, those of the module's own folder before others.

        scopes: first and last lines of the functions and classes around it, the innermost first.
        names: of these functions and classes, if it runs when the module is imported; else None.
        """
        body = self.lines[module]
        found = set() if names is not None else body.get(line, set())
        naming = {file for file in self.files if names and names[0] in _words(file)}
        for first, last in [*scopes, (1, 10**6)] if not found else []:
            around = set().union(*(body[i] for i in body if first <= i <= last))
            files = {test.partition("::")[0] for test in around} | naming
            found = {test for test in self.seconds if test.partition("::")[0] in files}
            if found:
                break
        own = f"/{module.split('/')[1]}/"
        return sorted(found, key=lambda test: (own not in test, self.seconds[test]))
