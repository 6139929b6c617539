"""Every explorable of every page in a real browser: by mouse, by keyboard, on paper, no script.

A sample that has every kind of control is put on a page of the book too, so that all of it is
tested whatever the chapters use. Skipped, by name, where there is no Chromium.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import ROOT, Visit, pages, visit
from playwright.sync_api import expect

from fedlab_helpers.explore import Explorable, Menu, Slider, Toggle

SAMPLE = "book/glossary"  # a page without explorables: the sample takes its place
SCRIPT = ROOT / "book" / "_static" / "explorable.js"
HOLDS = [
    name
    for name in pages()
    if (path := ROOT / f"{name}.ipynb").exists()
    and "fl-explorable" in path.read_text(encoding="utf-8")
]
STATE = """box => {
    const form = box.querySelector("form"), words = box.querySelector("p[aria-live]");
    const controls = [...form.querySelectorAll("input, select")];
    const many = c => c.type === "range" ? Number(c.max) + 1 : c.type ==="checkbox" ? 2 : c.length;
    const at = c => c.type === "range" ? Number(c.value)
        : c.type === "checkbox" ? Number(c.checked) : c.selectedIndex;
    return {
        counts: controls.map(many), at: controls.map(at),
        picture: box.querySelector(".fl-stage").innerHTML, said: words.innerText,
        outputs: [...form.querySelectorAll("output")].map(o => o.textContent),
        spoken: controls.map(c => c.getAttribute("aria-valuetext")).filter(Boolean),
        rows: [...box.querySelectorAll("tbody tr")]
            .map(r => [...r.cells].map(c => c.textContent)),
    };
}"""


def everything(axes: Any, rate: float, ties: bool, method: str) -> str:
    """Two panels, which differ at every position."""
    for ax, power in zip(axes, (1, 2), strict=True):
        ax.plot([0, 1, 2], [0, rate**power + ties, 1], "o-", label=method)
    return f"{method} at {rate}, {'tied' if ties else 'free'}."


@pytest.fixture(scope="module")
def sample() -> str:
    """An explorable with every kind of control."""
    explorable = Explorable(
        everything,
        panels=2,
        rate=Slider("rate", [0, 0.5, 1, 2], at=0.5, play=True),
        ties=Toggle("ties"),
        method=Menu("method", ["FedAvg", "Ditto"]),
    )
    html = str(explorable._repr_mimebundle_()[0]["text/html"])
    return f'<h1>Sample</h1><div class="cell_output"><div class="text_html">{html}</div></div>'


def place(opened: Visit, sample: str) -> None:
    """Put the sample in the place of a page's text."""
    opened.page.evaluate("html => document.querySelector('article').innerHTML = html", sample)


@pytest.fixture(scope="module", params=[*HOLDS, "sample"])
def opened(request: pytest.FixtureRequest, book: Path, chromium, sample: str) -> Iterator[Visit]:
    """One page with explorables, open in the browser; the tests below share it."""
    name = SAMPLE if request.param == "sample" else request.param
    with visit(chromium, (book / f"{name}.html").as_uri()) as page:
        if request.param == "sample":
            place(page, sample)
            page.page.add_script_tag(path=SCRIPT)
        yield page


def boxes(opened: Visit) -> list[Any]:
    """The explorables of a page."""
    found = opened.page.locator(".fl-explorable").all()
    assert found
    return found


def check(box: Any) -> dict[str, Any]:
    """What an explorable shows now; its words must be those of the position where it stands."""
    state = box.evaluate(STATE)
    frame = 0
    for many, at in zip(state["counts"], state["at"], strict=True):
        frame = frame * many + at
    *values, said = state["rows"][frame]
    ranges = box.locator("form input, form select").evaluate_all(
        "all => all.map(c => c.type === 'range')"
    )
    numbers = [v for v, is_range in zip(values, ranges, strict=True) if is_range]
    assert len(state["rows"]) == prod(state["counts"])
    assert state["said"].strip() == " ".join(said.split())
    assert state["outputs"] == state["spoken"] == numbers
    assert "<svg" in state["picture"]
    return state


def goes_through(box: Any, control: Any, press: Any, counts: int) -> None:
    """Press from position to position; each shows something of its own."""
    seen = [check(box)]
    for _ in range(counts - 1):
        press()
        seen.append(check(box))
    assert len({(s["picture"], s["said"]) for s in seen}) == counts
    assert len({s["picture"] for s in seen}) > 1


@pytest.mark.parametrize("name", HOLDS)
def test_a_page_holds_what_its_notebook_stores(book: Path, name: str) -> None:
    mark = '<div class="fl-explorable'
    stored = (ROOT / f"{name}.ipynb").read_text(encoding="utf-8").replace('\\"', '"')
    shown = (book / f"{name}.html").read_text(encoding="utf-8")
    assert shown.count(mark) == stored.count(mark) > 0


def test_every_control_moves_by_keyboard(opened: Visit) -> None:
    keys = opened.page.keyboard
    for box in boxes(opened):
        counts = check(box)["counts"]
        controls = box.locator("form input, form select").all()
        for control, many in zip(controls, counts, strict=True):
            kind = control.evaluate("c => c.type")
            control.focus()
            assert control.evaluate("c => c.matches(':focus-visible')")
            if kind == "checkbox":
                goes_through(box, control, lambda: keys.press("Space"), many)
                keys.press("Space")
                continue
            start = control.input_value()
            keys.press("Home")
            if kind == "range":
                assert control.input_value() == "0"
                goes_through(box, control, lambda: keys.press("ArrowRight"), many)
                keys.press("ArrowLeft")
                assert control.input_value() == str(many - 2)
                keys.press("End")
                assert control.input_value() == str(many - 1)
                keys.press("Home")  # back: at an end, another control may change nothing
                for _ in range(int(start)):
                    keys.press("ArrowRight")
            else:
                goes_through(box, control, lambda: keys.press("ArrowDown"), many)
            check(box)


def test_every_control_moves_by_mouse(opened: Visit) -> None:
    mouse = opened.page.mouse
    for box in boxes(opened):
        for control in box.locator("form input, form select").all():
            control.scroll_into_view_if_needed()
            before, kind = check(box), control.evaluate("c => c.type")
            if kind == "range":
                place = control.bounding_box()
                middle = place["y"] + place["height"] / 2
                mouse.click(place["x"] + 2, middle)
                first = check(box)
                assert control.input_value() == "0"
                mouse.move(place["x"] + 8, middle)
                mouse.down()
                mouse.move(place["x"] + place["width"] - 2, middle, steps=9)
                mouse.up()
                assert control.input_value() == control.get_attribute("max")
                before = first
            elif kind == "checkbox":
                control.click()
            else:
                last = control.evaluate("c => c.length - 1")
                control.select_option(index=0 if control.evaluate("c => c.selectedIndex") else last)
            after = check(box)
            assert (after["picture"], after["said"]) != (before["picture"], before["said"])


def test_play_goes_through_the_positions_and_stops(opened: Visit) -> None:
    buttons = opened.page.locator(".fl-explorable button").all()
    if not buttons:
        pytest.skip("no explorable of this page plays")
    opened.page.clock.install()
    for button in buttons:
        slider, words = button.locator("~ input"), button.locator("xpath=../../../p")
        slider.focus()
        opened.page.keyboard.press("Home")
        last = int(slider.get_attribute("max"))
        button.focus()
        opened.page.keyboard.press("Space")
        assert (slider.input_value(), button.inner_text()) == ("1", "Pause")
        assert words.get_attribute("aria-live") == "off"
        opened.page.keyboard.press("Space")
        opened.page.clock.run_for(10_000)
        assert (slider.input_value(), button.inner_text()) == ("1", "Play")
        button.click()
        opened.page.clock.run_for(1000 * last)
        assert (slider.input_value(), button.inner_text()) == (str(last), "Play")
        assert words.get_attribute("aria-live") == "polite"
        button.click()
        assert slider.input_value() == "0"  # from the end it begins again
        slider.focus()
        opened.page.keyboard.press("End")
        assert button.inner_text() == "Play"  # a hand on the slider stops it


def test_with_reduced_motion_a_button_makes_one_step(opened: Visit) -> None:
    buttons = opened.page.locator(".fl-explorable button").all()
    if not buttons:
        pytest.skip("no explorable of this page plays")
    opened.page.emulate_media(reduced_motion="reduce")
    for button in buttons:
        slider = button.locator("~ input")
        slider.focus()
        opened.page.keyboard.press("Home")
        button.click()
        opened.page.clock.run_for(10_000)
        assert (slider.input_value(), button.inner_text()) == ("1", "Next")
    opened.page.emulate_media(reduced_motion="no-preference")
    for button in buttons:
        expect(button).to_have_text("Play")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_of_an_explorable_sticks_out(opened: Visit, width: int) -> None:
    opened.resize(width)
    for box in boxes(opened):
        edge, inside = box.evaluate(
            """b => [b, ...b.querySelectorAll('*')].map(e => e.getBoundingClientRect().right)
                .reduce(([edge, most], x) => [edge ?? x, Math.max(most, x)], [null, 0])"""
        )
        assert inside <= edge <= width


def test_the_browser_has_no_complaints(opened: Visit) -> None:
    """Nor did all of the above; axe, below, complains of a page on a disk."""
    assert opened.complaints == []
    assert opened.requests == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_has_nothing_to_say(opened: Visit, theme: str) -> None:
    opened.resize(1280)
    opened.theme(theme)
    opened.page.locator(".fl-explorable details").evaluate_all(
        "all => all.forEach(d => d.open = 1)"
    )
    found = Axe().run(opened.page, context=".fl-explorable").response["violations"]
    assert [(v["id"], v["nodes"][0]["target"]) for v in found] == []
    opened.page.locator(".fl-explorable details").evaluate_all(
        "all => all.forEach(d => d.open = 0)"
    )


def test_on_paper_there_is_a_strip_and_no_control(opened: Visit) -> None:
    opened.page.emulate_media(media="print")
    for box in boxes(opened):
        assert box.locator(".fl-stage").is_visible()
        assert box.locator("p[aria-live] > b").is_visible()
        assert not box.locator("form").is_visible()
        assert all(f.is_visible() for f in box.locator("figure").all())
        assert box.locator("figure").count() >= 1
    opened.page.emulate_media(media="screen")


@pytest.mark.parametrize("name", HOLDS)
def test_without_script_there_are_pictures_and_words(book: Path, chromium, name: str) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((book / f"{name}.html").as_uri())
    for box in page.locator(".fl-explorable").all():
        assert not box.locator("form").is_visible()
        assert box.locator(".fl-stage svg").first.is_visible()
        assert box.locator("p[aria-live] > b").is_visible()
        assert box.locator("figure svg").first.is_visible()
        box.locator("summary").click()
        assert box.locator("tbody tr").count() >= 2
        assert box.locator("tbody tr").first.is_visible()
    context.close()
