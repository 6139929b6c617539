"""Questions that readers put to themselves: live in Jupyter, and without a kernel on the page.

A chapter has one cell of them, with the tag `remove-input`, so that the page does not show what the
cell says, and the metadata `"jupyter": {"source_hidden": true}`, so that the notebook does not:

>>> SelfCheck(
...     Choice(
...         "What leaves a client in federated averaging?",
...         {
...             "its data": "They are what federated learning keeps where they are.",
...             "its trained model": "The server averages these.",
...         },
...         correct="its trained model",
...     ),
...     Number(
...         "How many numbers does a client send in 30 rounds?",
...         30 * model.d,
...         why="One for each parameter and round.",
...     ),
... )

Questions and explanations may hold formulas between dollar signs, and code between backticks; the
answers of a choice are plain text. On the page and in the stored notebook, solutions are sealed:
nobody reads them by accident, and anybody can who wants to.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from itertools import cycle
from typing import Any

import ipywidgets as widgets


@dataclass(frozen=True)
class Choice:
    """A question with one right answer among several.

    answers: each with the explanation that a reader gets who picks it. correct: one of them.
    Raises ValueError for fewer than two answers, one that nobody explains, or another `correct`.
    """

    question: str
    answers: Mapping[str, str]
    correct: str

    def __post_init__(self) -> None:
        if len(self.answers) < 2 or self.correct not in self.answers:
            raise ValueError(
                f"expected two answers or more, `correct` among them, got {list(self.answers)} and "
                f"correct={self.correct!r}"
            )
        if not all(why.strip() for why in self.answers.values()):
            raise ValueError(f"expected an explanation for each of {list(self.answers)}")

    @property
    def key(self) -> str:
        """What makes this question's ids: the same for the same words."""
        return _key(self.question, *self.answers)

    @property
    def solution(self) -> dict[str, Any]:
        """What the page needs to judge an answer, by its position."""
        return {
            "right": list(self.answers).index(self.correct),
            "why": [_html(why) for why in self.answers.values()],
        }

    def verdict(self, given: str) -> tuple[bool, str]:
        """Whether an answer is right, and what there is to say about it."""
        return given == self.correct, self.answers[given]


@dataclass(frozen=True)
class Number:
    """A question whose answer is a number, best one that the chapter has just computed.

    tolerance: how far off an answer may be and still count. why: how one gets there. unit: what
    stands behind the box. slips: what readers may come up with instead, and where that goes wrong.
    Raises ValueError for an answer that is no finite number, a negative tolerance, no explanation,
    or a slip that would count as right.
    """

    question: str
    answer: float
    why: str
    tolerance: float = 0.0
    unit: str = ""
    slips: Mapping[float, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.answer) and self.tolerance >= 0):
            raise ValueError(
                "expected a finite answer and a tolerance of 0 or more, got "
                f"{self.answer} and {self.tolerance}"
            )
        if not self.why.strip():
            raise ValueError(f"expected an explanation of the answer {self.answer}; write why=...")
        if any(_near(slip, self.answer, self.tolerance) for slip in self.slips):
            raise ValueError(
                f"expected slips that are wrong, got {list(self.slips)} for the answer "
                f"{self.answer} within {self.tolerance}"
            )

    @property
    def key(self) -> str:
        """What makes this question's ids: the same for the same words, whatever the number."""
        return _key(self.question, self.unit)

    @property
    def solution(self) -> dict[str, Any]:
        """What the page needs to judge an answer."""
        return {
            "answer": float(f"{float(self.answer):.10g}"),
            "tolerance": float(self.tolerance),
            "why": _html(self.verdict(self.answer)[1]),
            "slips": [[float(slip), _html(why)] for slip, why in self.slips.items()],
        }

    @property
    def shown(self) -> str:
        """The answer as text, to as many digits as the tolerance leaves a meaning."""
        if float(self.answer).is_integer():
            return f"{int(self.answer):,} {self.unit}".strip()
        digits = max(0, -math.floor(math.log10(self.tolerance))) if self.tolerance else 6
        return f"{self.answer:.{min(digits, 6)}f} {self.unit}".strip()

    def verdict(self, given: float) -> tuple[bool, str]:
        """Whether an answer is right, and what there is to say about it."""
        if _near(given, self.answer, self.tolerance):
            return True, f"The answer is {self.shown}. {self.why}"
        for slip, why in self.slips.items():
            if _near(given, slip, self.tolerance):
                return False, why
        return False, "That is too small." if given < self.answer else "That is too large."


Question = Choice | Number


class SelfCheck(widgets.VBox):
    """Questions, one below the other. Raises ValueError for none, or for the same one twice."""

    def __init__(self, *questions: Question):
        keys = [question.key for question in questions]
        if not keys or len(set(keys)) < len(keys):
            raise ValueError(f"expected questions, all different, got {len(keys)}: {questions}")
        self._questions = questions
        super().__init__([_live(question) for question in questions])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None, **kwargs: Any) -> Any:
        """What a notebook stores: the live questions, and the page's form."""
        live = super()._repr_mimebundle_(include=include, exclude=exclude, **kwargs)
        data, metadata = live if isinstance(live, tuple) else (live, {})
        asked = "\n".join(f"{i}. {q.question}" for i, q in enumerate(self._questions, 1))
        forms = "".join(_form(question) for question in self._questions)
        page = f'<div class="fl-selfcheck tex2jax_process">{forms}{_STILL}</div>'
        return {**(data or {}), "text/html": page, "text/plain": asked}, metadata


def number(text: str, unit: str = "") -> float:
    """What a reader means who writes 2,410 or 0,85 or 12 % or 1e-3. Raises ValueError if unclear.

    unit: of the question; if it is %, a percent sign changes nothing.
    """
    plain = re.sub(r"[\s_]", "", text).replace("\u2212", "-")
    plain, percent = plain.removesuffix("%"), plain.endswith("%")
    if re.fullmatch(r"[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?", plain):
        plain = plain.replace(",", "")
    plain = plain.replace(",", ".")
    if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", plain, re.IGNORECASE):
        raise ValueError("Write a number, such as 0.85 or 1,200.")
    return float(plain) / (100 if percent and unit != "%" else 1)


def sealed(solution: Any, key: str) -> str:
    """A solution as text that says nothing at a glance; `book/_static/selfcheck.js` opens it."""
    plain = json.dumps(solution, ensure_ascii=False).encode()
    return base64.b64encode(bytes(a ^ b for a, b in zip(plain, cycle(key.encode())))).decode()


def unsealed(text: str, key: str) -> Any:
    """The solution that was sealed with this key."""
    return json.loads(bytes(a ^ b for a, b in zip(base64.b64decode(text), cycle(key.encode()))))


def _near(given: float, answer: float, tolerance: float) -> bool:
    return abs(given - answer) <= tolerance + 1e-9 * abs(answer)


def _key(*words: str) -> str:
    return "fl-ask-" + hashlib.sha256("\n".join(words).encode()).hexdigest()[:10]


def _html(words: str, formula: str = r"\(\1\)") -> str:
    """Words with formulas and code, as HTML."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(words, quote=False))
    return re.sub(r"\$([^$]+)\$", lambda m: formula.replace(r"\1", m[1]), text)


# --- the page ------------------------------------------------------------------------------------

_STILL = (
    '<p class="fl-still">To check your answers, run this cell in the notebook of this page.</p>'
)


_SHOW = '<button type="button" hidden>Show the answer</button>'


def _form(question: Question) -> str:
    """One question as a form, which `book/_static/selfcheck.js` brings to life."""
    key, choice = question.key, isinstance(question, Choice)
    unit = "" if choice else f' data-unit="{escape(question.unit)}"'  # type: ignore[union-attr]
    return (
        f'<form id="{key}" method="dialog" autocomplete="off"{unit} '
        f'data-sealed="{sealed(question.solution, key)}">'
        f"<fieldset><legend>{_html(question.question)}</legend>"
        f"{_choices(question) if choice else _box(question)}"  # type: ignore[arg-type]
        '<button type="submit" hidden>Check</button>'
        f"{'' if choice else _SHOW}"
        '<p class="fl-verdict" role="status"></p></fieldset></form>'
    )


def _choices(question: Choice) -> str:
    return "".join(
        f'<label><input type="radio" name="{question.key}" value="{i}"> {escape(answer)}</label>'
        for i, answer in enumerate(question.answers)
    )


def _box(question: Number) -> str:
    unit = f" {_html(question.unit)}" if question.unit else ""
    return f'<label>Your answer: <input type="text" inputmode="decimal" size="9">{unit}</label>'


# --- the notebook --------------------------------------------------------------------------------


def _live(question: Question) -> widgets.VBox:
    """One question as widgets; the last of them says what the reader is to know."""
    said, check = widgets.HTMLMath(), widgets.Button(description="Check")
    buttons = [check]
    if isinstance(question, Choice):
        entry: Any = widgets.RadioButtons(
            options=list(question.answers), value=None, layout={"width": "auto"}
        )
    else:
        entry = widgets.Text(placeholder="a number", continuous_update=False)
        show = widgets.Button(description="Show the answer")
        show.on_click(lambda _: _say(said, question.verdict(question.answer)[1]))
        buttons.append(show)

    def judge(_: Any) -> None:
        given = entry.value
        try:
            if isinstance(question, Number):
                given = number(given, question.unit)
            elif given is None:
                raise ValueError("Pick an answer first.")
        except ValueError as unclear:
            return _say(said, str(unclear))
        right, why = question.verdict(given)
        return _say(said, ("\u2713 Right. " if right else "\u2717 No. ") + why)

    check.on_click(judge)
    if isinstance(question, Number):
        entry.observe(judge, "value")  # on the Enter key
    asked = widgets.HTMLMath(f"<b>{_html(question.question, _DOLLARS)}</b>")
    line = (
        entry
        if isinstance(question, Choice)
        else widgets.HBox([entry, widgets.Label(question.unit)])
    )
    rows = [asked, line, widgets.HBox(buttons), said]
    return widgets.VBox(rows, layout={"margin": "0 0 1.5em 0"})


def _say(face: widgets.HTMLMath, words: str) -> None:
    face.value = _html(words, _DOLLARS)


_DOLLARS = r"$\1$"  # how formulas are marked for Jupyter
