"""After a build: every link within the site leads to a file, and to a place in it, that exists."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The names of places in a page, and what it links to."""

    def __init__(self, text):
        super().__init__()
        self.places, self.links = {""}, set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.places |= {found[key] for key in ("id", "name") if found.get(key)}
        self.links |= {found[key] for key in ("href", "src") if found.get(key)}


def broken(folder, names):
    """Pairs of a page and a link of it that leads nowhere."""
    pages = {path: Page(path.read_text()) for path in (folder / f"{n}.html" for n in names)}
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue  # of another site
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = unquote(parts.fragment)
            if not target.exists() or (target in pages and place not in pages[target].places):
                yield path.relative_to(folder), link


def check(app, error):
    """build-finished: a link that leads nowhere is a warning, and so ends `make docs`."""
    from sphinx.util import logging  # here, so that the tests need no Sphinx

    if error is None and app.builder.name == "html":
        for page, link in broken(Path(app.outdir).resolve(), app.env.found_docs):
            logging.getLogger(__name__).warning("%s: the link %s leads nowhere", page, link)


def setup(app):
    """An extension of Sphinx."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}
