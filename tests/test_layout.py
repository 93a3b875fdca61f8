"""Imports go one way, and the documents say what is true."""

import ast
import builtins
import graphlib
import re
from pathlib import Path

import pytest

from tests.documents import PAGES, files_shown

ROOT = Path(__file__).parent.parent
# Each line sees only those above it; the packages of one line do not see each other.
FLOORS = [
    ["errors", "types"],
    ["config"],
    ["processes", "conditioning", "nets", "codecs", "runtime"],
    ["data", "media", "models", "solvers", "published"],
    ["inverse", "sampling", "training"],
    ["editing", "evaluation"],
    ["experiment"],
    ["app"],
    ["modes"],
    ["command_line"],
]
# These know nothing of processes, and see only so much:
BLIND = {
    "nets": {"types", "errors"},
    "codecs": {"types", "errors"},
    "conditioning": {"types", "errors"},
    "data": {"types", "errors", "runtime"},
    "media": {"types", "errors", "runtime"},
    "evaluation.metrics": {"types", "errors", "runtime", "published"},
}
RANK = {name: i for i, floor in enumerate(FLOORS) for name in floor}
MODULES = {
    ".".join(path.relative_to(ROOT / "score_sde").with_suffix("").parts).removesuffix(
        ".__init__"
    ): path
    for path in sorted((ROOT / "score_sde").rglob("*.py"))
}


def imports(path):
    """The modules of score_sde that a file imports, anywhere in it, without "score_sde."."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [n if n.removeprefix("score_sde.") in MODULES else node.module for n in full]
        else:
            continue
        yield from (n.removeprefix("score_sde.") for n in names if n.startswith("score_sde."))


def test_every_package_has_a_floor():
    files = (ROOT / "score_sde").iterdir()
    parts = {p.stem for p in files if p.suffix != ".typed" and not p.name.startswith("__")}
    assert parts == set(RANK)


def test_imports_go_one_way():
    wrong = []
    for name, path in MODULES.items():
        own = name.split(".")[0]
        for other in imports(path):
            part = other.split(".")[0]
            if own not in RANK or part == own:
                continue
            blind = next((BLIND[b] for b in BLIND if f"{name}.".startswith(f"{b}.")), RANK)
            if part not in blind or RANK[part] >= RANK[own]:
                wrong.append(f"{name} imports {other}")
    assert not wrong


def test_no_module_imports_itself_by_way_of_others():
    graph = {name: {n for n in imports(path) if n != name} for name, path in MODULES.items()}
    # a package imports its modules, to show their names
    graph = {
        name: {n for n in seen if not n.startswith(f"{name}.")} for name, seen in graph.items()
    }
    graphlib.TopologicalSorter(graph).prepare()


def test_only_the_door_reads_configs():
    readers = {name for name, path in MODULES.items() if "ml_collections" in path.read_text()}
    assert {name.split(".")[0] for name in readers} == {
        *("experiment", "app", "modes", "command_line")
    }


def test_no_type_is_asked_for_its_class():
    for path in (ROOT / "score_sde").rglob("*.py"):
        assert not re.search(r"isinstance\((self\.)?sde", path.read_text()), path


@pytest.mark.parametrize("name", PAGES)
def test_commands_and_files_of_the_documents_exist(name):
    text = (ROOT / name).read_text()
    assert not re.search(r"@[A-Z_]+@", text)  # a figure that nobody measured
    shown = {"configs/mine.py", *files_shown()}  # a reader's own
    for path in re.findall(r"\b(?:configs|score_sde|tests|docs|benchmarks)/[\w/]+\.\w+", text):
        assert path in shown or "_build" in path or (ROOT / path).exists(), path
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert ((ROOT / name).parent / path).exists(), path


def test_the_site_has_every_page():
    """README is short; every page but the first is in its tree of pages, and has an example, a
    picture, a table or links."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
    tree = (ROOT / "docs/index.md").read_text()
    for name in PAGES:
        page = name.removeprefix("docs/").removesuffix(".md")
        if name.startswith("docs/") and page != "index":
            assert f"\n{page}\n" in tree, name
            assert re.search(r"```|\| ?---|\]\(|\n: ", (ROOT / name).read_text()), name


def test_rows_to_reproduce_are_those_of_the_configs():
    text = (ROOT / "docs/results/reproduce.md").read_text()
    rows = re.findall(r"^\|.*\| `(configs/\S+)` \|(.*)\|$", text, re.MULTILINE)
    assert len(rows) == 7
    for path, figures in rows:
        docstring = ast.get_docstring(ast.parse((ROOT / path).read_text()))
        size, steps, *published = (cell.strip() for cell in figures.split("|")[:6])
        assert f"{size} parameters" in docstring
        assert {"1.3M": "1,300,000", "950k": "950,000"}[steps] + " steps" in docstring
        line = re.search(r"Published.*?:(.*)", docstring)[1]  # FID, IS; by the ODE FID, bits/dim
        assert [figure for figure in published if figure] == re.findall(r"\d\.\d\d", line)


def test_every_name_is_defined():
    """Each name of a module is bound somewhere in it, or built in. Neither ruff nor pyright looks:
    both take the shapes of jaxtyping for names."""
    unknown = []
    for module, path in MODULES.items():
        nodes = [*ast.walk(ast.parse(path.read_text()))]
        bound = {*dir(builtins), "__file__"}
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                bound.add(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                bound |= {(a.asname or a.name).partition(".")[0] for a in node.names}
            elif isinstance(node, ast.arg):
                bound.add(node.arg)
            elif isinstance(node, ast.ExceptHandler | ast.MatchAs) and node.name:
                bound.add(node.name)
            elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                bound.add(node.id)
        unknown += [
            f"{module}: {n.id}" for n in nodes if isinstance(n, ast.Name) and n.id not in bound
        ]
    assert not unknown


def test_modules_and_functions_are_short():
    """A module fits in a few screens, a function in one; the defaults of a config are one list."""
    long = []
    for name, path in MODULES.items():
        text = path.read_text()
        if len(text.splitlines()) > 350:
            long.append(name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 65:
                long.append(f"{name}.{node.name}")
    assert long == ["experiment.base.get_config"]
