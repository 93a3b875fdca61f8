"""Whether tests see a mutant, and whether the tests that see one pass without it."""

import ast
import signal
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from tests.mutation import coverage_map, mutants, warm


class Around(NamedTuple):
    """The functions and classes around a line, the innermost first.

    spans: their first and last lines. names: theirs, if the line runs when the module is imported;
    None if it is in the body of a function.
    """

    spans: list[tuple[int, int]]
    names: list[str] | None


def around(module: str, line: int) -> Around:
    """That of a line of a file of this path."""
    found, in_body = [], False
    for node in ast.walk(ast.parse((warm.ROOT / module).read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            last = node.end_lineno or 0
            if first <= line <= last:
                found.append((last - first, (first, last), node.name))
                is_function = isinstance(node, ast.FunctionDef)
                in_body = in_body or (is_function and line >= node.body[0].lineno)
    found.sort()
    return Around([span for _, span, _ in found], None if in_body else [n for *_, n in found])


def within(budget: float, tests: list[str], seconds: dict[str, float]) -> list[str]:
    """The first of the tests, which take no longer than `budget` together; at least one."""
    chosen, spent = [], 0.0
    for test in tests:
        spent += seconds[test]
        if chosen and spent > budget:
            break
        chosen.append(test)
    return chosen


def judge(mutant: mutants.Mutant, lines: coverage_map.Map, budget: float, out: Path) -> dict:
    """The mutant with its `outcome`: "killed", "survived", "untested" if no test runs its line, or
    "unclear" if pytest itself failed or the clock ran out; the test that killed it (`by`); how many
    tests ran, `of` how many that run the line, and their processor seconds."""
    place = mutant.module, mutant.line
    every = lines.tests(*place, *around(*place))
    found = {"outcome": "untested", "by": "", "tests": 0, "of": 0, "seconds": 0.0}
    if not every:
        return mutant._asdict() | found
    tests = within(budget, every, lines.seconds)
    source = mutants.code(mutant.module, mutant.operator, mutant.occurrence)
    assert source is not None  # a sample has only what compiles
    first = out / "first_failure.txt"
    first.write_text("")

    def work():
        warm.replace(mutant.module, source)
        return warm.run(tests, first)

    expected = sum(lines.seconds[test] for test in tests)
    status, seconds = warm.fork(work, 20 + 2 * expected, out / "last.log")
    by = first.read_text()
    if status < 0 and status != -signal.SIGALRM:  # it computed for too long, or crashed
        by = f"signal {-status}"
    outcome = "survived" if status == 0 else "killed" if by else "unclear"
    found = {"outcome": outcome, "by": by, "tests": len(tests), "of": len(every)}
    return mutant._asdict() | found | {"seconds": round(seconds, 1)}


def fail_without(tests: list[str], lines: coverage_map.Map, out: Path) -> set[str]:
    """Those of the tests that fail without a mutant, run in forks as `judge` runs them."""
    files = defaultdict(list)
    for test in tests:
        files[test.partition("::")[0]].append(test)
    failed = set()
    for own in files.values():
        left = list(own)
        while left:
            first = out / "control.txt"
            first.write_text("")
            seconds = 60 + 3 * sum(lines.seconds.get(test, 0.0) for test in left)
            work = lambda left=left, first=first: warm.run(left, first)  # noqa: E731
            status, _ = warm.fork(work, seconds, out / "control.log")
            if status == 0:
                break
            wrong = first.read_text()
            failed |= {wrong} if wrong in left else set(left)
            left = left[left.index(wrong) + 1 :] if wrong in left else []
    return failed
