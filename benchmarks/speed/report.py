"""The page of the book that says how fast the simulator is: what `page` makes of `results.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from workloads import WORKLOADS

from fedlab_helpers import plot

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results.json"
PAGE = ROOT / "book" / "speed.md"

NAMES = {
    "ours": "`simulate`",
    "limit": "limit (C++)",
    "plain": "plain PyTorch, tuned",
    "naive": "plain PyTorch, naive",
    "fedjax": "FedJAX",
    "pfl": "pfl-research",
    "fluke": "fluke",
    "fedlab": "FedLab",
    "flower": "Flower",
}
NO_FASTER = 1.5  # what is less ahead of the plain loop than so many times

INTRO = """\
<!-- Written by `make bench` from benchmarks/speed/results.json. Do not edit. -->

# Speed

How long does a round take, how far is that from what the machine could do, and where is nothing
gained? `make bench` measures it on your machine and writes this page; the code is in
`benchmarks/speed/`.

The implementations of a table train the same network on the same clients with the same algorithm,
learning rate, batch size and number of steps. They take turns: each repeat asks every one of them
once, in a process of its own. A figure is the **median** of {repeats} repeats, with the smallest
and the largest behind it. Other programs share the machine, so trust the ratios of medians more
than the milliseconds.

- **What a round includes**, for each of them: drawing and gathering the mini-batches, training,
  averaging. Not included: starting Python, loading data, building the network, the first round,
  the evaluation.
- **Limit**: a loop in C++ that trains one client at a time in cache, on two threads, without any
  framework (`kernel.cpp`). It stands for what the processor can do, and it knows only softmax
  regression and networks with one hidden layer.
- **Plain PyTorch, tuned**: one client after the other with autograd; rows picked with
  `index_select`, one vector of weights, updates in place; on one thread, and on two for the
  convolutions of W3. **Naive**: a `DataLoader`, a deep copy and an optimiser for every client, as
  in most tutorials.
- **Score**: accuracy of the average client on its test rows, after the timed rounds and two more.
  **Peak**: the most memory the process has held while it trained, libraries and data included.
"""


# --- results -------------------------------------------------------------------------------------


def load() -> dict[str, Any]:
    """The stored results, {part: {"day", "minutes", "machine", "load", "versions", "results"}}."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def store(stored: dict[str, Any]) -> None:
    """Write them, one line per series."""
    from parts import PARTS

    text = json.dumps({name: stored[name] for name in PARTS if name in stored}, indent=1)
    one_line = re.sub(r"\[[^\[\]]*\]", lambda series: json.dumps(json.loads(series[0])), text)
    RESULTS.write_text(one_line + "\n", encoding="utf-8")


# --- the page ------------------------------------------------------------------------------------


def page(stored: dict[str, Any]) -> str:
    """The page of the book, of the parts that were measured."""
    found = {name: part["results"] for name, part in stored.items()}
    work = {name: found[name] for name in WORKLOADS if name in found}
    repeats = min((len(t["ms"]) for timings in work.values() for t in timings.values()), default=5)
    lines = [INTRO.format(repeats=repeats), *_summary(work)]
    for name, timings in work.items():
        lines += [f"### {name}", "", f"{sentence(WORKLOADS[name].about)}", "", *_timings(timings)]
    for name, section in SECTIONS.items():
        if name in found:
            lines += section(found[name])
    return "\n".join([*lines, *_not_faster(found), *_where(stored)])


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A table whose first column is text, and the empty line after it."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [head, *rows]]
    return [lines[0], "|---" + "|--:" * (len(head) - 1) + "|", *lines[1:], ""]


def digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{decimals}f}"


def times(ms: Sequence[float]) -> str:
    """Median, and from where to where."""
    return f"{digits(median(ms))} ({digits(min(ms))} to {digits(max(ms))})"


def ratio(one: dict[str, Any] | None, other: dict[str, Any] | None) -> str:
    """How many times as long the one takes."""
    if one is None or other is None:
        return "-"
    return digits(median(one["ms"]) / median(other["ms"]))


def _summary(work: dict[str, Any]) -> list[str]:
    rows = [
        (
            name,
            digits(median(t["ours"]["ms"])),
            ratio(t["ours"], t.get("limit")),
            ratio(t.get("plain"), t["ours"]),
            ratio(t.get("naive"), t["ours"]),
        )
        for name, t in work.items()
    ]
    head = ("workload", "ms a round", "times the limit", "ahead of tuned loop", "of naive loop")
    return ["## A round", "", *table(head, rows)]


def _timings(timings: dict[str, Any]) -> list[str]:
    rows = [
        (
            NAMES[name],
            times(t["ms"]),
            ratio(t, timings.get("limit")),
            ratio(t, timings.get("ours")),
            f"{t['score']:.3f}" if t.get("score") is not None else "-",
            f"{t['mb']:,}",
        )
        for name, t in sorted(timings.items(), key=lambda item: median(item[1]["ms"]))
    ]
    return table(("", "ms a round", "of the limit", "of `simulate`", "score", "peak, MB"), rows)


def _peers(found: dict[str, Any]) -> list[str]:
    lines = [
        "## Other libraries",
        "",
        "Each in an environment of its own that `make bench-peers` sets up. They took turns with",
        "ours, the limit and the tuned loop. A round is timed from its start to the start of the",
        "next (ours from end to end), so it includes whatever the library does in between.",
        "",
        *(f"- **{NAMES[name]}**: {how}" for name, how in found["how"].items()),
        "",
    ]
    if found["missing"]:
        lines += ["Not measured:", ""]
        lines += [f"- **{NAMES[name]}**: {why}" for name, why in found["missing"].items()]
        lines += [""]
    for name, timings in found["timings"].items():
        lines += [f"### {name}, with other libraries", "", *_timings(timings)]
    return lines


def _same(found: dict[str, dict[str, float]]) -> list[str]:
    rows = [
        (name, *(f"{v[other]:.0e}" if other in v else "-" for other in ("limit", "plain")))
        for name, v in found.items()
    ]
    return [
        "## The same mathematics",
        "",
        "Handed the mini-batches of `simulate`, the others end with its weights. The largest",
        "difference after three rounds, in units of the largest change of a weight (numbers of",
        "single precision have seven digits):",
        "",
        *table(("workload", "limit", "plain loop"), rows),
    ]


def _clients(found: dict[str, Any]) -> list[str]:
    rows = [
        (
            f"{int(number):,}",
            *(digits(median(t[n]["ms"])) if n in t else "-" for n in ("ours", "limit", "plain")),
            f"{t['ours']['mb']:,}",
        )
        for number, t in found.items()
    ]
    head = ("clients", "`simulate`, ms", "limit, ms", "tuned loop, ms", "`simulate`, peak MB")
    return [
        "## More clients",
        "",
        "The network and the steps of W1, 90 rows for every client, all clients in every round:",
        "",
        *table(head, rows),
        '<div class="cell_output"><figure>',
        *figure(found).splitlines(),
        "</figure></div>",
        "",
    ]


def figure(found: dict[str, Any]) -> str:
    """Time of a round against the number of clients, as an SVG."""
    counts = [int(number) for number in found]
    cost = [
        f"{NAMES[n].replace('`', '')} {digits(median(found[str(c)][n]['ms']))} ms with {c:,}"
        for n in ("limit", "ours", "plain")
        for c in [max(c for c in counts if n in found[str(c)])]
    ]
    alt = f"Milliseconds per round against the number of clients: {'; '.join(cost)}."
    with plot.canvas("clients", "ms per round", width=5.2) as (drawing, ax):
        for like, name in (("Local", "plain"), ("FedAvg", "ours"), ("FedPer", "limit")):
            some = [c for c in counts if name in found[str(c)]]
            ms = [median(found[str(c)][name]["ms"]) for c in some]
            plot.line(ax, some, ms, NAMES[name].replace("`", ""), like=like)
        ax.set(xscale="log", yscale="log")
    return plot.to_svg(drawing, alt)


def _share(found: dict[str, Any]) -> list[str]:
    lines = ["## Few of many clients", ""]
    for number, t in found.items():
        ours = t["ours"]
        lines += [
            f"Of {int(number):,} clients with 20 rows each, one in a hundred takes part:",
            f"{times(ours['ms'])} ms a round, and {ours['mb'] - ours['before']:,} MB of memory in",
            f"addition to the {ours['before']:,} MB of the libraries and the data.",
            "",
        ]
    return lines


def _width(found: dict[str, Any]) -> list[str]:
    rows = [
        (
            f"{int(hidden):,}",
            f"{75 * int(hidden) + 10:,}",
            *(digits(median(t[n]["ms"])) if n in t else "-" for n in ("ours", "limit", "plain")),
            ratio(t["plain"], t["ours"]),
        )
        for hidden, t in found.items()
    ]
    head = ("hidden units", "parameters", "`simulate`, ms", "limit, ms", "tuned loop, ms", "ahead")
    return [
        "## Larger networks",
        "",
        "Networks 64-h-10, 20 clients with 200 rows, one epoch of batch 20:",
        "",
        *table(head, rows),
    ]


def _algorithms(found: dict[str, Any]) -> list[str]:
    rows = []
    for name, line in found.items():
        cost = median(line["ms"]) / median(found[line["of"]]["ms"])
        passes = line["passes"] / found[line["of"]]["passes"]
        rows.append((name, digits(median(line["ms"])), digits(cost), digits(passes)))
    rows.sort(key=lambda row: float(row[2]))
    return [
        "## Every algorithm",
        "",
        "A network 64-32-10, 100 clients with 100 rows, two epochs of batch 20. Time and passes",
        "are in units of FedAvg's. Passes count how often an example goes through the network,",
        "which the algorithm asks for by its definition. FedBN is compared with FedAvg on its",
        "network with BatchNorm. Pooled takes all its steps one after the other. Not counted:",
        "that DP-SGD shortens every example's gradient and draws a random number for every",
        "parameter in every step, and that Per-FedAvg multiplies with a Hessian.",
        "",
        *table(("algorithm", "ms a round", "time / FedAvg", "passes / FedAvg"), rows),
    ]


def _startup(found: dict[str, list[float]]) -> list[str]:
    rows = [(f"`{n}`" if n.startswith("import") else n, times(s)) for n, s in found.items()]
    package, torch = (median(found[f"import {n}"]) for n in ("fedlab_helpers", "torch"))
    return [
        "## Start",
        "",
        "Each in a fresh interpreter. The first round includes building the model and an",
        "evaluation, not the import and the data.",
        "",
        *table(("", "seconds"), rows),
        f"Importing the package takes {package / torch:.2f} times what importing torch takes.",
        "",
    ]


SECTIONS = {
    "peers": _peers,
    "same": _same,
    "clients": _clients,
    "share": _share,
    "width": _width,
    "algorithms": _algorithms,
    "startup": _startup,
}


def _not_faster(found: dict[str, Any]) -> list[str]:
    """Where `simulate` is hardly ahead of a plain loop."""
    cases = {name: (WORKLOADS[name].about, found[name]) for name in WORKLOADS if name in found}
    for hidden, timings in found.get("width", {}).items():
        about = f"a network 64-{hidden}-10 with {75 * int(hidden) + 10:,} parameters"
        cases[hidden] = (about, timings)
    slow = [
        f"- {sentence(about)} {digits(gain)} times as fast as the tuned loop."
        for about, t in cases.values()
        if (gain := median(t["plain"]["ms"]) / median(t["ours"]["ms"])) < NO_FASTER
    ]
    if not slow:
        return []
    return [
        "## What is not faster",
        "",
        "Computing clients together saves what PyTorch spends on each small operation. On a",
        "processor, a large network spends its time in matrix products and convolutions instead,",
        "and a plain loop is at the limit of those already. Less than",
        f"{NO_FASTER} times as fast as the tuned loop are, of what was measured above:",
        "",
        *slow,
        "",
    ]


def _where(stored: dict[str, Any]) -> list[str]:
    """On what machine, when, with which versions."""
    lines = ["## Where and when", ""]
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, part in stored.items():
        day = date.fromisoformat(part["day"])
        versions = ", ".join(f"{k} {v}" for k, v in part["versions"].items())
        when = f"{day.day} {day:%B %Y}"
        rows.setdefault((part["machine"], versions, when), []).append(name)
    for (machine, versions, when), names in rows.items():
        lines += [f"{', '.join(names)}: {when}, on {machine}; {versions}.", ""]
    minutes = sum(part["minutes"] for part in stored.values())
    load = max((part["load"] for part in stored.values()), default=0.0)
    lines += [
        f"Measuring took {minutes:.0f} minutes. Other programs were running: when a part ended,",
        f"the load of the minute before was at most {load:g}, of which the benchmark itself is one",
        "or two.",
        "",
    ]
    return lines
