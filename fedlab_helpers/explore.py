"""Pictures that the reader moves: live in Jupyter, and without a kernel on the page.

One object, two faces. In a notebook, moving a control draws the picture anew, at any value, from
whatever the drawing function computes. On the rendered page the same controls move through the
frames that the same function drew when the chapter was executed.

>>> def who_gains(ax, alpha, personal):
...     scores = at(FedPer() if personal else FedAvg(), alpha)
...     plot.dots(ax, at(Local(), alpha), scores, "FedAvg")
...     return f"{(scores > at(Local(), alpha)).sum()} of 20 clients do better together."
>>> Explorable(
...     who_gains,
...     alpha=Slider("Dirichlet α", [0.05, 0.2, 1, 10], at=0.2),
...     personal=Toggle("personal head"),
...     xlabel="accuracy alone",
...     ylabel="accuracy together",
... )
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from html import escape
from io import StringIO
from itertools import groupby, product
from typing import Any, NamedTuple

import ipywidgets as widgets
import numpy as np
from tqdm.auto import tqdm

from .controls import Control, Menu, Slider, Toggle
from .plot import SERIES, canvas, series, to_svg

__all__ = ["Explorable", "Menu", "Slider", "Toggle"]

FRAMES = 120  # the most that a page has to hold
REST = 0.2  # seconds without a move before the live face computes


class Frame(NamedTuple):
    """The picture at one position of the controls."""

    svg: str  # of all panels, one element per line; what holds them has words
    axes: list[Any]  # the plotted numbers
    said: str  # the sentence that goes with it

    def pictures(self, key: str) -> str:
        """The drawing with ids of its own, as a page may hold it more than once."""
        svg = self.svg.replace(' role="img" aria-label=""', "")
        return re.sub(r'(id="|#)([mp][0-9a-f]{10})\b', rf"\1\2-{key}", svg)


class Explorable(widgets.VBox):
    """A picture with controls.

    picture: (ax, one argument per control, by name) -> a sentence that says what is seen there:
        the read-out, and the alt text of the picture.
    panels: 2 or more: `picture` gets a list of that many Axes, which stand side by side where the
        page is wide enough. xlabel, ylabel: of every panel without its own. title, width, height,
        legend: of every panel, as for `plot.panel`.
    controls: Slider, Toggle or Menu; the page has a frame for each combination of positions.
    Raises TypeError where `picture` and the controls do not fit, or it returns no sentence;
    ValueError without controls or for more than 120 frames.
    """

    def __init__(
        self,
        picture: Callable[..., str],
        *,
        panels: int = 1,
        xlabel: str = "",
        ylabel: str = "",
        title: str = "",
        width: float = 4.6,
        height: float = 3.2,
        legend: bool = True,
        **controls: Control,
    ):
        _fitting(picture, controls)
        self._picture, self._panels, self._controls = picture, panels, controls
        self._canvas: dict[str, Any] = {
            "xlabel": xlabel, "ylabel": ylabel, "title": title,
            "width": width, "height": height, "legend": legend,
        }  # fmt: skip
        moves = controls.values()
        self._values = list(product(*(c.positions for c in moves)))
        self._start = int(
            np.ravel_multi_index(
                [c.start for c in moves], [len(c.positions) for c in moves]
            )
        )  # fmt: skip
        bar = tqdm(self._values, desc="frames", leave=False, disable=None, delay=2)
        self._frames = [self._draw(values) for values in bar]
        content = json.dumps([self._where(v) + frame.said for v, frame in self._pairs()])
        self._key = "fl-" + hashlib.sha256(content.encode()).hexdigest()[:10]
        try:
            self._loop: Any = asyncio.get_running_loop()  # that of the kernel
        except RuntimeError:
            self._loop = None
        self._waiting: Any = None
        shown, self._holders = zip(*(c.live() for c in moves), strict=True)
        for holder in self._holders:
            holder.observe(self._moved, "value")
        self._busy = widgets.HTML(
            '<progress aria-label="computing" style="width: 100%"></progress>',
            layout={"visibility": "hidden"},
        )
        self._face = widgets.HTML(self._live_face(self._frames[self._start]))
        super().__init__([*shown, self._busy, self._face])

    def _pairs(self) -> Any:
        """Every combination of positions with its frame."""
        return zip(self._values, self._frames, strict=True)

    def _draw(self, values: Sequence[Any]) -> Frame:
        """The picture at some values of the controls."""
        with ExitStack() as stack:
            drawn = [stack.enter_context(canvas(**self._canvas)) for _ in range(self._panels)]
            figures, axes = [d[0] for d in drawn], [d[1] for d in drawn]
            named = dict(zip(self._controls, values, strict=True))
            with _quietly():
                said = self._picture(axes if self._panels > 1 else axes[0], **named)
        if not isinstance(said, str):
            raise TypeError(
                f"expected `picture` to return a sentence, got {said!r}; end it with "
                'return f"... {number:.3f} ..."'
            )
        return Frame(
            "\n".join(to_svg(f, "", f"panel {i}") for i, f in enumerate(figures)),
            [axis for f in figures for axis in series(f)["axes"]],
            said,
        )

    def _where(self, values: Sequence[Any]) -> str:
        """Values in words: α = 0.2, personal head = on."""
        pairs = zip(self._controls.values(), values, strict=True)
        return ", ".join(f"{c.name} = {c.words(v)}" for c, v in pairs)

    # --- the live face ---------------------------------------------------------------------------

    def _moved(self, change: Any) -> None:
        """Compute once the hand rests; later moves supersede earlier ones."""
        self._busy.layout.visibility = "visible"
        if self._loop is None:
            self._compute()
        else:  # messages may arrive in a thread of their own; cells and simulations run in the loop
            self._loop.call_soon_threadsafe(self._wait)

    def _wait(self) -> None:
        if self._waiting:
            self._waiting.cancel()
        self._waiting = self._loop.call_later(REST, self._compute)

    def _compute(self) -> None:
        """Draw at the values of now; an error stands where the picture would."""
        self._busy.layout.visibility = "visible"
        try:
            frame = self._draw([holder.value for holder in self._holders])
            self._face.value = self._live_face(frame)
        except Exception as error:
            said = escape(f"{type(error).__name__}: {error}")
            self._face.value = f'<p role="alert" style="color: #c4200c"><b>{said}</b></p>'
        finally:
            self._busy.layout.visibility = "hidden"

    def _live_face(self, frame: Frame) -> str:
        """Picture and read-out, in the colours of JupyterLab's theme."""
        theme = (
            "--pst-color-text-base: var(--jp-ui-font-color1); "
            "--pst-color-text-muted: var(--jp-ui-font-color2); "
            "--pst-color-border: var(--jp-border-color2)"
        )
        said = escape(frame.said)
        return (
            f'<div style="{theme}"><div style="display: flex; flex-wrap: wrap" role="img" '
            f'aria-label="{said}">{frame.pictures(f"{self._key}-live")}</div>'
            f'<p aria-live="polite">{said}</p></div>'
        )

    # --- what a notebook stores, and the page shows ----------------------------------------------

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None, **kwargs: Any) -> Any:
        """The live control, the page's form, and every plotted number of every frame."""
        live = super()._repr_mimebundle_(include=include, exclude=exclude, **kwargs)
        data, metadata = live if isinstance(live, tuple) else (live, {})
        axes = [axis for frame in self._frames for axis in frame.axes]
        said = "\n".join(f"{self._where(values)}: {frame.said}" for values, frame in self._pairs())
        faces = {"text/html": self._page(), "text/plain": said, SERIES: {"axes": axes}}
        return {**(data or {}), **faces}, metadata

    def _page(self) -> str:
        """Controls, picture and read-out; a strip of pictures and a table for other readers; and
        the frames. Without the script of the page (explorable.js) the controls stay hidden.
        """
        key, start = self._key, self._start
        frames = [frame.pictures(key) for frame in self._frames]
        controls = "".join(c.page(f"{key}-{n}") for n, c in self._controls.items())
        return (
            f'<div class="fl-explorable" id="{key}">'
            f'<form autocomplete="off" hidden>{controls}</form>'
            f'<div class="fl-stage" role="img" aria-labelledby="{key}-said">{frames[start]}</div>'
            f'<p id="{key}-said" aria-live="polite">'
            f"<b>{escape(self._where(self._values[start]))}.</b> "
            f"<span>{escape(self._frames[start].said)}</span></p>"
            f"{self._strip()}{self._table()}"
            f'<script type="text/plain">\n{_shared(frames)}\n</script></div>'
        )

    def _strip(self) -> str:
        """Small pictures of other positions: those of one control at a time."""
        lengths = [len(c.positions) for c in self._controls.values()]
        most, middle = 4 if len(lengths) == 1 else 3, np.unravel_index(self._start, lengths)
        chosen = {
            int(np.ravel_multi_index([*middle[:i], int(p), *middle[i + 1 :]], lengths))
            for i, n in enumerate(lengths)
            for p in np.linspace(0, n - 1, min(n, most)).round()
        } - {self._start}
        shown = "".join(
            f'<figure style="flex: 1 1 11rem; max-width: 16rem; margin: 0">'
            f'<div role="img" aria-labelledby="{self._key}-{i}-said">'
            f"{_scaled(self._frames[i].pictures(f'{self._key}-{i}'))}</div>"
            f'<figcaption id="{self._key}-{i}-said"><b>{escape(self._where(self._values[i]))}.</b> '
            f"{escape(self._frames[i].said)}</figcaption></figure>"
            for i in sorted(chosen)
        )
        return (
            f'<div class="fl-strip" style="display: flex; flex-wrap: wrap; gap: 1rem">{shown}</div>'
        )

    def _table(self) -> str:
        """Every position in words; the script reads them from here."""
        names = "".join(f"<th>{escape(c.name)}</th>" for c in self._controls.values())
        rows = "".join(
            "<tr>"
            + "".join(
                f"<td>{escape(c.words(v))}</td>"
                for c, v in zip(self._controls.values(), values, strict=True)
            )
            + f"<td>{escape(frame.said)}</td></tr>\n"
            for values, frame in self._pairs()
        )
        return (
            "<details><summary>Every position in words</summary><table><thead><tr>"
            f"{names}<th>what is seen</th></tr></thead><tbody>\n{rows}</tbody></table></details>"
        )


@contextmanager
def _quietly() -> Iterator[None]:
    """Bars and prints of a simulation are not seen: frame by frame, they would pile up."""
    from IPython import get_ipython

    publisher: Any = getattr(get_ipython(), "display_pub", None)  # a kernel's; others show no bars
    hooked = hasattr(publisher, "register_hook")
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        if hooked:
            publisher.register_hook(_nothing)
        try:
            yield
        finally:
            if hooked:
                publisher.unregister_hook(_nothing)


def _nothing(message: Any) -> None:
    """What is displayed, in place of a message."""


def _fitting(picture: Callable[..., str], controls: dict[str, Control]) -> None:
    """Raise where the controls are none, or too many, or not those that `picture` takes."""
    for name, control in controls.items():
        if not isinstance(control, Control):
            raise TypeError(
                f"expected a Slider, Toggle or Menu for {name}, got {control!r}; "
                f"write {name}=Slider({name!r}, [0.1, 1, 10])"
            )
    try:
        inspect.signature(picture).bind(None, **controls)
    except TypeError as error:
        raise TypeError(
            f"expected a picture that takes (ax, {', '.join(controls)}), got "
            f"{getattr(picture, '__name__', 'one')}{inspect.signature(picture)}: {error}"
        ) from None
    lengths = [len(c.positions) for c in controls.values()]
    if not lengths or math.prod(lengths) > FRAMES:
        raise ValueError(
            f"expected 1 to {FRAMES} frames, got {' x '.join(map(str, lengths)) or 'no control'}; "
            'write alpha=Slider("α", [0.1, 1, 10]), and with several controls fewer positions each'
        )


def _scaled(svg: str) -> str:
    """As wide as what holds it."""
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'width="100%"', svg)


def _shared(frames: Sequence[str]) -> str:
    """Frames as one text: what each is made of, as pairs (first line, number of lines), and below
    it the lines, each once.
    """
    lines: dict[str, int] = {}
    made = []
    for frame in frames:
        numbers = [lines.setdefault(line, len(lines)) for line in frame.split("\n")]
        runs = [list(run) for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
        made.append([n for run in runs for n in (run[0][1], len(run))])
    return "\n".join([json.dumps(made, separators=(",", ":")), *lines])
