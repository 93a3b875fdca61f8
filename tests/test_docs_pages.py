"""What a reader of the site sees: pictures that say what they are, and no page without one or an
example."""

import importlib
import re

import pytest

from tests.documents import PAGES, ROOT

IMAGE = re.compile(
    r"!\[(?P<alt>[^\]]*)\]\((?P<path>[^)]+)\)"
    r"|^```\{(?:image|figure)\} (?P<own>\S+)\n(?::alt: (?P<said>.*)\n)?(?::.*\n)*```",
    re.MULTILINE,
)
DOCS = [name for name in PAGES if name.startswith("docs/")]
LARGEST, ALL = 60_000, 2_000_000  # bytes, of a picture and of all


def pictures(name):
    """Of a page: the path, the alternative text, and the paragraph below it."""
    text = (ROOT / name).read_text()
    for match in IMAGE.finditer(text):
        path = (ROOT / name).parent / (match["path"] or match["own"])
        below = text[match.end() :].lstrip("\n").partition("\n\n")[0].strip()
        yield path.resolve(), match["alt"] or match["said"] or "", below


@pytest.mark.parametrize("name", PAGES)
def test_pictures_have_alternative_texts_and_captions(name):
    for path, alt, below in pictures(name):
        assert path.exists(), path
        assert len(alt.split()) >= 3, f"{path}: what is to be seen there?"
        caption = below.startswith("*") and not below.startswith("**") and below.endswith("*")
        assert caption, f"{path}: a line of italics below it says what it shows"


@pytest.mark.parametrize("name", DOCS)
def test_pages_have_a_picture_or_an_example(name):
    text = (ROOT / name).read_text()
    examples = re.findall(r"^```(?:\n|python|text|\{include\})", text, re.MULTILINE)
    assert examples or [*pictures(name)]


def test_pictures_are_small_and_used():
    shown = {path for name in PAGES for path, _, _ in pictures(name)}
    files = {
        path.resolve()
        for path in (ROOT / "docs").rglob("*.png")
        if "_build" not in path.parts and "generated" not in path.parts
    }
    assert files == shown
    sizes = {path: path.stat().st_size for path in files}
    assert sum(sizes.values()) < ALL
    assert not {path: size for path, size in sizes.items() if size > LARGEST}


def test_every_drawn_picture_is_shown_with_its_command():
    """Each picture of docs/figures.py is on a page, with the command that draws it."""
    source = (ROOT / "docs/figures.py").read_text()
    drawn = set(re.findall(r'image\("(\w+)"\)', source))
    said = set()
    for name in DOCS:
        for path, _, below in pictures(name):
            command = re.search(r"`python docs/figures\.py (\w+)`", " ".join(below.split()))
            if command:
                assert path.stem == command[1], name
                said.add(path.stem)
    assert said == drawn


def test_links_that_lead_nowhere_are_found(tmp_path, monkeypatch):
    """A file that is missing, and a place that a page does not have; other sites are not asked."""
    monkeypatch.syspath_prepend(ROOT / "docs/_ext")
    links = importlib.import_module("links")
    (tmp_path / "one").mkdir()
    here = (
        '<a href="b.html#there">b</a><a href="#own" id="own">c</a><a href="https://a.b/c#d">d</a>'
    )
    (tmp_path / "one/a.html").write_text(here + '<img src="../b.png"><a href="b.html#gone">e</a>')
    (tmp_path / "one/b.html").write_text('<h2 id="there">x</h2><a href="../index.html">f</a>')
    found = {(str(page), link) for page, link in links.broken(tmp_path, {"one/a", "one/b"})}
    wrong = {("one/a.html", "../b.png"), ("one/a.html", "b.html#gone")}
    assert found == wrong | {("one/b.html", "../index.html")}


def test_long_code_may_be_broken(monkeypatch):
    """After punctuation, and never within a number or a flag's hyphens: the text stays."""
    monkeypatch.syspath_prepend(ROOT / "docs/_ext")
    breaks = importlib.import_module("breaks")
    for text, places in (
        ("a/b.py", 2),
        ("x=0.05", 1),
        ("short_name", 0),
        ("a_name_of_many_words", 4),
    ):
        shown = re.sub(".+", breaks.broken, text)
        assert shown.replace("<wbr>", "") == text
        assert shown.count("<wbr>") == places, shown
    assert re.sub(".+", breaks.broken, "--config.x").startswith('<span class="together">--config.')
