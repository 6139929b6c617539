"""Figures in one style: the same colour for the same method through the whole book.

A figure is one panel in a `with` block; when the block ends it is shown, as an SVG that scales down
to a phone and follows the page's light or dark theme, together with the plotted numbers, so that
tests can compare curves and not pictures.

>>> with panel("Accuracy of FedAvg rises from .1 to .8 in 50 rounds.", "round", "accuracy") as ax:
...     line(ax, rounds, scores, "FedAvg")
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from io import StringIO
from typing import Any, NamedTuple

import numpy as np

SERIES = "application/vnd.fedlab.series+json"  # the MIME type of the plotted numbers

# Apart for colour-blind readers too, each at least 3:1 against the page. The names are those of the
# page's style sheet (book/_static/fedlab.css), which has these values and others for the dark page.
PALETTE = {
    "blue": "#1a4fa3",
    "orange": "#d0701c",
    "green": "#1b7a54",
    "red": "#c4200c",
    "purple": "#b0509f",
    "sky": "#2c92ce",
    "grey": "#85827f",
    "brown": "#4e2d17",
}
TEXT, MUTED, GRID = "#1f2328", "#59636e", "#d1d9e0"
_VARIABLES = {colour: f"--fl-{name}" for name, colour in PALETTE.items()} | {
    TEXT: "--pst-color-text-base",
    MUTED: "--pst-color-text-muted",
    GRID: "--pst-color-border",
}


class Look(NamedTuple):
    """How a method is drawn everywhere: also told apart without colours."""

    colour: str
    marker: str
    dash: Any


LOOKS = {
    "Local": Look("grey", "s", (0, (1, 1.5))),
    "Pooled": Look("brown", "D", (0, (5, 1.5))),
    "FedAvg": Look("blue", "o", "-"),
    "FedAvg + fine-tuning": Look("sky", "v", (0, (4, 1, 1, 1))),
    "FedProx": Look("purple", "P", (0, (3, 1, 1, 1, 1, 1))),
    "FedOpt": Look("green", "X", (0, (6, 2))),
    "FedPer": Look("orange", "^", "-"),
    "Ditto": Look("red", "d", "-"),
    "MeanRegularised": Look("green", "*", "-"),
    "IFCA": Look("purple", "h", "-"),
}
_SPARE = [
    Look(colour, marker, dash)
    for dash in ("-", (0, (4, 1.5)))
    for colour, marker in zip(PALETTE, "o^sDvPXd", strict=True)
]


def look(name: str, position: int = 0) -> Look:
    """The look of a method, by its name or by how its name begins; else one by position."""
    for known in sorted(LOOKS, key=len, reverse=True):
        if name == known or name.startswith((f"{known} ", f"{known},", f"{known}(")):
            return LOOKS[known]
    return _SPARE[position % len(_SPARE)]


@contextmanager
def panel(
    alt: str, xlabel: str = "", ylabel: str = "", title: str = "", **options: Any
) -> Iterator[Any]:
    """A figure of one panel, shown when the block ends; gives matplotlib's Axes.

    alt: what the figure shows, in a sentence, for those who cannot see it. options: as for
    `canvas`. Raises ValueError without an alt text. Two panels in one cell stand side by side where
    the page is wide enough.
    """
    if len(alt.split()) < 3:
        raise ValueError(f"expected an alt text that says what the figure shows, got {alt!r}")
    with canvas(xlabel, ylabel, title, **options) as (figure, ax):
        yield ax
    show(figure, alt)


@contextmanager
def canvas(
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    width: float = 4.6,
    height: float = 3.2,
    legend: bool = True,
) -> Iterator[tuple[Any, Any]]:
    """matplotlib's (Figure, Axes) in the book's style, labelled when the block ends and not shown.

    width, height in inches; legend=False for none.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        ax = figure.add_subplot()
        yield figure, ax
        ax.set(xlabel=xlabel or ax.get_xlabel(), ylabel=ylabel or ax.get_ylabel())
        if title:
            ax.set_title(title, loc="left")
        if legend and ax.get_legend() is None and ax.get_legend_handles_labels()[1]:
            ax.legend()


def line(
    ax: Any,
    x: Sequence[float],
    y: Any,
    label: str,
    spread: Any = None,
    like: str | None = None,
    position: int = 0,
) -> None:
    """A method's curve: x (n,), y (n,) or (seeds, n), drawn as mean and a band of one deviation.

    like: draw it as this method is drawn; by default as `label` says.
    """
    style, values = look(like or label, position), np.asarray(y, dtype=float)
    if values.ndim == 2:
        spread = values.std(0, ddof=1) if len(values) > 1 else None
        values = values.mean(0)
    colour, few = PALETTE[style.colour], len(values) <= 15
    marker = style.marker if few else None
    ax.plot(x, values, label=label, color=colour, linestyle=style.dash, marker=marker)
    if spread is not None:
        ax.fill_between(x, values - spread, values + spread, color=colour, alpha=0.18, linewidth=0)


def dots(ax: Any, x: Any, y: Any, label: str, like: str | None = None, position: int = 0) -> None:
    """One dot per client: x, y (clients,)."""
    style = look(like or label, position)
    colour = PALETTE[style.colour]
    ax.scatter(x, y, label=label, color=colour, marker=style.marker, s=22, alpha=0.85, linewidths=0)


def ranked(ax: Any, values: dict[str, Any], unit: str = "") -> None:
    """Methods one below another: a dot for the mean over seeds, a bar for one deviation.

    values: name -> (seeds,).
    """
    for row, (name, seeds) in enumerate(values.items()):
        v, style = np.asarray(seeds, dtype=float), look(name, row)
        error = v.std(ddof=1) if len(v) > 1 else 0.0
        colour = PALETTE[style.colour]
        ax.errorbar(
            [v.mean()],
            [row],
            xerr=[error],
            fmt=style.marker,
            color=colour,
            capsize=3,
            label=f"_{name}",
        )
    ax.set_yticks(range(len(values)), list(values))
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)


def show(figure: Any, alt: str) -> None:
    """Display a matplotlib figure with its alt text and its numbers; returns nothing."""
    from IPython.display import publish_display_data

    svg = to_svg(figure, alt)
    data = {"image/svg+xml": svg, SERIES: series(figure), "text/plain": f"[figure: {alt}]"}
    publish_display_data(data, {"image/svg+xml": {"needs_background": "light"}})


def to_svg(figure: Any, alt: str, salt: str = "") -> str:
    """A figure as SVG: the same bytes for the same figure, its text as text, its colours as
    variables of the page. salt: what its ids are made from, by default `alt`.
    """
    import hashlib

    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    salt = hashlib.sha256((salt or alt).encode()).hexdigest()[:8]
    out = StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}):
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None})  # savefig draws it twice
    svg = _compact(out.getvalue())
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable}, {colour})")
    name = escape(alt, quote=True)
    head = f'<svg class="fl-figure" role="img" aria-label="{name}" stroke-linejoin="round" '
    return svg.replace("<svg ", head, 1).strip()


def _compact(svg: str) -> str:
    """The same drawing in fewer bytes, one element per line: no metadata, no rule that would style
    the whole page, no idle groups and ids, numbers to two decimals, the font named once.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style .*?</style>", "", svg, flags=re.S)
    svg = re.sub(r'<defs>\s*</defs>| transform="rotate\(-0 [^"]*"| version="1.1"', "", svg)
    svg = re.sub(r"\s+", " ", re.sub(r'<g id="[^"]*">', "<g>", svg)).replace("> <", ">\n<")
    svg = re.sub(r"<[^>]*>", _short_numbers, svg)
    font = re.search(r" font-family: [^;\"]*;", svg)
    if font:
        svg = svg.replace(font[0], "").replace("<svg ", f'<svg style="{font[0].strip()}" ', 1)
    return _without_idle_groups(_styled_once(svg)).strip()


def _short_numbers(tag: re.Match[str]) -> str:
    """Numbers to two decimals; a path of many lines says so once."""
    text = re.sub(r"-?\d+\.\d+", lambda n: f"{round(float(n[0]), 2) + 0.0:g}", tag[0])
    return re.sub(r"L [-\d. L]+", lambda path: "L " + path[0].replace("L ", ""), text)


def _styled_once(svg: str) -> str:
    """Dots of one style as one group of that style."""
    run = re.compile(r'<use [^>]*?( style="[^"]*")/>\n(?:<use [^>]*?\1/>\n)+')
    return run.sub(lambda dots: f"<g{dots[1]}>\n{dots[0].replace(dots[1], '')}</g>\n", svg)


def _without_idle_groups(svg: str) -> str:
    idle, found = re.compile(r"<g>\n((?:<(?!/?g\b)[^>]*>[^<]*)*)</g>\n?"), 1
    while found:
        svg, found = idle.subn(r"\1", svg)
    return svg


def series(figure: Any) -> dict[str, Any]:
    """Everything plotted, as numbers: lines, dots, bands, bars, boxes of a picture."""
    from matplotlib.collections import PathCollection

    axes = []
    for ax in figure.axes:
        found = [_entry(v.get_label(), *v.get_data()) for v in ax.lines]
        for c in ax.collections:
            if c.get_array() is not None and not isinstance(c, PathCollection):
                values = _numbers(c.get_array()).ravel()
                found.append(_entry(c.get_label(), np.arange(len(values)), values))
                continue
            if isinstance(c, PathCollection):  # dots
                xy = _numbers(c.get_offsets())
            else:  # bands, error bars
                xy = np.concatenate([path.vertices for path in c.get_paths()] or [np.empty((0, 2))])
            found.append(_entry(c.get_label(), xy[:, 0], xy[:, 1]))
        bars = [p for p in ax.patches if hasattr(p, "get_height") and hasattr(p, "get_x")]
        if bars:
            middles = [p.get_x() + p.get_width() / 2 for p in bars]
            found.append(_entry("bars", middles, [p.get_y() + p.get_height() for p in bars]))
            found.append(_entry("bar widths", middles, [p.get_x() + p.get_width() for p in bars]))
        for image in ax.images:
            values = _numbers(image.get_array()).ravel()
            found.append(_entry("picture", np.arange(len(values)), values))
        labels = {
            "title": ax.get_title("left"),
            "xlabel": ax.get_xlabel(),
            "ylabel": ax.get_ylabel(),
        }
        axes.append({**labels, "series": found})
    return {"axes": axes}


def _entry(label: Any, x: Any, y: Any) -> dict[str, Any]:
    """Numbers to five digits: enough to compare, short enough to read in a diff."""
    name = str(label)
    return {"label": "" if name.startswith("_child") else name, "x": _short(x), "y": _short(y)}


def _numbers(values: Any) -> Any:
    """A plain array, with NaN where something is masked."""
    return np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)


def _short(values: Any) -> list[float | str | None]:
    array = np.asarray(values)
    if array.dtype.kind == "O" and all(isinstance(v, (int, float)) for v in array):
        array = array.astype(float)  # as error bars have them
    if array.dtype.kind not in "fiub":
        return [str(v) for v in array]
    return [float(f"{v:.5g}") if np.isfinite(v) else None for v in array.astype(float)]


_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedlab",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.labelsize": 10.5,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.titlecolor": TEXT,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "image.cmap": "cividis",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
