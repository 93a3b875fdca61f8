"""The mutants of a folder: cosmic-ray's operators at the places where a test can see them.

A site is a place in a module and one family of operators: the arithmetic of one `+`, the two
neighbours of one number. A sample draws sites, each as likely as any other, and one mutant of each.
"""

import ast
import difflib
import functools
import random
import re
from pathlib import Path
from typing import NamedTuple

from cosmic_ray import mutating
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.operators.provider import OperatorProvider

ROOT = Path(__file__).parent.parent.parent
ARITHMETIC = {"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"}
BITS = {"BitOr", "BitAnd", "BitXor"}
ORDER = {"Eq", "NotEq", "Lt", "LtE", "Gt", "GtE"}
IDENTITY = {"Is", "IsNot"}
# parso's names of the nodes that an operator can change; the others are passed by for speed
NODES = {
    *("operator", "keyword", "number", "comparison", "factor", "not_test", "and_test", "or_test"),
    *("test", "if_stmt", "while_stmt", "for_stmt", "try_stmt", "except_clause"),
    *("decorator", "decorated", "break_stmt", "continue_stmt"),
}
# without these decorators a function is slower, or a class complains later; results are the same
SPEED = re.compile(
    r"\s*@(functools\.|abc\.)*(partial\()?(jax\.jit|lru_cache|cache\b|abstractmethod)"
)
# sizes, places and widths of what is drawn are looked at, and not tested
DRAWING = {"figures.py", "plots.py", "report_page.py"}
DRAWS = re.compile(r"\b(plots|axes|above|below)\.")
# these check what holds anyway: lengths of sequences, and that nobody writes to a field
CHECKS = re.compile(r"\b(strict|frozen)=$")


class Mutant(NamedTuple):
    """One change of one line; `before` and `after` are the line without its margin."""

    module: str
    line: int
    operator: str
    occurrence: int
    before: str
    after: str


@functools.cache
def operators() -> dict[str, type]:
    """Of cosmic-ray, but those that make what Python refuses to run, which every test kills, such
    as `x << y` and `~x` of real numbers, or the same, as `n is 0` for `n == 0` and `+x` for `-x`;
    and those that need arguments."""
    provider = OperatorProvider()

    def fits(name: str) -> bool:
        _, _, pair = name.partition("Operator_")
        if "BinaryOperator" in name or "ComparisonOperator" in name:
            return any(set(pair.split("_")) <= kind for kind in (ARITHMETIC, BITS, ORDER, IDENTITY))
        if "UnaryOperator" in name:
            return pair.startswith("Delete")
        return name not in ("VariableReplacer", "VariableInserter")

    return {name: provider[name] for name in provider if fits(name)}


def family(operator: str) -> str:
    """`ReplaceBinaryOperator` of `ReplaceBinaryOperator_Add_Sub`."""
    return operator.partition("_")[0]


def _hidden(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The spans of type hints and of what is raised: hints do nothing, and a message is text."""
    spans = []
    for node in ast.walk(ast.parse(source)):
        hidden = [getattr(node, name, None) for name in ("annotation", "returns")]
        if isinstance(node, ast.Raise):
            hidden.append(node)
        spans += [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in hidden if n]
    return spans


def sites(module: str) -> dict[tuple, list[tuple[str, int]]]:
    """{(module, line, column, family): [(operator, occurrence)]} of a module."""
    source = (ROOT / module).read_text()
    lines = source.split("\n")
    hidden = _hidden(source)
    nodes = [node for node in ast_nodes(get_ast(source)) if node.type in NODES]
    drawing = Path(module).name in DRAWING
    found = {}
    for name, operator in operators().items():
        made = operator()
        positions = (pair for node in nodes for pair in made.mutation_positions(node))
        for occurrence, (start, _) in enumerate(positions):
            line = lines[start[0] - 1]
            if (
                any(first <= start < last for first, last in hidden)
                or (name == "RemoveDecorator" and SPEED.match(line))
                or (name == "NumberReplacer" and (drawing or DRAWS.search(line)))
                or (name.startswith("ReplaceTrue") and CHECKS.search(line[: start[1]]))
            ):
                continue
            found.setdefault((module, *start, family(name)), []).append((name, occurrence))
    return found


def code(module: str, operator: str, occurrence: int) -> str | None:
    """The mutated source; None if it is no Python."""
    source = (ROOT / module).read_text()
    mutated = mutating.mutate_code(source, operators()[operator](), occurrence)
    assert mutated is not None  # the occurrence is one of `sites`
    try:
        compile(mutated, module, "exec")
    except SyntaxError:
        return None
    return mutated


def difference(module: str, mutated: str) -> tuple[int, str, str]:
    """The lines that are changed: the number of the first, what they were, and what they are."""
    before, after = (
        [line.strip() for line in text.split("\n")]
        for text in ((ROOT / module).read_text(), mutated)
    )
    for kind, i, j, k, n in difflib.SequenceMatcher(None, before, after, False).get_opcodes():
        if kind != "equal":
            while i + 1 < j and not before[i]:
                i += 1
            return i + 1, _words(before[i:j]), _words(after[k:n])
    return 0, "", ""


def _words(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


def modules(folders: list[str]) -> list[str]:
    """The modules of folders of score_sde, without `__init__`."""
    paths = [
        path for folder in folders for path in sorted((ROOT / "score_sde" / folder).rglob("*.py"))
    ]
    return [str(path.relative_to(ROOT)) for path in paths if path.name != "__init__.py"]


def sample(folders: list[str], n: int, seed: int) -> list[Mutant]:
    """n mutants of n sites, drawn by the seed."""
    draw = random.Random(seed)
    every = {key: ways for module in modules(folders) for key, ways in sites(module).items()}
    order = draw.sample(sorted(every), len(every))
    chosen = []
    for key in order:
        module, _, _, _ = key
        operator, occurrence = draw.choice(every[key])
        mutated = code(module, operator, occurrence)
        if mutated is None:
            continue
        line, before, after = difference(module, mutated)
        if before != after:
            chosen.append(Mutant(module, line, operator, occurrence, before, after))
        if len(chosen) == n:
            break
    return chosen
