"""What a reader moves to change a picture: a slider, a toggle, a menu.

Each has a name, its positions on the page, and where it starts; it knows its form on the page and
its widget in Jupyter.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from html import escape
from numbers import Integral, Real
from typing import Any

import ipywidgets as widgets
import numpy as np


class Control(ABC):
    """What a reader moves: a name, its positions on the page, and where it starts."""

    def __init__(self, name: str, positions: Sequence[Any], at: Any = None):
        kind, self.name, self.positions = type(self).__name__, name, list(positions)
        if len(self.positions) < 2:
            raise ValueError(
                f"expected at least two positions to move between, got {self.positions}; "
                f"write {kind}({name!r}, [a, b, ...])"
            )
        at = self.positions[0] if at is None else at
        if at not in self.positions:
            raise ValueError(f"expected `at` to be one of {self.positions}, got {at!r}")
        self.start = self.positions.index(at)

    def words(self, value: Any) -> str:
        """A value as the reader sees it."""
        return f"{value:g}" if isinstance(value, float) else str(value)

    @abstractmethod
    def page(self, key: str) -> str:
        """The control as HTML, with this id."""

    @abstractmethod
    def live(self) -> tuple[widgets.Widget, widgets.Widget]:
        """The control as a widget, and the part of it whose `value` is the value."""


class Slider(Control):
    """Numbers on a line: the given positions on the page, any value between them in Jupyter.

    name: its label. positions: in increasing order, evenly spaced on the slider whatever their
    distance, so that [0, 0.1, 1, 10] is a good scale; integers only: the values between are
    integers too. at: where it starts, by default at the first. play: a button that goes through
    the positions one after another, for what motion explains.
    Raises ValueError for fewer than two positions, ones that do not increase, or another `at`.
    """

    def __init__(self, name: str, positions: Sequence[Any], at: Any = None, play: bool = False):
        super().__init__(name, positions, at)
        self.play, values = play, self.positions
        if not all(isinstance(v, Real) and math.isfinite(v) for v in values) or any(
            b <= a for a, b in zip(values, values[1:], strict=False)
        ):
            raise ValueError(
                f"expected finite numbers in increasing order, got {values}; "
                f"for anything else write Menu({name!r}, {values})"
            )

    def between(self, along: float) -> Any:
        """The value at a place on the slider, from 0 to the number of positions less one."""
        left = int(along)
        if left == along:
            return self.positions[left]
        a, b = self.positions[left : left + 2]
        value = a + (along - left) * (b - a)
        if all(isinstance(v, Integral) for v in self.positions):
            return round(value)
        return round(value, 2 - math.floor(math.log10(b - a)))  # to a hundredth of the gap

    def along(self, value: float) -> float:
        """The place of a value on the slider."""
        return float(np.interp(value, self.positions, range(len(self.positions))))

    def page(self, key: str) -> str:
        """A range input, what it says, and the button that plays."""
        said, last = escape(self.words(self.positions[self.start])), len(self.positions) - 1
        button = '<button type="button">Play</button>' if self.play else ""
        return (
            f'<div class="fl-slider"><label for="{key}">{escape(self.name)}</label>'
            f'<output for="{key}">{said}</output>{button}'
            f'<input type="range" id="{key}" min="0" max="{last}" step="1" value="{self.start}" '
            f'aria-valuetext="{said}"></div>'
        )

    def live(self) -> tuple[widgets.Widget, widgets.Widget]:
        """A slider, a box to write any value in, and buttons to play."""
        whole = all(isinstance(v, Integral) for v in self.positions)
        last = len(self.positions) - 1
        hand = widgets.FloatSlider(
            self.start, min=0, max=last, step=0.01, readout=False, description=self.name,
            style={"description_width": "initial"}, layout={"flex": "1 1 16rem", "width": "auto"},
        )  # fmt: skip
        box = (widgets.BoundedIntText if whole else widgets.BoundedFloatText)(
            self.positions[self.start], min=self.positions[0], max=self.positions[-1],
            tooltip=self.name, layout={"width": "6rem"},
        )  # fmt: skip

        def by_hand(change: Any) -> None:
            if abs(self.along(box.value) - change["new"]) > 0.51 * hand.step:
                box.value = self.between(change["new"])

        def by_writing(change: Any) -> None:
            if self.between(hand.value) != change["new"]:
                hand.value = round(self.along(change["new"]), 2)  # as the browser would

        hand.observe(by_hand, "value")
        box.observe(by_writing, "value")
        parts = [hand, box]
        if self.play:
            play = widgets.Play(self.start, min=0, max=last, interval=1000, show_repeat=False)
            play.observe(lambda change: hand.set_trait("value", change["new"]), "value")
            parts.append(play)
        return widgets.HBox(parts, layout={"flex_flow": "row wrap"}), box


class Toggle(Control):
    """Something that is off or on: False or True.

    name: its label. at: where it starts.
    """

    def __init__(self, name: str, at: bool = False):
        super().__init__(name, [False, True], at)

    def words(self, value: bool) -> str:
        """Off or on."""
        return "on" if value else "off"

    def page(self, key: str) -> str:
        """A checkbox."""
        checked = " checked" if self.start else ""
        return (
            f'<div><label for="{key}"><input type="checkbox" id="{key}"{checked}> '
            f"{escape(self.name)}</label></div>"
        )

    def live(self) -> tuple[widgets.Widget, widgets.Widget]:
        """A checkbox."""
        box = widgets.Checkbox(bool(self.start), description=self.name, indent=False)
        return box, box


class Menu(Control):
    """One of several things that lie on no line, such as methods.

    name: its label. positions: what `picture` gets, shown by its `str`. at: where it starts, by
    default at the first. Raises ValueError for fewer than two, or another `at`.
    """

    def page(self, key: str) -> str:
        """A select."""
        options = "".join(
            f"<option{' selected' if i == self.start else ''}>{escape(self.words(v))}</option>"
            for i, v in enumerate(self.positions)
        )
        return (
            f'<div><label for="{key}">{escape(self.name)}</label> '
            f'<select id="{key}">{options}</select></div>'
        )

    def live(self) -> tuple[widgets.Widget, widgets.Widget]:
        """A drop-down list."""
        box = widgets.Dropdown(
            options=[(self.words(v), v) for v in self.positions],
            value=self.positions[self.start],
            description=self.name,
            style={"description_width": "initial"},
        )
        return box, box
