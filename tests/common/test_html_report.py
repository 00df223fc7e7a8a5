import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from common.artifacts import Table
from common.html_report import html_report

EVIL = '<script>alert("x")</script> & $a$ "quoted" {{ 1 }}'


class Page(HTMLParser):
    """Text by element, attributes of all elements, and cells of tables."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.cells = [], {}, []
        self._open = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if self._open and data.strip():
            self.text.setdefault(self._open[-1], []).append(data)
            if self._open[-1] in ("td", "th"):
                self.cells.append((data, self.elements[-1][1].get("class")))

    def attributes(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.arange(36, dtype=np.uint8).reshape(4, 9)).save(path)
    return path


def _page(path):
    return Page(path.read_text(encoding="utf-8"))


def test_everything_that_was_given_is_on_the_page_and_nothing_is_markup(tmp_path, picture):
    table = Table(EVIL, ("model", EVIL), ((EVIL, 1.0), ("b", None)))
    page = _page(html_report(tmp_path / "new" / "r.html", EVIL, [EVIL], [table], [(picture, EVIL)]))
    for tag in ("title", "h1", "h2", "p", "figcaption"):
        assert "".join(page.text[tag]) == EVIL, tag
    assert (EVIL, None) in page.cells
    [image] = page.attributes("img")
    assert image["alt"] == EVIL
    assert not page.attributes("script")


def test_a_figure_is_the_file_itself_with_its_size(tmp_path, picture):
    page = _page(html_report(tmp_path / "r.html", "t", figures=[(picture, "a"), (picture, "b")]))
    for image in page.attributes("img"):
        kind, data = image["src"].split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data) == picture.read_bytes()
        assert (image["width"], image["height"]) == ("9", "4")
    assert page.text["figcaption"] == ["a", "b"]


def test_nothing_is_loaded_from_anywhere(tmp_path, picture):
    text = html_report(tmp_path / "r.html", "t", figures=[(picture, "a")]).read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import|<link|<script|<iframe", text)
    [policy] = [a for a in Page(text).attributes("meta") if "http-equiv" in a]
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_columns_of_numbers_are_aligned(tmp_path):
    rows = (("a", "12.5", 0.123456, None, None), ("b - a", "+1.0", 12, -1e-5, None))
    table = Table("t", ("name", "percent", "mixed", "small", "nothing"), rows)
    cells = _page(html_report(tmp_path / "r.html", "t", tables=[table])).cells
    kinds = [None, "number", "number", "number", None]
    texts = [*table.columns, "a", "12.5", "0.1235", "–", "–", "b - a", "+1.0", "12", "-1e-05", "–"]
    assert cells == list(zip(texts, 3 * kinds, strict=True))


def test_a_table_without_rows_keeps_its_columns(tmp_path):
    page = _page(html_report(tmp_path / "r.html", "t", tables=[Table("none", ("a", "b"), ())]))
    assert page.cells == [("a", None), ("b", None)]


def test_what_is_no_png_is_refused_and_the_old_report_stays(tmp_path, picture):
    path = html_report(tmp_path / "r.html", "first")
    other = tmp_path / "photo.jpg"
    Image.new("RGB", (8, 8)).save(other)
    with pytest.raises(ValueError, match=r"photo\.jpg: a report shows PNG files"):
        html_report(path, "second", figures=[(picture, "a"), (other, "b")])
    assert _page(path).text["h1"] == ["first"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["photo.jpg", "picture.png", "r.html"]
