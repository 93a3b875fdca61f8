"""The documents that a reader is given, by their path from the root."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "docs").rglob("*.md")
        if not {"_build", "generated"} & set(path.relative_to(ROOT).parts)
    ),
]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def files_shown():
    """The files that a page writes out for the reader to make."""
    text = "".join((ROOT / name).read_text() for name in PAGES)
    return set(re.findall(r"^```python\n# ([\w/]+\.py)\n", text, re.MULTILINE))
