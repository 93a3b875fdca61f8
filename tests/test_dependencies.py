"""The page of dependencies names what setup.cfg installs, package by package."""

import ast
import configparser
import importlib.util
import json
import re
import subprocess
import sys

import pytest

from tests.documents import ROOT

TEXT = (ROOT / "docs/results/dependencies.md").read_text()


def wanted():
    """The packages of setup.cfg without versions, by extra; "" for those that are always there."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lists = {"": config["options"]["install_requires"], **config["options.extras_require"]}
    lines = {extra: (line.strip() for line in text.split("\n")) for extra, text in lists.items()}
    return {
        (extra, re.split(r"[<>=~! ]", line)[0])
        for extra, each in lines.items()
        for line in each
        if line
    }


def told():
    """Those of the page, each with what its row says."""
    always, extras, tests = re.split(r"^## .*$", TEXT, flags=re.MULTILINE)[1:]
    rows = {}
    for part, extra in ((always, ""), (extras, None), (tests, "test")):
        for line in re.findall(r"^\| ?(.*?) ?\|$", part, re.MULTILINE)[2:]:
            first, *cells = (cell.strip() for cell in line.split("|"))
            name = (first, cells.pop(0)) if extra is None else (extra, first)
            assert name not in rows, name
            rows[name] = cells
    return rows


def test_the_page_names_exactly_the_packages():
    rows = told()
    assert set(rows) == wanted()
    for name, cells in rows.items():
        assert len(cells) == 3, name
        assert all(cells), name


def test_every_import_of_the_package_is_one_of_them():
    """Also those of other packages' packages that it imports itself."""
    known = {re.sub(r"\[.*", "", package).lower().replace("-", "_") for _, package in wanted()}
    ours = {
        *("pil", "sklearn", "absl", "orbax", "c2pa", "av", "tensorflow"),  # of known packages
        *("ml_dtypes", "typing_extensions", "msgpack", "cycler"),  # of jax, flax and matplotlib
        *("starlette", "uvicorn", "fastapi"),  # of gradio
        "score_sde",
        "configs",
    }
    for path in (ROOT / "score_sde").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names:
                assert name.lower() in known | ours, f"{path} imports {name}"


@pytest.mark.parametrize(
    ("printed", "line", "code"),
    [
        ("", "nothing is compared, PyPI's database cannot be reached (no answer)", 0),
        (
            {"dependencies": [{"name": "a", "skip_reason": "it is not there"}]},
            "nothing is compared, PyPI's database cannot be reached (no answer)",
            0,
        ),
        (
            {"dependencies": [{"name": "a", "version": "1", "vulns": []}]},
            "1 of 1 packages are compared, 0 vulnerabilities",
            0,
        ),
        (
            {
                "dependencies": [
                    {"name": "a", "version": "1", "vulns": [{"id": "X", "fix_versions": ["2"]}]}
                ]
            },
            "a 1: X, mended in 2",
            1,
        ),
    ],
)
def test_an_audit_is_a_line(monkeypatch, capsys, printed, line, code):
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci/audit.py")
    audit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(audit)
    ended = subprocess.CompletedProcess([], code, json.dumps(printed) if printed else "", "")
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: ended)
    assert audit.main("python") == code
    assert capsys.readouterr().out.startswith(line)
