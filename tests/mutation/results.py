"""Results of mutants: kept, explained, counted."""

import hashlib
import json
import tomllib
from pathlib import Path

from tests.mutation import warm
from tests.mutation.mutants import Mutant

EXPLAINED = Path(__file__).parent / "equivalent.toml"


def key(mutant: Mutant) -> str:
    """Says which mutant it is of which text of its module."""
    digest = hashlib.sha256((warm.ROOT / mutant.module).read_bytes()).hexdigest()[:16]
    return f"{digest} {mutant.module} {mutant.operator} {mutant.occurrence}"


def load(path: Path) -> dict[str, dict]:
    """The rows by their key; a later row of a key counts."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["key"]: row for row in rows}


def append(path: Path, row: dict) -> None:
    """Adds a row to the file."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def reasons() -> dict[tuple[str, str, str], str]:
    """{(module, before, after): why no test can see the mutant}, of `equivalent.toml`."""
    entries = tomllib.loads(EXPLAINED.read_text())["equivalent"]
    return {
        (f"score_sde/{entry['module']}", entry["before"], entry["after"]): entry["reason"]
        for entry in entries
    }


def explained(rows: list[dict]) -> list[dict]:
    """The rows, where a survivor that has a reason is "equivalent"."""
    known = reasons()
    found = []
    for row in rows:
        reason = known.get((row["module"], row["before"], row["after"]))
        if reason and row["outcome"] != "killed":
            row = row | {"outcome": "equivalent", "reason": reason}
        found.append(row)
    return found


def table(rows: list[dict]) -> str:
    """A markdown table by folder. The share is of the mutants that are not equivalent."""
    lines = [
        "| folder | mutants | killed | survived | equivalent | share killed |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    folders = sorted({row["module"].split("/")[1] for row in rows})
    for folder in [*folders, ""]:
        own = [row for row in rows if row["module"].startswith(f"score_sde/{folder}")]
        killed = sum(row["outcome"] == "killed" for row in own)
        equivalent = sum(row["outcome"] == "equivalent" for row in own)
        counted = len(own) - equivalent
        name = f"`{folder}/`" if folder else "all"
        share = f"{killed / counted:.1%}" if counted else ""
        cells = [name, len(own), killed, counted - killed, equivalent, share]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def listed(rows: list[dict], outcome: str) -> str:
    """The mutants of an outcome, a line each, with the reason of an equivalent one."""
    lines = []
    for row in sorted(rows, key=lambda row: (row["module"], row["line"])):
        if row["outcome"] == outcome:
            reason = f": {row['reason']}" if "reason" in row else ""
            place = row["module"].removeprefix("score_sde/")
            lines.append(f"- `{place}`, `{row['before']}` → `{row['after']}`{reason}")
    return "\n".join(lines)
