"""Questions that readers put to themselves: judged the same in the notebook and on the page."""

import json
import re

import ipywidgets as widgets
import pytest
from browser import ROOT, pages, visit

from fedlab_helpers.selfcheck import Choice, Number, SelfCheck, number, sealed, unsealed

STATIC = ROOT / "book" / "_static"
CAPITAL = Choice(
    r"Which letter is $\alpha$?",
    {
        "the first": r"It begins the word `alphabet`, as $\alpha$ does.",
        "the last": "That would be omega.",
        "neither": "Count again from the left.",
    },
    correct="the first",
)
SHARE = Number(
    "Which share of 8 is 3?",
    0.375,
    why="Divide $3/8$.",
    tolerance=0.005,
    slips={2.67: "You divided the other way round."},
)
COUNT = Number("How many numbers are sent?", 72300, why="Thirty times 2410.", unit="numbers")
PERCENT = Number("How many percent?", 12.5, why="One eighth.", tolerance=0.1, unit="%")
EVERY = [CAPITAL, SHARE, COUNT, PERCENT]


def bundle(*questions):
    return SelfCheck(*questions)._repr_mimebundle_()[0]


# --- asking and judging ---------------------------------------------------------------------------


def test_a_choice_is_right_or_wrong_and_each_answer_has_its_explanation():
    assert CAPITAL.verdict("the first") == (True, CAPITAL.answers["the first"])
    assert CAPITAL.verdict("the last") == (False, "That would be omega.")


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (0.375, (True, "The answer is 0.375. Divide $3/8$.")),
        (0.38, (True, "The answer is 0.375. Divide $3/8$.")),
        (0.381, (False, "That is too large.")),
        (0.3699, (False, "That is too small.")),
        (2.67, (False, "You divided the other way round.")),
    ],
)
def test_a_number_is_judged_within_its_tolerance(given, verdict):
    assert SHARE.verdict(given) == verdict


@pytest.mark.parametrize(
    ("question", "shown"),
    [(COUNT, "72,300 numbers"), (SHARE, "0.375"), (PERCENT, "12.5 %")],
)
def test_an_answer_is_shown_to_as_many_digits_as_mean_something(question, shown):
    assert question.shown == shown


READ = [
    ("72300", 72300),
    ("72,300", 72300),
    ("72 300", 72300),
    ("1,234,567.5", 1234567.5),
    ("0.375", 0.375),
    (".375", 0.375),
    ("0,375", 0.375),
    ("0,1234", 0.1234),
    ("\u22120.5", -0.5),
    ("+3", 3),
    ("1e-3", 0.001),
    ("37.5 %", 0.375),
    ("3.", 3),
]
UNCLEAR = ["", "abc", "1.2.3", "1,2,3", "3/8", "nan", "inf", "1e", "--3"]


@pytest.mark.parametrize(("text", "value"), READ)
def test_numbers_are_read_as_people_write_them(text, value):
    assert number(text) == pytest.approx(value)


@pytest.mark.parametrize("text", UNCLEAR)
def test_what_is_no_number_is_said_to_be_none(text):
    with pytest.raises(ValueError, match="Write a number"):
        number(text)


def test_a_percent_sign_after_a_percentage_changes_nothing():
    assert number("12.5 %", unit="%") == 12.5


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Choice("?", {"one": "why"}, "one"), "two answers or more"),
        (lambda: Choice("?", {"one": "why", "two": "why"}, "three"), "`correct` among them"),
        (lambda: Choice("?", {"one": "why", "two": " "}, "one"), "an explanation for each"),
        (lambda: Number("?", float("nan"), "why"), "a finite answer"),
        (lambda: Number("?", 1.0, "why", tolerance=-1), "tolerance of 0 or more"),
        (lambda: Number("?", 1.0, ""), "an explanation of the answer"),
        (lambda: Number("?", 1.0, "why", 0.1, slips={1.05: "no"}), "slips that are wrong"),
        (lambda: SelfCheck(), "expected questions"),
        (lambda: SelfCheck(COUNT, COUNT), "all different"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()


# --- what is stored -------------------------------------------------------------------------------


def test_a_sealed_solution_is_opened_by_its_key():
    for question in EVERY:
        assert unsealed(sealed(question.solution, question.key), question.key) == question.solution


def test_neither_answers_nor_explanations_can_be_read_in_what_is_stored():
    stored = json.dumps(bundle(*EVERY), ensure_ascii=False)
    for secret in ["omega", "alphabet", "other way", "3/8", "0.375", "72300", "72,300", "12.5"]:
        assert secret not in stored


def test_questions_and_answers_to_choose_from_can():
    stored = bundle(*EVERY)
    for words in ["the first", "the last", "Which share of 8 is 3?", "numbers"]:
        assert words in stored["text/html"]
    assert stored["text/plain"].splitlines()[1] == "2. Which share of 8 is 3?"


def test_the_same_questions_are_the_same_page_whatever_the_number():
    other = Number(COUNT.question, 72301, why="Thirty times 2410.", unit="numbers")
    assert bundle(*EVERY)["text/html"] == bundle(*EVERY)["text/html"]
    assert other.key == COUNT.key
    assert other.solution != COUNT.solution
    ids = re.findall(r' id="([^"]+)"', bundle(*EVERY)["text/html"])
    assert len(set(ids)) == len(EVERY)


def test_the_page_holds_no_script():
    assert "<script" not in bundle(*EVERY)["text/html"]


# --- in the notebook ------------------------------------------------------------------------------


def faces(question):
    """What a reader touches: the entry, the buttons by name, and where the verdict appears."""
    (box,) = SelfCheck(question).children
    _, line, buttons, said = box.children
    entry = line.children[0] if isinstance(line, widgets.HBox) else line
    return entry, {b.description: b for b in buttons.children}, said


def test_a_choice_is_judged_in_the_notebook():
    entry, buttons, said = faces(CAPITAL)
    assert isinstance(entry, widgets.RadioButtons)
    buttons["Check"].click()
    assert said.value == "Pick an answer first."
    entry.value = "the last"
    buttons["Check"].click()
    assert said.value == "\u2717 No. That would be omega."
    entry.value = "the first"
    buttons["Check"].click()
    assert said.value == r"✓ Right. It begins the word <code>alphabet</code>, as $\alpha$ does."


def test_a_number_is_judged_in_the_notebook():
    entry, buttons, said = faces(COUNT)
    entry.value = "many"
    assert said.value == "Write a number, such as 0.85 or 1,200."
    entry.value = "2410"  # on the Enter key
    assert said.value == "\u2717 No. That is too small."
    entry.value = "72,300"
    buttons["Check"].click()
    assert said.value == "\u2713 Right. The answer is 72,300 numbers. Thirty times 2410."
    entry.value = "1"
    buttons["Show the answer"].click()
    assert said.value == "The answer is 72,300 numbers. Thirty times 2410."


# --- on the page ----------------------------------------------------------------------------------


def begins(words):
    """An explanation up to its first formula or piece of code, as a browser would show it."""
    plain = re.split(r"\\\(|<code>", words)[0].strip()
    return plain.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def said(form):
    verdict = form.locator(".fl-verdict")
    return verdict.get_attribute("data-right"), " ".join(verdict.text_content().split())


def drive_choice(page, form, solution):
    """Every answer, by mouse and by keyboard, brings its own explanation."""
    radios, labels = form.locator("[type=radio]"), form.locator("label")
    assert radios.count() == len(solution["why"])
    for i, why in enumerate(solution["why"]):
        right = i == solution["right"]
        word = "\u2713 Right." if right else "\u2717 No."
        for by_mouse in (True, False):
            form.evaluate("f => { f.reset(); f.querySelector('.fl-verdict').textContent = ''; }")
            if by_mouse:
                labels.nth(i).click()
                form.locator("[type=submit]").click()
            else:
                radios.first.focus()
                page.keyboard.press("Space")
                for _ in range(i):
                    page.keyboard.press("ArrowDown")
                page.keyboard.press("Enter")
            flag, text = said(form)
            assert flag == str(right).lower()
            assert text.startswith(f"{word} {begins(why)}".strip()), text


def drive_number(page, form, solution):
    """The right number, a wrong one on either side, every slip, and the answer for the asking."""
    answer, far = solution["answer"], 2 * solution["tolerance"] + 1 + abs(solution["answer"])
    slips = [value for value, _ in solution["slips"]]
    below = next(v for v in (answer - far, answer - 1.5 * far) if v not in slips)
    above = next(v for v in (answer + far, answer + 1.5 * far) if v not in slips)
    cases = [
        (answer, "true", f"\u2713 Right. {begins(solution['why'])}"),
        (below, "false", "\u2717 No. That is too small."),
        (above, "false", "\u2717 No. That is too large."),
        *((value, "false", f"\u2717 No. {begins(why)}") for value, why in solution["slips"]),
    ]
    box, check = form.locator("[type=text]"), form.locator("[type=submit]")
    for value, flag, words in cases:
        for by_mouse in (True, False):
            box.fill("")
            box.focus()
            page.keyboard.type(f"{value:.12g}")
            check.click() if by_mouse else page.keyboard.press("Enter")
            found = said(form)
            assert found[0] == flag
            assert found[1].startswith(words), found
    box.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert said(form)[1].startswith(begins(solution["why"]))


def drive(opened):
    """All questions of a page -> how many there are."""
    forms = opened.page.locator(".fl-selfcheck form").all()
    for form in forms:
        assert form.locator("[role=status]").count() == 1
        solution = unsealed(form.get_attribute("data-sealed"), form.get_attribute("id"))
        (drive_choice if "right" in solution else drive_number)(opened.page, form, solution)
    assert opened.complaints == []
    assert opened.requests == []
    return len(forms)


@pytest.fixture(scope="module")
def sheet(tmp_path_factory):
    """A page with the questions of this file, the book's script and its style sheets."""
    folder = tmp_path_factory.mktemp("selfcheck")
    files = "".join(
        f'<link rel="stylesheet" href="{(STATIC / name).as_uri()}">'
        for name in ("fedlab.css", "selfcheck.css")
    )
    script = f'<script src="{(STATIC / "selfcheck.js").as_uri()}"></script>'
    for name, loaded in [("alive", files + script), ("still", files)]:
        html = f'<!doctype html><html lang="en"><meta charset="utf-8">{loaded}'
        (folder / f"{name}.html").write_text(html + bundle(*EVERY)["text/html"], "utf-8")
    return folder


def test_every_kind_of_question_works_by_mouse_and_by_keyboard(sheet, chromium):
    with visit(chromium, (sheet / "alive.html").as_uri()) as opened:
        assert drive(opened) == len(EVERY)
        assert not opened.page.locator(".fl-still").is_visible()


def test_the_driver_notices_a_wrong_verdict(sheet, chromium):
    with visit(chromium, (sheet / "alive.html").as_uri()) as opened:
        form = opened.page.locator(f"#{CAPITAL.key}")
        with pytest.raises(AssertionError):
            drive_choice(opened.page, form, {**CAPITAL.solution, "right": 1})
        form = opened.page.locator(f"#{COUNT.key}")
        with pytest.raises(AssertionError):
            drive_number(opened.page, form, {**COUNT.solution, "answer": 72301})


def judged(question, text):
    """What the page should say to this text: the flag, and words of the verdict."""
    try:
        right, words = question.verdict(number(text, question.unit))
    except ValueError as unclear:
        return "", str(unclear)
    return str(right).lower(), begins(words.replace("$", r"\("))


def test_the_page_reads_numbers_as_the_notebook_does(sheet, chromium):
    with visit(chromium, (sheet / "alive.html").as_uri()) as opened:
        for question in (SHARE, PERCENT):
            form = opened.page.locator(f"#{question.key}")
            for text in [*(t for t, _ in READ), *UNCLEAR, "12,5", "12.5 %", "0.125"]:
                form.locator("[type=text]").fill(text)
                form.locator("[type=submit]").click()
                flag, words = judged(question, text)
                assert said(form)[0] == flag, text
                assert words in said(form)[1], text


def test_without_an_answer_nothing_is_judged(sheet, chromium):
    with visit(chromium, (sheet / "alive.html").as_uri()) as opened:
        form = opened.page.locator(f"#{CAPITAL.key}")
        form.locator("[type=submit]").click()
        assert said(form) == ("", "Pick an answer first.")


def test_without_a_script_and_on_paper_the_questions_are_there_and_no_dead_button(sheet, chromium):
    with visit(chromium, (sheet / "still.html").as_uri()) as opened:
        assert opened.page.locator("legend").first.is_visible()
        assert opened.page.locator(".fl-still").is_visible()
        assert opened.page.locator("button:visible").count() == 0
    with visit(chromium, (sheet / "alive.html").as_uri()) as opened:
        opened.page.emulate_media(media="print")
        assert opened.page.locator("legend").first.is_visible()
        assert opened.page.locator(".fl-still").is_visible()
        assert opened.page.locator("button:visible").count() == 0


@pytest.mark.parametrize("name", pages())
def test_every_question_of_the_book_works(book, chromium, name):
    address = book / f"{name}.html"
    asked = address.read_text(encoding="utf-8").count('data-sealed="')
    with visit(chromium, address.as_uri()) as opened:
        assert drive(opened) == asked
