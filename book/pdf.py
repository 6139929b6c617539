"""The book as one PDF: all rendered pages as one document, printed by Chromium.

    python book/pdf.py            writes _build/fedlab.pdf; `make pdf` renders the book first

Links between pages become links within the document, headings its outline. Controls show the
positions that the page's strip of pictures shows.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

from bs4 import BeautifulSoup

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from browser import HTML, chromium, pages, program, visit  # noqa: E402

DOCUMENT = HTML / "book" / "whole.html"
PDF = ROOT / "_build" / "fedlab.pdf"
STYLE = """
article { break-before: page; }
article:first-of-type { break-before: auto; }
.bd-article-container { display: block; max-width: none; margin: 0; padding: 0; }
"""
FOOTER = """<div style="width: 100%; text-align: center; font-size: 8pt">
<span class="pageNumber"></span></div>"""


def read(name: str) -> Any:
    """A rendered page."""
    return BeautifulSoup(
        (HTML / f"{name}.html").read_text(encoding="utf-8"), "html.parser"
    )


def whole(names: list[str]) -> str:
    """All pages as one HTML document, to be put beside them."""
    soups = {name: read(name) for name in names}
    places = rename(soups)
    articles = [article(name, soup, places) for name, soup in soups.items()]
    first = soups[names[0]]
    scripts = {
        str(s): s
        for soup in soups.values()
        for s in soup.head.select("script[src]")
    }
    sheets = {
        str(s): s
        for soup in soups.values()
        for s in soup.head.select("link[rel=stylesheet]")
    }
    math = next((s for soup in soups.values() for s in soup.select("script")
                 if "MathJax" in s.get_text() and not s.get("src")), "")  # fmt: skip
    return (
        f'<!DOCTYPE html><html lang="en" data-theme="light" data-mode="light"><head>'
        f'<meta charset="utf-8"><title>{first.title.get_text()}</title>'
        f"{''.join(sheets)}{math}{''.join(scripts)}<style>{STYLE}</style></head>"
        f"<body>{''.join(map(str, articles))}</body></html>"
    )


def rename(soups: dict[str, Any]) -> dict[tuple[str, str], str]:
    """Give ids that several pages use a name of their own -> (page, old id): new id."""
    places: dict[tuple[str, str], str] = {}
    taken: set[str] = set()
    for name, soup in soups.items():
        top = f"page-{Path(name).name}"
        soup.article["id"] = top
        places[name, ""] = top
        for element in soup.article.select("[id]"):
            old = str(element["id"])
            if old in taken and not element.find_parent("svg"):
                element["id"] = f"{top}--{old}"
            taken.add(str(element["id"]))
            places[name, old] = str(element["id"])
    return places


def article(
    name: str, soup: Any, places: dict[tuple[str, str], str]
) -> Any:
    """A page's text, its links to other pages turned into links within the document."""
    for mark in soup.article.select(".headerlink"):
        mark.decompose()
    here = (HTML / name).parent
    for link in soup.article.select("a[href]"):
        address, place = urldefrag(unquote(str(link["href"])))
        if ":" in address:
            continue
        file = (
            (here / address).resolve() if address else HTML / f"{name}.html"
        )
        page = file.relative_to(HTML.resolve()).with_suffix("").as_posix()
        new = places.get((page, place), places.get((page, "")))
        if new is not None:
            link["href"] = f"{DOCUMENT.as_uri()}#{new}"
    for element in soup.article.select("[aria-labelledby], [for]"):
        for attribute in ("aria-labelledby", "for"):
            if element.get(attribute):
                old = str(element[attribute])
                element[attribute] = places.get((name, old), old)
    return soup.article


def to_paper(document: Path, pdf: Path) -> None:
    """Print an HTML file."""
    with chromium() as browser, visit(browser, document.as_uri()) as opened:
        opened.page.emulate_media(media="print")
        opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        opened.page.pdf(
            path=pdf, format="A4", print_background=True, outline=True, tagged=True,
            display_header_footer=True, header_template="<span></span>", footer_template=FOOTER,
            margin={"top": "20mm", "bottom": "20mm", "left": "18mm", "right": "18mm"},
        )  # fmt: skip


def main() -> int:
    """Write the PDF."""
    if program() is None:
        print(
            "expected Chromium, which prints the pages, but there is none; install `chromium`"
        )
        return 1
    DOCUMENT.write_text(whole(pages()), encoding="utf-8")
    try:
        to_paper(DOCUMENT, PDF)
    finally:
        DOCUMENT.unlink()
    print(f"The book is one document. Open this file: {PDF}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
