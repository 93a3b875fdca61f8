"""Docstrings of score_sde as reStructuredText, which they are not written in.

A paragraph may be `name: what it is`, an indented block is an equation or code, `Raises:` begins a
list, and a single backtick marks code. Everything else is plain text: stars, bars and underscores
stand for themselves.
"""

import re

from docutils import nodes

CODE = re.compile(r"(``.+?``|`[^`]+`)", re.DOTALL)
FIELD = re.compile(r"^([a-z]\w*(?:, \w+)*): (.*)", re.DOTALL)
ERROR = re.compile(r"(?:^|(?<=\. ))([A-Z]\w+): ")


def inline(text):
    """A paragraph with its code marked and its other characters escaped."""
    parts = CODE.split(" ".join(text.split()))
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = f"``{part.strip('`')}``"
        else:
            parts[i] = re.sub(r"([\\*|_`])", r"\\\1", part)
    for i in range(1, len(parts), 2):  # markup must not touch a letter
        if re.search(r"\w$", parts[i - 1]):
            parts[i - 1] += "\\ "
        if re.match(r"\w", parts[i + 1]):
            parts[i + 1] = "\\ " + parts[i + 1]
    return "".join(parts)


def block(lines):
    """One block of lines without an empty one, as lines of reStructuredText."""
    if lines[0].startswith("    "):
        return ["::", "", *("    " + line for line in lines), ""]
    if lines[0].strip() in ("Raises:", "Returns:"):
        rest = " ".join(line.strip() for line in lines[1:])
        parts = ERROR.split(rest)
        errors = zip(parts[1::2], parts[2::2], strict=True)
        listed = [f"- ``{name}``: {inline(text)}" for name, text in errors]
        return [f"**{lines[0].strip()}** {inline(parts[0])}", "", *listed, ""]
    if FIELD.match(lines[0]):
        found = []
        for line in lines:
            if not line.startswith(" ") and FIELD.match(line):
                found.append(line)
            elif found:
                found[-1] += " " + line.strip()
        out = []
        for one in found:
            name, text = FIELD.match(one).groups()
            out.append(f"- ``{name}``: {inline(text)}")
        return [*out, ""]
    if re.match(r"^[-*] |^\d\. ", lines[0]):
        out = []
        for line in lines:
            if re.match(r"^[-*] ", line):
                out.append([line[2:]])
            elif out:
                out[-1].append(line)
        return [*("- " + inline(" ".join(one)) for one in out), ""]
    return [inline(" ".join(lines)), ""]


def shorten(app, what, name, obj, options, signature, result):
    """autodoc-process-signature: types by their short names; aliases as `conf.py` has them."""

    def short(text):
        text = text and re.sub(r"\b(?:jaxlib\._jax|jax|numpy)\.(Array|ndarray)\b", r"\1", text)
        text = text and re.sub(r"TypeAliasForwardRef\('([\w.]+)'\)", r"\1", text)
        return text and text.replace("score_sde.types.PyTree", "PyTree")  # which has no entry

    return short(signature), short(result)


def convert(app, what, name, obj, options, lines):
    """autodoc-process-docstring: replaces the lines."""
    blocks, out = [[]], []
    for line in lines:
        if line.strip():
            indented = line.startswith("    ")
            # an equation may follow its sentence without an empty line, but not a field's text
            if (
                blocks[-1]
                and blocks[-1][0].startswith("    ") != indented
                and not FIELD.match(blocks[-1][0])
            ):
                blocks.append([])
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    for one in blocks:
        if one:
            out += block(one)
    lines[:] = out


def skip(app, what, name, obj, skipping, options):
    """autodoc-skip-member: the docstring of a class describes its fields already."""
    if type(obj).__name__ in ("_tuplegetter", "member_descriptor"):
        return True
    inherited = ("parent", "scope", "setup", "init", "step") if what == "class" else ()
    if name in inherited and not getattr(obj, "__doc__", None):
        return True
    return None


def drop_aliases(app, doctree):
    """doctree-read: autodoc's "alias of" a type is its longest form; the docstring says it."""
    for paragraph in list(doctree.findall(nodes.paragraph)):
        if paragraph.astext().startswith("alias of "):
            paragraph.parent.remove(paragraph)


def setup(app):
    """An extension of Sphinx."""
    app.connect("autodoc-process-docstring", convert)
    app.connect("autodoc-process-signature", shorten)
    app.connect("doctree-read", drop_aliases)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}
