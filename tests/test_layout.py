"""Imports go one way, and README says what is true."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Each line sees only those above it; within a line modules may see each other.
LAYERS = [
    ["types", "atomic", "config", "npz_file", "torch_file"],
    ["conditions", "fourier", "ema", "hosts"],
    ["sde"],
    ["exact", "nets", "data", "metrics"],
    ["parametrization", "time_law"],
    ["weighting", "grids", "solvers", "guidance", "thresholding"],
    ["model", "sampling", "parallel", "likelihood", "inverse"],
    [
        "objectives",
        "published",
        "figures",
        "logbook",
        "tracing",
        "progress",
        "partial",
        "compare",
        "learned",
        "diagnostics",
        "edits",
        "watermark",
    ],
    ["state", "checkpoint", "snapshots", "mesh"],
    ["survival", "findings"],
    ["experiment"],
    ["records"],
    ["samplers"],
    ["train", "evaluate", "reference", "importing"],
    ["analyse", "report", "edit", "detect"],
]
# These know nothing of SDEs, nor of each other, and see only so much:
BLIND = {
    "nets": {"types"},
    "data": {"types", "npz_file"},
    "metrics": {"types", "atomic", "npz_file", "torch_file"},
}
RANK = {name: i for i, layer in enumerate(LAYERS) for name in layer}


def imports(path):
    """The parts of score_sde that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "score_sde":
            names = [f"score_sde.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            if name.startswith("score_sde."):
                yield name.split(".")[1]


def test_every_module_has_a_layer():
    parts = {p.stem for p in (ROOT / "score_sde").iterdir() if not p.name.startswith("__")}
    assert parts == set(RANK)


def test_imports_go_one_way():
    wrong = []
    for path in (ROOT / "score_sde").rglob("*.py"):
        own = path.relative_to(ROOT / "score_sde").parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for other in imports(path):
            allowed = BLIND.get(own, {n for n in RANK if RANK[n] <= RANK[own]})
            if other not in allowed | {own}:
                wrong.append(f"{path.relative_to(ROOT)} imports {other}")
    assert not wrong


def test_only_the_door_reads_configs():
    readers = {
        path.stem
        for path in (ROOT / "score_sde").rglob("*.py")
        if "ml_collections" in path.read_text()
    }
    assert readers == {
        *("experiment", "records", "samplers"),
        *("train", "evaluate", "reference", "report", "analyse", "importing", "edit", "detect"),
    }


def test_no_type_is_asked_for_its_class():
    for path in (ROOT / "score_sde").rglob("*.py"):
        assert not re.search(r"isinstance\((self\.)?sde", path.read_text()), path


@pytest.mark.parametrize("name", ["README.md", "REPRODUCE.md"])
def test_commands_and_files_of_the_documents_exist(name):
    readme = (ROOT / name).read_text()
    assert not re.search(r"@[A-Z_]+@", readme)  # a figure that nobody measured
    for path in re.findall(r"(?:configs|score_sde|tests|docs)/[\w/]+\.\w+", readme):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", readme):
        assert (ROOT / path).exists(), path


def test_rows_to_reproduce_are_those_of_the_configs():
    text = (ROOT / "REPRODUCE.md").read_text()
    rows = re.findall(r"^\|.*\| `(configs/\S+)` \|(.*)\|$", text, re.MULTILINE)
    assert len(rows) == 7
    for path, figures in rows:
        docstring = ast.get_docstring(ast.parse((ROOT / path).read_text()))
        size, steps, *published = (cell.strip() for cell in figures.split("|")[:6])
        assert f"{size} parameters" in docstring
        assert {"1.3M": "1,300,000", "950k": "950,000"}[steps] + " steps" in docstring
        line = re.search(r"Published.*?:(.*)", docstring)[1]  # FID, IS; by the ODE FID, bits/dim
        assert [figure for figure in published if figure] == re.findall(r"\d\.\d\d", line)


def test_code_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
