"""The rendered pages: nothing from the network, nothing broken, nothing out of reach for a reader.

The first part reads the HTML files. The second opens every page in Chromium with all hosts blocked;
it is skipped, by name, where there is no Chromium.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import ROOT, Visit, listed, pages, visit

PAGES = pages()
EVERY = [*PAGES, "search", "genindex"]
MEGABYTE = 1_000_000
NOT_LOADED = ("index", "search", "next", "prev", "canonical")
HASH = re.compile(r"[0-9a-f]{16,}")


# --- reading the files ---------------------------------------------------------------------------


class Document(HTMLParser):
    """What a page refers to, what can be referred to in it, and its pictures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.pictures: list[str | None] = []
        self.language = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        at = dict(attrs)
        self.ids.update(filter(None, (at.get("id"), at.get("name") if tag == "a" else None)))
        if tag == "html":
            self.language = at.get("lang") or ""
        if tag == "a" and at.get("href"):
            self.links.append(str(at["href"]))
        if at.get("src"):
            self.loaded.append(str(at["src"]))
        if tag == "link" and at.get("href") and at.get("rel") not in NOT_LOADED:
            self.loaded.append(str(at["href"]))
        if tag == "img":
            self.pictures.append(at.get("alt"))
        if tag == "svg" and at.get("role") == "img":
            self.pictures.append(at.get("aria-label") or at.get("aria-labelledby"))


@pytest.fixture(scope="module")
def documents(book: Path) -> dict[str, Document]:
    """Every page, read."""
    return {name: Document(book / f"{name}.html") for name in EVERY}


@pytest.mark.parametrize("name", EVERY)
def test_a_page_loads_nothing_from_a_host(documents: dict[str, Document], name: str) -> None:
    assert [a for a in documents[name].loaded if re.match("(https?:)?//", a)] == []


@pytest.mark.parametrize("name", EVERY)
def test_what_a_page_loads_is_there(documents: dict[str, Document], book: Path, name: str) -> None:
    folder = (book / name).parent
    files = [unquote(re.split("[?#]", a)[0]) for a in documents[name].loaded]
    local = [a for a in files if not a.startswith("data:")]
    assert local, "a page without a style sheet was not rendered by the book's theme"
    assert [a for a in local if not (folder / a).exists()] == []


@pytest.mark.parametrize("name", EVERY)
def test_every_internal_link_leads_somewhere(
    documents: dict[str, Document], book: Path, name: str
) -> None:
    folder, broken = (book / name).parent, []
    known = {(book / f"{n}.html").resolve(): document for n, document in documents.items()}
    for link in documents[name].links:
        if re.match("[a-z]+:", link):
            continue
        address, fragment = urldefrag(link)
        path = (folder / unquote(address.split("?")[0])).resolve() if address else None
        target = known.get(path) if path else documents[name]
        lost = fragment and target and unquote(fragment) not in {*target.ids, "top"}
        if lost or (path and not path.is_file()):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("name", PAGES)
def test_links_to_other_sites_are_well_formed(documents: dict[str, Document], name: str) -> None:
    outside = [a for a in documents[name].links if re.match("[a-z]+:", a)]
    form = re.compile(r"https://[a-z0-9-]+(\.[a-z0-9-]+)+(/[^\s<>\"]*)?")
    assert [a for a in outside if not form.fullmatch(a)] == []


@pytest.mark.parametrize("name", EVERY)
def test_every_picture_has_words(documents: dict[str, Document], name: str) -> None:
    pictures = documents[name].pictures
    assert [alt for alt in pictures if not (alt or "").strip() or HASH.search(alt or "")] == []


@pytest.mark.parametrize("name", EVERY)
def test_a_page_says_its_language(documents: dict[str, Document], name: str) -> None:
    assert documents[name].language == "en"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_weighs_little(documents: dict[str, Document], book: Path, name: str) -> None:
    pictures = [a for a in documents[name].loaded if "_images" in a]
    files = [book / f"{name}.html", *((book / name).parent / a for a in pictures)]
    assert sum(path.stat().st_size for path in files) < 2 * MEGABYTE


def test_the_front_page_leads_to_the_book(book: Path) -> None:
    assert "book/index.html" in (book / "index.html").read_text(encoding="utf-8")


def test_a_table_of_contents_is_read_in_its_order() -> None:
    toc = {"root": "a", "parts": [{"chapters": [{"file": "b", "sections": [{"file": "c"}]}]}]}
    assert list(listed(toc)) == ["a", "b", "c"]


# --- opening the pages ---------------------------------------------------------------------------


@pytest.fixture(scope="module", params=EVERY)
def opened(request: pytest.FixtureRequest, book: Path, chromium) -> Iterator[Visit]:
    """One page, open in the browser; the tests below share it."""
    with visit(chromium, (book / f"{request.param}.html").as_uri()) as page:
        yield page


def test_no_request_leaves_the_page(opened: Visit) -> None:
    for width in (390, 1280):
        opened.resize(width)
    opened.page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    opened.page.wait_for_timeout(200)
    assert opened.requests == []


def test_the_browser_has_no_complaints(opened: Visit) -> None:
    assert opened.complaints == []


def test_a_page_has_one_title_and_skips_no_level(opened: Visit) -> None:
    levels = opened.page.evaluate(
        """() => [...document.querySelectorAll("main :is(h1, h2, h3, h4, h5, h6)")]
            .filter(e => e.checkVisibility()).map(e => Number(e.tagName[1]))"""
    )
    assert levels.count(1) == 1
    assert [(a, b) for a, b in zip(levels, levels[1:], strict=False) if b > a + 1] == []


def test_a_page_weighs_less_before_its_controls(opened: Visit) -> None:
    weight, controls = opened.page.evaluate(
        """() => [document.documentElement, ...document.querySelectorAll(".fl-explorable")]
            .map(e => new Blob([e.outerHTML]).size).reduce(
                ([all, some], size, i) => i ? [all, some + size] : [size, 0], [0, 0])"""
    )
    assert weight - controls < 1.5 * MEGABYTE


def test_the_parts_of_a_page_have_names(opened: Visit) -> None:
    opened.resize(1280)
    parts = opened.page.evaluate(
        """() => [...document.querySelectorAll("main, nav, aside, [role=complementary]")]
            .filter(e => e.checkVisibility() && !e.closest("main nav, main aside"))
            .map(e => e.getAttribute("aria-label") || e.tagName)"""
    )
    assert parts.count("MAIN") == 1
    assert {"The book", "Main"} <= set(parts)
    assert len(parts) == len(set(parts)), f"two parts of one name: {parts}"


def test_the_tabulator_goes_through_a_page_in_its_order(opened: Visit) -> None:
    opened.resize(1280)
    positive = "[...document.querySelectorAll('[tabindex]')].filter(e => e.tabIndex > 0).length"
    assert opened.page.evaluate(positive) == 0
    for start in ("a[href='#main-content']", "main a[href]"):
        if opened.page.locator(start).count() == 0:  # a search page without results
            continue
        opened.page.locator(start).first.evaluate("e => e.focus()")
        places = []
        for _ in range(25):
            opened.page.keyboard.press("Tab")
            place, hidden = opened.page.evaluate(
                """() => {
                    const e = document.activeElement, box = e.getBoundingClientRect();
                    const style = getComputedStyle(e);
                    const ring = style.outlineStyle !== "none" || style.boxShadow !== "none";
                    const seen = ring && box.width > 0 && box.height > 0;
                    const past = e === document.body || e.matches("[href='#main-content']");
                    return past ? [-1, ""] : [[...document.querySelectorAll("*")].indexOf(e),
                                              seen ? "" : e.outerHTML.slice(0, 200)];
                }"""
            )
            assert hidden == "", "focus cannot be seen there"
            if place < 0:  # past the end, where the page begins again
                break
            places.append(place)
        assert places == sorted(set(places))


def test_formulas_are_set(opened: Visit) -> None:
    written = opened.page.locator("span.math, div.math").count()
    assert opened.page.locator("mjx-container").count() >= written
    assert opened.page.locator("mjx-merror, [data-mjx-error]").count() == 0


@pytest.mark.parametrize("width", [390, 768, 1280, 1600])
def test_nothing_sticks_out_sideways(opened: Visit, width: int) -> None:
    opened.resize(width)
    wide = opened.page.evaluate(
        """() => {
            const limit = document.documentElement.clientWidth;
            const scrolls = e => e.tagName !== "MAIN" &&
                (getComputedStyle(e).overflowX !== "visible" || scrolls(e.parentElement));
            return [...document.querySelectorAll("main *")]
                .filter(e => e.getBoundingClientRect().right > limit + 1)
                .filter(e => !e.closest(".bd-sidebar-secondary") && !scrolls(e.parentElement))
                .map(e => e.tagName + "." + e.className + ": " + e.innerText?.slice(0, 40))
                .slice(0, 5);
        }"""
    )
    scroll = opened.page.evaluate("document.documentElement.scrollWidth")
    assert scroll <= width, f"{scroll} pixels wide, because of {wide}"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_has_no_serious_finding(opened: Visit, theme: str) -> None:
    opened.resize(1280)
    opened.theme(theme)
    found = Axe().run(opened.page).response["violations"]
    serious = [
        f"{v['id']}: {v['help']} at {[n['target'] for n in v['nodes']][:4]}"
        for v in found
        if v["impact"] in ("serious", "critical")
    ]
    assert serious == []


def search(book: Path, chromium, term: str) -> list[tuple[str, str]]:
    """(title, address) of what the search page finds."""
    with visit(chromium, (book / "search.html").as_uri() + f"?q={term}") as found:
        found.page.wait_for_selector("#search-results li a")
        links = found.page.locator("#search-results li a").all()
        results = [(a.inner_text(), a.get_attribute("href")) for a in links]
        assert found.requests == []
        assert found.complaints == []
    return results


def test_search_finds_a_term_without_a_server(book: Path, chromium) -> None:
    titles = [title for title, _ in search(book, chromium, "federated")]
    assert any("federated" in title.lower() for title in titles), titles


@pytest.mark.parametrize("term", ["negative transfer", "联邦学习", "元学习", "知识蒸馏"])
def test_search_finds_the_words_of_the_glossary(book: Path, chromium, term: str) -> None:
    addresses = [address for _, address in search(book, chromium, term)]
    assert any(address.startswith("book/glossary.html") for address in addresses), addresses


def test_the_skip_link_is_first_and_leads_to_the_text(book: Path, chromium) -> None:
    with visit(chromium, (book / f"{PAGES[1]}.html").as_uri()) as start:
        start.page.keyboard.press("Tab")
        assert start.page.evaluate("document.activeElement.innerText") == "Skip to main content"
        start.page.keyboard.press("Enter")
        start.page.keyboard.press("Tab")
        assert start.page.evaluate("document.activeElement.closest('main') !== null")


def test_the_words_of_a_drawing_can_be_read_in_both_themes(opened: Visit) -> None:
    opened.resize(1280)
    for theme in ("light", "dark"):
        opened.theme(theme)
        paper, *inks = opened.page.evaluate(
            """() => [getComputedStyle(document.body).backgroundColor,
                ...new Set([...document.querySelectorAll("main svg[role=img] text")]
                    .map(e => getComputedStyle(e).fill))].map(c => c.match(/\\d+/g)?.map(Number))"""
        )
        ground = luminance(paper[:3])
        for ink in inks:
            light = luminance(ink[:3])
            contrast = (max(light, ground) + 0.05) / (min(light, ground) + 0.05)
            assert contrast >= 4.5, f"{ink} on {paper} in the {theme} theme: {contrast:.1f}"


def test_how_soon_pages_appear_is_measured(book: Path, chromium) -> None:
    first = {}
    for name in PAGES:
        with visit(chromium, (book / f"{name}.html").as_uri()) as page:
            entries = "performance.getEntriesByName('first-contentful-paint')"
            first[name] = round(page.page.evaluate(f"{entries}[0].startTime"))
    text = json.dumps({"first contentful paint, milliseconds": first}, indent=1)
    (ROOT / "_build" / "first_paint.json").write_text(text, encoding="utf-8")
    assert min(first.values()) > 0


def test_the_search_box_leads_to_the_results(book: Path, chromium) -> None:
    with visit(chromium, (book / f"{PAGES[0]}.html").as_uri()) as start:
        start.page.keyboard.press("Control+k")
        start.page.keyboard.type("federated")
        start.page.keyboard.press("Enter")
        start.page.wait_for_selector("#search-results li a")
        assert "search.html" in start.page.url
        assert start.requests == []


def test_the_colours_of_the_style_sheet_stand_out(book: Path, chromium) -> None:
    with visit(chromium, (book / f"{PAGES[0]}.html").as_uri()) as page:
        for theme in ("light", "dark"):
            page.theme(theme)
            colours = page.page.evaluate(
                """() => {
                    const style = getComputedStyle(document.documentElement);
                    const names = ["blue", "orange", "green", "red",
                                   "purple", "sky", "grey", "brown"];
                    const paper = getComputedStyle(document.body).backgroundColor.match(/\\d+/g);
                    return [paper.slice(0, 3).map(Number),
                            names.map(n => style.getPropertyValue("--fl-" + n).trim())];
                }"""
            )
            paper, inks = luminance(colours[0]), [luminance(rgb(c)) for c in colours[1]]
            contrasts = [(max(i, paper) + 0.05) / (min(i, paper) + 0.05) for i in inks]
            assert min(contrasts) >= 3, dict(zip(colours[1], contrasts, strict=True))


def rgb(colour: str) -> list[int]:
    """#1a4fa3 as three numbers."""
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def luminance(colour: list[int]) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (v / 255 for v in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_page_is_rendered(book: Path) -> None:
    assert [name for name in PAGES if not (book / f"{name}.html").is_file()] == []
    assert (ROOT / "_build" / "html" / "index.html").is_file()


# --- on paper ------------------------------------------------------------------------------------


def test_a_printed_page_is_light_and_hides_nothing_of_its_text(opened: Visit) -> None:
    page = opened.page
    opened.theme("dark")
    folded = page.locator("details:not([open])").count()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert page.locator("details:not([open])").count() == 0
    shown = page.locator(".bd-sidebar, .prev-next-footer, .bd-header-article").all()
    assert [e.get_attribute("class") for e in shown if e.is_visible()] == []
    wrapped = page.evaluate(
        """() => [...document.querySelectorAll("main pre")]
            .filter(e => getComputedStyle(e).whiteSpace !== "pre-wrap").length"""
    )
    assert wrapped == 0
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.locator("details:not([open])").count() == folded
