"""Pictures that explain: who holds what, what is sent, what stays. One per family of methods.

In all of them a circle is shared and travels, a square is personal and never leaves its client, and
a drum is data. The last line of a cell shows one, and the text around it has to say no more:

>>> diagrams.federated_averaging()

Two of them move (a round, and an asynchronous server). They stand still on paper and for readers
who ask their system for less motion, and a box under the picture holds them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from .algorithms import FedPer
from .model import Model
from .plot import PALETTE
from .randomness import stream
from .schedule import Buffered

WIDTH = 460  # in the units of the drawing; text of 15 units is 11 pixels high on a phone
CENTRES = (78, 230, 382)  # of three clients
ROUND = 9.0  # seconds that a moving picture takes before it begins again


@dataclass(frozen=True)
class Diagram:
    """A drawing with its words: shown by Jupyter, and part of the page in the rendered book.

    alt: what is seen, for those who cannot see it. motion: CSS that moves parts of the drawing.
    """

    body: str
    height: int
    alt: str
    motion: str = ""

    @property
    def svg(self) -> str:
        """The drawing, the same bytes for the same diagram."""
        key = "fl-" + hashlib.sha256(f"{self.alt}{self.body}".encode()).hexdigest()[:8]
        moves = f"{_MOVING}{{{self.motion.replace('KEY', key)}}}" if self.motion else ""
        return (
            f'<svg class="fl-diagram {key}" role="img" aria-label="{escape(self.alt)}" '
            f'width="{WIDTH + 40}" viewBox="0 0 {WIDTH} {self.height}" '
            'style="max-width:100%;height:auto" xmlns="http://www.w3.org/2000/svg">'
            f"<style>{_STYLE}{moves}</style>{self.body}</svg>"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What a notebook stores. A picture that moves has a face with a box that holds it."""
        data = {"image/svg+xml": self.svg, "text/plain": f"[diagram: {self.alt}]"}
        if self.motion:
            hold = '<label><input type="checkbox"> hold the picture still</label>'
            data["text/html"] = f'<div class="fl-motion">{self.svg}{hold}</div>'
        return data


# --- the diagrams --------------------------------------------------------------------------------


def federated_averaging() -> Diagram:
    """A round of FedAvg: the model goes down, copies are trained, go up and are averaged."""
    body = [_server(_circle(230, 35, "w"), _badge(4, 268, 35))]
    for k, x in enumerate(CENTRES, 1):
        body += [
            _down(x - 22, 70, 130),
            _up(x + 22, 130, 70),
            _text(x - 36, 118, "$w$"),
            _text(x + 40, 118, f"$w_{k}$"),
            _client(x, 134, 112, f"client {k}"),
            _arrow((x + 16, 174), (x - 6, 174), "ink"),
            _circle(x - 30, 174, f"w_{k}", cls="box work"),
            _drum(x + 38, 174),
            _group("shared", _disc(x - 22, 74, 8, "dot go")),
            _group("shared", _disc(x + 22, 126, 8, "dot back")),
        ]
    steps = [
        "the model goes down",
        "clients train copies",
        "the copies go up",
        "the server averages",
    ]
    for i, words in enumerate(steps):
        x, y = (20, 250)[i % 2], (274, 304)[i // 2]
        body += [_badge(i + 1, x, y), _text(x + 18, y + 5, words, "start")]
    body += [_badge(1, 22, 82), _badge(2, 84, 152), _badge(3, 440, 82)]
    motion = (
        _moves("go", "transform", "0%:translateY(0) 20%:translateY(48px)", shown=(0, 20))
        + _moves("back", "transform", "50%:translateY(0) 70%:translateY(-48px)", shown=(50, 70))
        + _moves("work", "transform", "22%:scale(1) 29%:scale(.85) 36%:scale(1.1) 43%:scale(.9) "
                 "50%:scale(1)")
        + "".join(_moves(f"b{i}", "opacity", f"{a}%:0 {a + 1}%:1 {b - 1}%:1 {b}%:0")
                  for i, a, b in [(1, 0, 21), (2, 21, 50), (3, 50, 71), (4, 71, 97)])
    )  # fmt: skip
    return Diagram(
        "".join(body),
        322,
        "A round of federated averaging. The server sends the model w down to three clients. Each "
        "trains its copy on its own data and sends the trained copy, w1, w2 or w3, back up, where "
        "the server averages the copies to the next w. The data stay where they are.",
        motion,
    )


def fine_tuning() -> Diagram:
    """Local adaptation: the common model goes down once more, and every client makes it its own."""
    body = [_server(_circle(230, 35, "w"), _text(258, 40, "after the last round", "start"))]
    for k, x in enumerate(CENTRES, 1):
        body += [
            _down(x, 70, 122),
            _text(x - 15, 101, "$w$"),
            _client(x, 126, 172, f"client {k}"),
            _circle(x - 40, 166, "w"),
            _arrow((x - 18, 166), (x + 14, 166), "own"),
            _square(x + 38, 166, f"v_{k}"),
            _arrow((x - 2, 202), (x - 2, 174), "ink"),
            _drum(x - 2, 222),
        ]
    body += _key(324, "$w$: the same for all", "$v_k$: trained further, stays")
    return Diagram(
        "".join(body),
        342,
        "Fine-tuning. After the last round the server sends the common model w to three clients. "
        "Each trains it a little further on its own data, which gives a personal model v1, v2 or "
        "v3 that stays with the client. Nothing goes back up.",
    )


def shared_layers(model: Model, algorithm: FedPer | None = None) -> Diagram:
    """Which layers of a network travel and which stay, as this algorithm has it.

    algorithm: FedPer unless told otherwise, or one built like it: FedRep, LGFedAvg, FedBN.
    Raises ValueError where a part of a layer stays and the rest of it travels.
    """
    algorithm = algorithm or FedPer()
    stays = model.coordinates(*algorithm.mine(model))
    layers: dict[str, list[bool]] = {}
    for (name, _), part in zip(model.shapes.items(), stays.split(model.sizes), strict=True):
        layers.setdefault(name.rpartition(".")[0] or name, []).append(bool(part.all()))
    own = {name: all(parts) for name, parts in layers.items()}
    split = [name for name, parts in layers.items() if any(parts) and not all(parts)]
    if split:
        raise ValueError(
            f"expected layers that stay or travel as a whole, got some arrays of {split} that stay"
        )
    shared = [name for name, mine in own.items() if not mine]
    tall = 36 * len(own)
    top = 20 + max(36 * len(shared), 36)
    body = [_server(*_bars(230, 20, shared, own), height=top - 6)]
    for k, x in enumerate(CENTRES, 1):
        if shared:
            body += [_down(x - 16, top + 6, top + 52), _up(x + 16, top + 52, top + 6)]
        body += [_client(x, top + 56, tall + 46, f"client {k}"), *_bars(x, top + 68, [*own], own)]
    body += _key(top + tall + 132, "travels and is averaged", "stays with its client")
    kept = [name for name, mine in own.items() if mine]
    return Diagram(
        "".join(body),
        top + tall + 150,
        f"{algorithm.name}, layer by layer. Sent down to three clients, trained, sent up and "
        f"averaged: {_listed(shared)}. Kept by every client for itself: {_listed(kept)}.",
    )


def regularised() -> Diagram:
    """Ditto, pFedMe and their kin: a model of one's own, tied to the common one by a spring."""
    body = [_server(_circle(230, 35, "w"))]
    for k, (x, stretch) in enumerate(zip(CENTRES, (44, 92, 62), strict=True), 1):
        end = 178 + stretch
        body += [
            _down(x - 14, 70, 122),
            _up(x + 14, 122, 70),
            _client(x, 126, 268, f"client {k}"),
            _spring(x - 24, 178, end),
            _text(x + 4, 178 + stretch / 2 + 5, "$λ$"),
            _circle(x - 24, 160, "w"),
            _arrow((x - 24, end + 34), (x - 24, 322), "ink", dashed=True),
            _square(x - 24, end + 16, f"v_{k}"),
            _cross(x - 24, 332),
            _arrow((x + 13, 332), (x - 11, 332), "ink"),
            _drum(x + 36, 324),
        ]
    body += _key(418, "$w$: common, travels", "$v_k$: personal, stays")
    return Diagram(
        "".join(body),
        436,
        "A spring between two models. The common model w goes down to three clients, is trained "
        "there and goes up again. Each client also has a model of its own, v1, v2 or v3, which "
        "never leaves. A spring of strength lambda ties it to w, and the client's data pull it the "
        "other way, towards what is best for this client alone. Where both pull alike, it rests.",
    )


def meta_learning() -> Diagram:
    """MAML and Reptile across clients: one start, from which each gets home in a few steps."""
    start = (226, 150)
    valleys = [(88, 84, -18), (378, 92, 24), (240, 276, 4)]
    body = [_card(4, 4, WIDTH - 8, 332)]
    for x, y, turn in valleys:
        rings = "".join(
            f'<ellipse class="ring" rx="{r}" ry="{r * 0.62:.1f}"/>' for r in (26, 46, 66)
        )
        body.append(f'<g transform="translate({x} {y}) rotate({turn})">{rings}</g>')
    for k, (x, y, _) in enumerate(valleys, 1):
        dx, dy = x - start[0], y - start[1]
        reach = (dx * dx + dy * dy) ** 0.5
        stops = [start, *((start[0] + dx * f, start[1] + dy * f) for f in (0.4, 0.62))]
        stops.append((x - dx / reach * 21, y - dy / reach * 21))
        gaps = (23, 4, 4)
        body += [
            _arrow(a, b, "own", gap=g) for a, b, g in zip(stops, stops[1:], gaps, strict=False)
        ]
        body.append(_square(x, y, f"v_{k}"))
        body.append(_text(*((x, y - 50) if k < 3 else (x + 104, y + 6)), f"client {k}", "name"))
    body += [_circle(*start, "w", r=22), _arrow((142, 194), (198, 164), "ink")]
    body += [
        _text(24, 200, "a start that all", "start"),
        _text(24, 220, "learned together", "start"),
    ]
    body += _key(362, "$w$: common, travels", "$v_k$: a few steps on, stays")
    return Diagram(
        "".join(body),
        380,
        "Meta-learning, seen as a map of models. In the middle is w, a start that all clients have "
        "learned together. From there three paths of three short steps part, each into a valley of "
        "its own, the low loss of one client, and end at the personal models v1, v2 and v3.",
    )


def clustering() -> Diagram:
    """IFCA and its kin: a few common models; every client takes the one that suits it."""
    body = [_server(_circle(180, 35, "w_1"), _circle(280, 35, "w_2", kind="other"))]
    for k, (x, picked) in enumerate(zip((64, 175, 286, 397), (0, 1, 0, 1), strict=True), 1):
        held = [_circle(x - 26, 166, "w_1"), _circle(x + 26, 166, "w_2", kind="other")]
        held[1 - picked] = _group("faint", held[1 - picked])
        body += [
            _arrow((x - 26, 70), (x - 26, 122), "shared"),
            _arrow((x - 8, 70), (x - 8, 122), "other"),
            _arrow((x + 24, 122), (x + 24, 70), ("shared", "other")[picked]),
            _client(x, 126, 168, f"client {k}", width=102),
            *held,
            _arrow((x, 206), (x - 20 + 40 * picked, 187), "ink"),
            _drum(x, 224),
        ]
    body += [_text(230, 320, "Both models go down. A client picks the one"),
             _text(230, 342, "that fits its data, and sends only that one up.")]  # fmt: skip
    return Diagram(
        "".join(body),
        354,
        "Clustering. The server holds two models, w1 and w2, and sends both to four clients. "
        "Clients 1 and 3 find that w1 fits their data better, train it and send it up; clients 2 "
        "and 4 do the same with w2. Each model is averaged over those who picked it.",
    )


def distillation() -> Diagram:
    """FedMD and its kin: predictions on public data travel, networks of any shape stay."""
    shapes = [(6, 20, 26, 8), (16, 30, 10, 5), (10, 26, 16, 14)]
    mean = [round(sum(bar) / len(shapes)) for bar in zip(*shapes, strict=True)]
    body = [
        _server(
            _drum(170, 32, "public data", kind="shared"),
            _histogram(290, 28, mean, "shared"),
            _text(290, 64, "mean prediction"),
            height=72,
        )
    ]
    networks = [(1, 3, 1), (2, 4, 4, 2), (3, 5, 3)]
    for k, (x, widths, heights) in enumerate(zip(CENTRES, networks, shapes, strict=True), 1):
        body += [
            _down(x - 18, 82, 142),
            _up(x + 18, 142, 82),
            _histogram(x - 44, 112, mean, "shared", size=0.8),
            _histogram(x + 46, 112, heights, "shared", size=0.8),
            _client(x, 146, 206, f"client {k}"),
            _network(x, 198, widths),
            _arrow((x, 262), (x, 246), "ink"),
            _drum(x, 280),
        ]
    body += _key(378, "predictions travel", "networks stay")
    return Diagram(
        "".join(body),
        396,
        "Distillation. Three clients have networks of different shapes, each trained on the "
        "client's own data; neither networks nor data leave. What goes up are the "
        "predictions of each network on public data, drawn as small bar charts, and what comes "
        "down is their mean, from which every client learns.",
    )


def recommender() -> Diagram:
    """Federated recommendation: rows of the item table travel, what is the user's own stays."""
    items, users = 8, ((0, 2, 5), (1, 2), (3, 5, 6, 7))
    body = [_server(_table(230, 18, items, range(items), 26), _text(366, 40, "items", "start"))]
    for k, (x, touched) in enumerate(zip(CENTRES, users, strict=True), 1):
        body += [
            _down(x - 16, 70, 116),
            _up(x + 16, 116, 70),
            _client(x, 120, 188, "user " + str(k)),
            _table(x, 134, items, touched, 14),
            _text(x, 198, f"rated {len(touched)}"),
            *(_group("own", _rect(x - 39 + 27 * j, 214, 24, 24)) for j in range(3)),
            _text(x, 262, "own taste"),
        ]  # fmt: skip
    body += _key(336, "rated items travel", "the user's own stays")
    return Diagram(
        "".join(body),
        354,
        "Federated recommendation. The server holds a table with a column of numbers for each of "
        "eight items, and sends it to three users. Each user's phone changes only the items that "
        "the user rated, three, two and four of them, and sends only those back. The numbers that "
        "describe the user's own taste never leave.",
    )


def asynchronous(schedule: Buffered | None = None, seed: int = 21, steps: int = 4) -> Diagram:
    """A server that does not wait, drawn from the schedule itself: who trains when, how stale.

    schedule: as `simulate` takes it, with as many clients as train at a time.
    """
    schedule = schedule or Buffered(buffer=2, concurrency=4, spread=0.7)
    clients = schedule.concurrency
    pace = stream("paces", seed).lognormal(0, schedule.spread, clients)
    arrivals = schedule.arrivals(clients, seed)
    times, jobs = [0.0], []  # a job: client, start, finish, staleness, step
    for _ in range(steps):
        step = next(arrivals)
        for k, stale in zip(step.clients.tolist(), step.staleness.tolist(), strict=True):
            start = times[-1 - stale]
            jobs.append((k, start, start + pace[k], stale, step.time))
        times.append(step.time)
    return _timeline(clients, times, jobs, schedule.buffer)


def _timeline(clients: int, times: list[float], jobs: list[Any], buffer: int) -> Diagram:
    """The picture of `asynchronous`."""
    left, top, lane = 106, 92, 40
    bottom = top + lane * clients

    def at(time: float) -> float:
        return round(left + (WIDTH - 28 - left) * time / times[-1], 1)

    def when(time: float) -> float:
        return round(90 * time / times[-1], 1)

    def appears(cls: str, time: float) -> str:
        start = when(time)
        return _moves(cls, "opacity", f"0%:0 {start}%:0 {start + 1}%:1 100%:1")

    body, motion = [_card(4, 4, WIDTH - 8, 64), _text(16, 41, "server", "start", "name")], []
    for k, free in {k: waits for k, *_, waits in jobs}.items():  # still at it when the picture ends
        if free < times[-1]:
            box = _rect(at(free) + 2, top + lane * k + 6, at(times[-1]) - at(free) - 2, lane - 12)
            rest = _group("other faint", box)
            body.append(_group(f"r{k}", rest))
            motion.append(appears(f"r{k}", free))
    body += [_text(16, top + lane * k + 25, f"client {k + 1}", "start") for k in range(clients)]
    for version, time in enumerate(times):
        rule = _path(f"M{at(time)} 58V{bottom}", "line dash")
        body.append(_group(f"shared s{version}", rule, _circle(at(time), 36, f"w^{version}")))
        motion.append(appears(f"s{version}", time) if version else "")
    for n, (k, start, finish, stale, waits) in enumerate(jobs):
        y, x, end = top + lane * k, at(start), at(finish)
        bar = _rect(x + 2, y + 6, end - x - 4, lane - 12, 4, f"box j{n}")
        wait, dot = (
            _path(f"M{end} {y + lane / 2:g}H{at(waits)}"),
            _disc(end, y + lane / 2, 6, "tip"),
        )
        said = _text((x + end) / 2, y + lane / 2 + 5, f"{stale}") if end - x > 26 else ""
        body += [_group("other", bar), _group(f"shared a{n}", wait, dot, said)]
        grow = f"0%:scaleX(0) {when(start)}%:scaleX(0) {when(finish)}%:scaleX(1) 100%:scaleX(1)"
        motion += [_moves(f"j{n}", "transform", grow, origin="left"), appears(f"a{n}", finish)]
    comes = f"has come in; with {buffer} of them the server steps"
    body += [
        _group("shared", _disc(18, bottom + 17, 6, "tip")), _text(33, bottom + 22, comes, "start"),
        _group("other", _rect(10, bottom + 31, 16, 16)),
        _text(33, bottom + 44, "trains; the number: server steps missed", "start"),
    ]  # fmt: skip
    worst = max(stale for *_, stale, _ in jobs)
    return Diagram(
        "".join(body),
        bottom + 56,
        f"An asynchronous server as a time line. {clients} clients train side by side, each at its "
        f"own pace, drawn as bars of different length. As soon as {buffer} trained models have "
        f"come in, the server makes its next model from them, {len(times) - 1} times in this "
        f"picture, and only these clients start again. A slow client misses up to {worst} "
        f"step{'s' * (worst != 1)} of the server while it trains.",
        "".join(motion),
    )


def transfer() -> Diagram:
    """From a source federation to a target: what was learned by many helps one with few data."""
    body = [_card(4, 4, 250, 322), _text(20, 30, "source federation", "start", "name")]
    body += [_bar(129, 44, "body", "shared"), _text(129, 98, "learned together")]
    for x in (46, 129, 212):
        body += [_down(x - 10, 110, 150), _up(x + 10, 150, 110), _card(x - 36, 154, 72, 134)]
        body += [_bar(x, 166, "", "own", 52), _bar(x, 202, "", "shared", 52), _drum(x, 260, "")]
    body += [_text(129, 311, "many clients, many data")]
    body += [_card(304, 4, 152, 322), _text(320, 30, "target", "start", "name")]
    body += [_bar(380, 166, "head", "own"), _bar(380, 202, "body", "shared")]
    body += [_drum(380, 274, "few data", size=0.7), _arrow((380, 260), (380, 236), "ink")]
    body += [_arrow((190, 60), (322, 208), "shared", wide=True)]
    body += _key(352, "the body is handed over", "heads stay")
    return Diagram(
        "".join(body),
        370,
        "Transfer. On the left a source federation of three clients with many data trains a common "
        "body, under heads of their own. On the right a target with few data takes the body over, "
        "puts a head of its own on it and trains that. No data go from left to right.",
    )


def secure_aggregation() -> Diagram:
    """Masks that cancel: the server adds up what it cannot read, and gets the right sum."""
    body = [_server(_circle(220, 35, "w"), _text(246, 40, "mean of what lies behind", "start"))]
    signs = ((("+", "12"), ("+", "13")), (("-", "12"), ("+", "23")), (("-", "13"), ("-", "23")))
    for k, (x, masks) in enumerate(zip(CENTRES, signs, strict=True), 1):
        body += [
            _up(x, 150, 70),
            _noise(x, 94, k),
            _client(x, 154, 256, f"client {k}"),
            _circle(x, 188, f"w_{k}"),
            *(
                _group(
                    "own",
                    _rect(x - 44, 220 + 38 * i, 88, 30),
                    _text(x, 240 + 38 * i, f"{'−' if sign == '-' else '+'} $s_{pair}$"),
                )
                for i, (sign, pair) in enumerate(masks)
            ),
            _arrow((x, 318), (x, 298), "ink"),
            _drum(x, 334),
        ]
    body += [
        _text(230, 434, "Every two clients share a mask. One adds it,"),
        _text(230, 456, "the other subtracts it: the sum has none left."),
    ]
    return Diagram(
        "".join(body),
        470,
        "Secure aggregation. Three clients have trained models w1, w2 and w3. Every two of them "
        "share a random mask: client 1 adds s12 and s13 to its model, client 2 subtracts s12 and "
        "adds s23, client 3 subtracts s13 and s23. What goes up looks like noise, but in the sum "
        "that the server forms each mask meets its opposite, and the mean of the models is left.",
    )


# --- what they are drawn with --------------------------------------------------------------------

_STYLE = re.sub(
    r"\s*\n\s*",
    "",
    """
.fl-diagram{color:var(--pst-color-text-base,#1f2328);--paper:var(--fl-paper);
  font:15px var(--pst-font-family-base,system-ui,sans-serif);background:var(--paper);display:block}
.fl-diagram text{fill:currentColor;text-anchor:middle}
.fl-diagram .start{text-anchor:start}
.fl-diagram .name{font-weight:600}
.fl-diagram .m{font:italic 20px "STIX Two Text","Latin Modern Roman","Times New Roman",serif}
.fl-diagram .s{font-size:15px}
.fl-diagram .place{fill:currentColor;fill-opacity:.04;stroke:currentColor;stroke-opacity:.3}
.fl-diagram .shared{--c:var(--fl-blue)}
.fl-diagram .own{--c:var(--fl-orange)}
.fl-diagram .other{--c:var(--fl-green)}
.fl-diagram .ink{--c:var(--fl-grey)}
.fl-diagram .box{fill:color-mix(in srgb,var(--c) 20%,var(--paper));stroke:var(--c);stroke-width:2}
.fl-diagram .line{fill:none;stroke:var(--c);stroke-width:2.2;stroke-linecap:round}
.fl-diagram .wide{stroke-width:5}
.fl-diagram .thin{stroke-width:1.3}
.fl-diagram .dash{stroke-dasharray:2 5}
.fl-diagram .tip,.fl-diagram .dot{fill:var(--c)}
.fl-diagram .dot{opacity:0}
.fl-diagram .ring{fill:currentColor;fill-opacity:.05;stroke:currentColor;stroke-opacity:.25}
.fl-diagram .step{fill:var(--paper);stroke:currentColor}
.fl-diagram .lit{fill:var(--c);fill-opacity:.45;opacity:0}
.fl-diagram .faint{opacity:.4}
.fl-motion:has(:checked) .fl-diagram *{animation:none}
@media print{.fl-motion label{display:none}}
@media (prefers-reduced-motion:reduce){.fl-motion label{display:none}}
""",
).strip()
_STYLE = re.sub(
    r"--fl-(\w+)", lambda m: f"{m[0]},{PALETTE.get(m[1], '#fff')}", _STYLE
)  # the colours where there is no page around the drawing
_MOVING = "@media screen and (prefers-reduced-motion:no-preference)"


def _moves(
    cls: str, what: str, frames: str, shown: tuple[int, int] | None = None, origin: str = "center"
) -> str:
    """Keyframes for the parts of a class: "0%:scale(1) 50%:scale(2)"; seen only while shown.

    KEY stands for the diagram, whose movements must not be those of another one on the page.
    """
    stops = [f.partition(":") for f in frames.split()]
    rules = "".join(f"{at}{{{what}:{value}}}" for at, _, value in stops)
    if shown:
        a, b = shown
        rules += f"{max(a - 1, 0)}%,{b + 1}%,100%{{opacity:0}}{a + 1}%,{b}%{{opacity:1}}"
    return (
        f"@keyframes KEY-{cls}{{{rules}}}.KEY .{cls}{{animation:KEY-{cls} {ROUND:g}s "
        f"linear infinite;transform-box:fill-box;transform-origin:{origin}}}"
    )


def _group(kind: str, *parts: str) -> str:
    return f'<g class="{kind}">{"".join(parts)}</g>'


def _disc(x: float, y: float, r: float, cls: str = "box") -> str:
    return f'<circle class="{cls}" cx="{x:g}" cy="{y:g}" r="{r:g}"/>'


def _rect(x: float, y: float, width: float, height: float, rx: float = 3, cls: str = "box") -> str:
    size = f'width="{width:g}" height="{height:g}" rx="{rx:g}"'
    return f'<rect class="{cls}" x="{x:g}" y="{y:g}" {size}/>'


def _path(d: str, cls: str = "line") -> str:
    return f'<path class="{cls}" d="{d}"/>'


def _text(x: float, y: float, words: str, *classes: str) -> str:
    """A line of text; between dollar signs a letter, perhaps with a sign below (_) or above (^)."""
    pieces = "".join(_maths(p) if i % 2 else escape(p) for i, p in enumerate(words.split("$")))
    cls = f' class="{" ".join(classes)}"' if classes else ""
    return f'<text x="{x:g}" y="{y:g}"{cls}>{pieces}</text>'


def _maths(formula: str) -> str:
    letter, mark, small = re.fullmatch(r"([^_^]+)([_^]?)(.*)", formula).groups()  # type: ignore[union-attr]
    shift = {"_": 4, "^": -8, "": 0}[mark]
    below = f'<tspan class="m s" dy="{shift}">{small}</tspan><tspan dy="{-shift}">\u200b</tspan>'
    return f'<tspan class="m">{letter}</tspan>{below if mark else ""}'


def _card(x: float, y: float, width: float, height: float) -> str:
    return _rect(x, y, width, height, 8, "place")


def _server(*inside: str, height: float = 62) -> str:
    name = _text(20, 4 + height / 2 + 5, "server", "start", "name")
    return _card(4, 4, WIDTH - 8, height) + name + "".join(inside)


def _client(x: float, y: float, height: float, name: str, width: float = 136) -> str:
    return _card(x - width / 2, y, width, height) + _text(x, y + height - 12, name, "name")


def _circle(
    x: float, y: float, letter: str, r: float = 20, kind: str = "shared", cls: str = "box"
) -> str:
    """A shared model."""
    return _group(kind, _disc(x, y, r, cls), _text(x, y + 6, f"${letter}$"))


def _square(x: float, y: float, letter: str, r: float = 18) -> str:
    """A personal model."""
    shape = _rect(x - r, y - r, 2 * r, 2 * r, 4)
    return _group("own", shape, _text(x, y + 6, f"${letter}$"))


def _bar(x: float, y: float, name: str, kind: str, width: float = 112) -> str:
    """A layer: round ends if shared, square ones if personal."""
    corner = 15 if kind == "shared" else 3
    shape = _rect(x - width / 2, y, width, 30, corner)
    return _group(kind, shape, _text(x, y + 20, name) if name else "")


def _bars(x: float, y: float, names: Sequence[str], own: dict[str, bool]) -> list[str]:
    """Layers, the last one on top."""
    kinds = ["own" if own[name] else "shared" for name in reversed(names)]
    return [_bar(x, y + 36 * i, n, kind)
            for i, (n, kind) in enumerate(zip(reversed(names), kinds, strict=True))]  # fmt: skip


def _drum(x: float, y: float, name: str = "data", kind: str = "ink", size: float = 1.0) -> str:
    """Data, with their name below."""
    a, h = 19 * size, 13 * size
    shape = (
        _path(f"M{x - a:g} {y - h:g}v{2 * h:g}a{a:g} 6 0 0 0 {2 * a:g} 0v{-2 * h:g}", "box")
        + f'<ellipse class="box" cx="{x:g}" cy="{y - h:g}" rx="{a:g}" ry="6"/>'
    )
    return _group(kind, shape, _text(x, y + h + 23, name) if name else "")


def _arrow(
    a: tuple[float, float],
    b: tuple[float, float],
    kind: str,
    gap: float = 0,
    wide: bool = False,
    dashed: bool = False,
) -> str:
    """From a, or `gap` behind it, to b."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = (dx * dx + dy * dy) ** 0.5
    ux, uy = dx / length, dy / length
    size = 11 if wide else 8
    x, y = b[0] - ux * size, b[1] - uy * size
    tip = (
        f"M{b[0]:g} {b[1]:g}L{x - uy * size * 0.6:.1f} {y + ux * size * 0.6:.1f}"
        f"L{x + uy * size * 0.6:.1f} {y - ux * size * 0.6:.1f}z"
    )
    start = f"M{a[0] + ux * gap:.1f} {a[1] + uy * gap:.1f}"
    cls = "line dash" if dashed else "line wide" if wide else "line"
    return _group(kind, _path(f"{start}L{x:.1f} {y:.1f}", cls), _path(tip, "tip"))


def _down(x: float, a: float, b: float) -> str:
    return _arrow((x, a), (x, b), "shared")


def _up(x: float, a: float, b: float) -> str:
    return _arrow((x, a), (x, b), "shared")


def _spring(x: float, a: float, b: float) -> str:
    turns, step = 5, (b - a) / 12
    zigzag = "".join(
        f"L{x + (9 if i % 2 else -9):g} {a + step * (i + 1.5):.1f}" for i in range(2 * turns)
    )
    return _group("own", _path(f"M{x:g} {a:g}{zigzag}L{x:g} {b:g}"))


def _cross(x: float, y: float) -> str:
    return _group("ink", _path(f"M{x - 7} {y - 7}l14 14m0 -14l-14 14"))


def _badge(number: int, x: float, y: float) -> str:
    """The number of a step, lit while it is its turn."""
    rings = _disc(x, y, 11, "step") + _disc(x, y, 11, f"lit b{number}")
    return _group("other", rings, _text(x, y + 5, str(number)))


def _histogram(x: float, y: float, heights: Sequence[float], kind: str, size: float = 1.0) -> str:
    """A prediction: how likely each class is."""
    step = 10 * size
    left = x - step * len(heights) / 2
    bars = "".join(
        _rect(left + step * i, y + (16 - h) * size, step - 3, h * size, 0)
        for i, h in enumerate(heights)
    )
    return _group(kind, bars)


def _network(x: float, y: float, widths: Sequence[int]) -> str:
    """A network as layers of dots joined by lines, input at the bottom."""
    rise = 72 / (len(widths) - 1)
    rows = [
        [(x + (i - (n - 1) / 2) * 21, y + 36 - rise * r) for i in range(n)]
        for r, n in enumerate(widths)
    ]
    lines = "".join(
        f"M{a[0]:g} {a[1]:g}L{b[0]:g} {b[1]:g}"
        for low, high in zip(rows, rows[1:], strict=False) for a in low for b in high
    )  # fmt: skip
    dots = "".join(_disc(a, b, 6) for row in rows for a, b in row)
    return _group("own", _path(lines, "line thin"), dots)


def _table(x: float, y: float, items: int, touched: Iterable[int], step: float) -> str:
    """A column of three numbers for every item; the touched ones are filled."""
    left, cell, touched = x - step * items / 2, min(step - 3, 13), set(touched)

    def columns(which: Iterable[int]) -> str:
        corners = (
            (left + step * i + (step - cell) / 2, y + 14 * j) for i in which for j in range(3)
        )
        return "".join(f"M{a:g} {b:g}h{cell:g}v11h-{cell:g}z" for a, b in corners)

    rest = sorted(set(range(items)) - touched)
    filled, empty = (
        _path(columns(sorted(touched)), "box thin"),
        _path(columns(rest), "line thin faint"),
    )
    return _group("shared", filled, empty)


def _noise(x: float, y: float, key: int) -> str:
    """A message that looks like noise: cells, half of them filled, by lot."""
    drawn = stream("masks", key).random(35) < 0.5
    corners = ((x - 24.5 + 7 * (i % 7), y + 7 * (i // 7)) for i in range(35) if drawn[i])
    cells = "".join(f"M{a:g} {b:g}h7v7h-7z" for a, b in corners)
    frame = f'<rect class="step" x="{x - 26:g}" y="{y - 2:g}" width="52" height="39"/>'
    return _group("ink", frame, _path(cells, "tip"))


def _key(y: float, shared: str, own: str) -> list[str]:
    """What blue and orange mean here."""
    return [
        _group("shared", _disc(18, y - 5, 8)), _text(33, y, shared, "start"),
        _group("own", _rect(238, y - 13, 16, 16)), _text(262, y, own, "start"),
    ]  # fmt: skip


def _listed(names: Sequence[str]) -> str:
    """a, b and c; nothing, if there is nothing."""
    if not names:
        return "nothing"
    return ", ".join(names[:-1]) + (" and " if names[1:] else "") + names[-1]
