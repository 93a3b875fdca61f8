"""Long names in code may be broken after their punctuation, so that they fit columns and phones."""

import re

CODE = re.compile(r'(?<=<span class="pre">)[^<]+')
PLACES = re.compile(r"(?<=[/.=(,])(?=[\w&])")
LONG = 18  # letters of a name that may also be broken at an underscore


def broken(match):
    """The text of one piece of code with places to break it."""
    parts = PLACES.split(match[0])
    return "<wbr>".join(re.sub("_(?=.)", "_<wbr>", p) if len(p) > LONG else p for p in parts)


def page(app, name, template, context, doctree):
    """html-page-context: a page that is about to be written."""
    if "body" in context:
        context["body"] = CODE.sub(broken, context["body"])


def setup(app):
    """An extension of Sphinx."""
    app.connect("html-page-context", page)
    return {"parallel_read_safe": True}
