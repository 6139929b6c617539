"""The book as one document, for paper."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
from browser import HTML, ROOT, pages, program
from bs4 import BeautifulSoup

sys.path.insert(0, str(ROOT / "book"))

import pdf


@pytest.fixture(scope="module")
def document(book: Path) -> BeautifulSoup:
    """All pages in one."""
    return BeautifulSoup(pdf.whole(pages()), "html.parser")


def test_every_page_is_in_it_once_and_in_order(document: BeautifulSoup) -> None:
    tops = [f"page-{Path(name).name}" for name in pages()]
    assert [article["id"] for article in document.select("article")] == tops


def test_no_two_places_have_one_name(document: BeautifulSoup) -> None:
    ids = Counter(e["id"] for e in document.select("[id]") if not e.find_parent("svg"))
    assert [name for name, count in ids.items() if count > 1] == []


def test_links_between_pages_lead_to_places_in_it(document: BeautifulSoup) -> None:
    ids = {e["id"] for e in document.select("[id]")}
    links = [a["href"] for a in document.select("article a[href]") if ":" not in a["href"][:8]]
    assert [link for link in links if link.endswith(".html")] == []
    own = [a["href"] for a in document.select(f'a[href^="{pdf.DOCUMENT.as_uri()}"]')]
    assert len(own) > len(pages())
    assert [link for link in own if link.partition("#")[2] not in ids] == []


@pytest.mark.skipif(program() is None, reason="no Chromium to print with")
def test_chromium_prints_it(book: Path, tmp_path: Path) -> None:
    some = HTML / "book" / "two-pages.html"
    some.write_text(pdf.whole(pages()[:2]), encoding="utf-8")
    try:
        pdf.to_paper(some, tmp_path / "some.pdf")
    finally:
        some.unlink()
    printed = (tmp_path / "some.pdf").read_bytes()
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") >= 2
    assert b"/Outlines" in printed
