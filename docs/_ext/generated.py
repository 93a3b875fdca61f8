"""Pages that are made from the code at each build: the API, the config's fields, the command line,
and copies of the notebooks."""

import ast
import inspect
import io
import pkgutil
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import score_sde
from score_sde import modes

ROOT = Path(__file__).parent.parent.parent
PAGES = ROOT / "docs/reference/generated"
MODULES = [
    module.name
    for module in pkgutil.walk_packages(score_sde.__path__, "score_sde.")
    if not module.name.endswith("__main__")
]


def write(path, text):
    """Leaves a file alone that is the same, so that Sphinx does not read it again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def title(text, line="="):
    """A heading."""
    return f"{text}\n{line * len(text)}\n\n"


def api():
    """A page for each package, with its modules in it. A name appears where it is defined."""
    tops = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in MODULES))
    for top in tops:
        text = title(top) + f".. automodule:: {top}\n\n"
        for name in MODULES:
            if name.startswith(f"{top}."):
                text += title(name, "-") + f".. automodule:: {name}\n\n"
        write(PAGES / f"{top}.rst", text)
    text = title("API") + (
        "Every public name of the package, with its docstring. A page is a folder of "
        "``score_sde/``; the folders are in the order of the alphabet.\n\n"
    )
    text += ".. autofunction:: score_sde.load\n\n"
    text += ".. toctree::\n   :maxdepth: 1\n\n" + "".join(f"   {name}\n" for name in tops)
    write(PAGES / "api.rst", text)


def comments(source):
    """By line the comment on it, without the mark."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


def said(lines, notes, number, both=True):
    """The comment at the end of a line, and those of the lines above that have nothing else; if not
    `both`, the latter only where there is none of the former."""
    if number in notes and not both:
        return notes[number]
    above, i = [], number - 1
    while i in notes and lines[i - 1].lstrip().startswith("#"):
        above.insert(0, notes[i])
        i -= 1
    own = notes.get(number, "")
    return " ".join([*above, own]).strip()


def rows(part, keys, lines, notes, config):
    """Lines of a table: field, default, what it is."""
    for key, number in keys:
        value = config[part][key] if part else config[key]
        what = said(lines, notes, number, bool(part)).replace("|", "\\|")
        name = f"{part}.{key}" if part else key
        yield f"| `{name}` | `{value!r}` | {what} |"


def net_fields(cls):
    """By name what the docstrings of a network and of the classes under it say of its fields."""
    found = {}
    for one in reversed(cls.__mro__):
        part = re.search(r"^Fields.*:\n((?:    .*\n?)+)", inspect.getdoc(one) or "", re.MULTILINE)
        entries = re.split(r"^    (?=\w)", part[1] if part else "", flags=re.MULTILINE)[1:]
        for entry in entries:
            names, _, what = " ".join(entry.split()).partition(": ")
            found |= dict.fromkeys(names.split(", "), what.replace("|", "\\|"))
    return found


def config_fields():
    """Tables of the fields, read from the source of the base config."""
    from score_sde.experiment import base

    source = Path(base.__file__).read_text()
    lines, notes, config = source.splitlines(), comments(source), base.get_config()
    single, parts = [], []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
            continue
        name, value = node.targets[0].attr, node.value
        if name == "net":  # its fields are those of a class
            continue
        if isinstance(value, ast.Call) and value.args and isinstance(value.args[0], ast.Dict):
            keys = [(k.value, k.lineno) for k in value.args[0].keys]
            parts.append((name, said(lines, notes, node.lineno), keys))
        else:
            single.append((name, node.lineno))
    table = "| field | default | what it is |\n|---|---|---|\n"
    text = "# Config fields\n\n" + (
        "Every field of a config with its default, read from `score_sde/experiment/base.py`. Set "
        "one in a config file, or on the command line as `--config.FIELD=VALUE`. A config in "
        "`configs/` changes some of these defaults.\n\n"
    )
    text += table + "\n".join(rows("", single, lines, notes, config)) + "\n\n"
    text += "## net\n\n"
    text += "The fields are those of the network that `net.name` names.\n\n"
    about = {"name": "the network, in `score_sde/nets`", **net_fields(base.NCSNpp)}
    shown = [f"| `net.{k}` | `{v!r}` | {about[k]} |" for k, v in config.net.items()]
    text += table + "\n".join(shown) + "\n\n"
    for name, about, keys in parts:
        text += f"## {name}\n\n{about}\n\n{table}"
        text += "\n".join(rows(name, keys, lines, notes, config)) + "\n\n"
    write(PAGES / "config.md", text)


def command_line():
    """What --help prints."""
    shown = subprocess.run(
        [sys.executable, ROOT / "main.py", "--help"], capture_output=True, text=True, check=True
    )
    text = "# Modes and flags\n\n"
    text += f"`python main.py --help` prints this page.\n\n```text\n{shown.stdout}```\n\n"
    for name, about in modes.descriptions().items():
        module = modes.module(name).__name__
        text += f"## {name}\n\n{about}. The code is {{py:mod}}`{module}`.\n\n"
    write(PAGES / "command_line.md", text)


def notebooks():
    """Copies, since Sphinx reads only its own folder. Jupyter's anchors become those of Sphinx."""

    def anchor(match):
        return f"](#{re.sub(r'[^a-z0-9-]', '', match[1].lower())})"

    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = re.sub(r"\]\(#([^)]+)\)", anchor, path.read_text())
        write(ROOT / "docs/notebooks/generated" / path.name, text)


def make(app):
    """All of them."""
    api()
    config_fields()
    command_line()
    notebooks()


def setup(app):
    """An extension of Sphinx."""
    app.connect("builder-inited", make)
    return {"parallel_read_safe": True}
