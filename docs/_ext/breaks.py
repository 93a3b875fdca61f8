"""Long names in code may be broken after their punctuation, so that they fit columns and phones.
Numbers and flags are not broken at their hyphens."""

import re

CODE = re.compile(r'(?<=<span class="pre">)[^<]+')
PLACES = re.compile(r"(?<=[/=(,])(?=[\w&])|(?<=\.)(?=[^\W\d])")  # but not within a number
CELL = re.compile(r"(?<=<p>)[\d.]+e-\d+(?=</p>)")  # a number alone in a cell of a table
LONG = 18  # letters of a name that may also be broken at an underscore


def broken(match):
    """The text of one piece of code with places to break it."""
    parts = PLACES.split(match[0])
    parts = [re.sub("_(?=.)", "_<wbr>", p) if len(p) > LONG else p for p in parts]
    if parts[0].startswith("-"):  # else a browser breaks --flag after its hyphens
        parts[0] = f'<span class="together">{parts[0]}</span>'
    return "<wbr>".join(parts)


def page(app, name, template, context, doctree):
    """html-page-context: a page that is about to be written."""
    if "body" in context:
        body = CODE.sub(broken, context["body"])
        context["body"] = CELL.sub(r'<span class="together">\g<0></span>', body)


def setup(app):
    """An extension of Sphinx."""
    app.connect("html-page-context", page)
    return {"parallel_read_safe": True}
