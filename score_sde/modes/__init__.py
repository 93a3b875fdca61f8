"""The modes of the command line, a module each.

Mode NAME is the function NAME of the module NAME, `(config, workdir, **flags) -> result` (of
`import`, a word of Python, both are called `import_`). The module's first line says what it does. A
flag of the command line is given to a mode that has a parameter of its name. A module with
`ONE_PROCESS = True` does not run in several processes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType


def descriptions() -> dict[str, str]:
    """What each mode does, by its name, without an import of the mode."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        with path.open(encoding="utf-8") as file:
            first = file.readline().strip().strip('"')
        name, _, text = first.removeprefix("Mode ").partition(": ")
        found[name] = text.removesuffix(".")
    return found


def module(name: str) -> ModuleType:
    """The module of a mode."""
    return importlib.import_module(f"{__name__}.{_python(name)}")


def function(name: str) -> Callable:
    """The function of a mode."""
    return getattr(module(name), _python(name))


def _python(name: str) -> str:
    return "import_" if name == "import" else name
