"""The simulation: the server, its clients, and what they send each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .algorithms.base import Cohort, FedAvg
from .data import Federation
from .model import Model, Score
from .randomness import torch_stream
from .schedule import Arrivals, Schedule, Synchronous
from .states import State, leaves, tree
from .workers import Workers, share_out


class Diverged(ArithmeticError):
    """Training left the range of floating-point numbers."""


@dataclass(repr=False)
class History:
    """What a simulation returns. Every score is that of a client's model on its own test data.

    rounds, time: server steps done at each evaluation, and the simulated clock then (1 is the
        median client's time for a round).
    before, after: (clients,) per evaluation. `before`: the model as the client receives it;
        `after`: once the client has made it its own. Where nothing is personal they are the same.
    sent_up, sent_down: numbers sent so far by all clients and to all clients.
    held_out: clients that took no part in training; they joined for the evaluation only.
    groups: the final states of the servers and the clients, one `Group` per architecture.
    """

    algorithm: FedAvg
    score: Score
    clients: tuple[str, ...]
    held_out: tuple[int, ...]
    rounds: list[int] = field(default_factory=list)
    time: list[float] = field(default_factory=list)
    before: list[Tensor] = field(default_factory=list)
    after: list[Tensor] = field(default_factory=list)
    sent_up: list[int] = field(default_factory=list)
    sent_down: list[int] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)

    @property
    def trained(self) -> list[int]:
        """The clients that were there for training."""
        return [k for k in range(len(self.clients)) if k not in set(self.held_out)]

    @property
    def mean(self) -> Tensor:
        """Score of the average client after personalisation, (evaluations,)."""
        return torch.stack(self.after)[:, self.trained].mean(1)

    @property
    def mean_before(self) -> Tensor:
        """Score of the average client before personalisation, (evaluations,)."""
        return torch.stack(self.before)[:, self.trained].mean(1)

    @property
    def mean_held_out(self) -> Tensor:
        """Score of the average held-out client, (evaluations,); NaN where none was held out."""
        return torch.stack(self.after)[:, list(self.held_out)].mean(1)

    def worst(self, fraction: float = 0.1) -> Tensor:
        """Mean score of the worst-served clients, (evaluations,); of one client at least."""
        if not 0 < fraction <= 1:
            raise ValueError(f"expected a fraction in (0, 1], got {fraction}")
        scores = torch.stack(self.after)[:, self.trained]
        count = max(1, round(fraction * scores.shape[1]))
        return scores.sort(1, descending=not self.score.higher_is_better).values[:, :count].mean(1)

    def table(self) -> Any:
        """One line per evaluation, as a pandas DataFrame."""
        import pandas

        name = self.score.name
        columns = {
            "round": self.rounds,
            "time": self.time,
            f"{name} before": self.mean_before.tolist(),
            name: self.mean.tolist(),
            "worst tenth": self.worst().tolist(),
            "held out": self.mean_held_out.tolist(),
            "sent up": self.sent_up,
            "sent down": self.sent_down,
        }
        table = pandas.DataFrame(columns).set_index("round")
        return table if self.held_out else table.drop(columns="held out")

    def __repr__(self) -> str:
        last = self.table().iloc[[0, -1] if len(self.rounds) > 1 else [0]] if self.rounds else ""
        return f"{self.algorithm}\n{last}"

    def _repr_html_(self) -> str:
        return self.table().to_html(float_format="{:.3f}".format)


@dataclass
class Group:
    """The clients that share one architecture: what they keep, and what their server knows."""

    model: Model
    members: Tensor  # (members,) client numbers, ascending
    server: State
    kept: State  # what clients keep; row 0 belongs to all that have not trained yet
    place: Tensor  # (members,) in which row of `kept`
    past: list[State]  # what the server knew; past[-1 - s] is s server steps old

    @classmethod
    def start(cls, algorithm: FedAvg, model: Model, members: Sequence[int], seed: int) -> Group:
        """Before the first round."""
        server, client = algorithm.init(model, seed)
        rows = torch.as_tensor(sorted(members))
        kept = tree(lambda v: v[None], client)
        return cls(model, rows, server, kept, torch.zeros_like(rows), [server])

    def go_on(self, old: Group) -> Group:
        """The states of an earlier run, for this one. Raises ValueError where they do not fit."""
        shapes = [
            ([v.shape for v in leaves(g.server)], [v.shape[1:] for v in leaves(g.kept)])
            for g in (self, old)
        ]
        if shapes[0] != shapes[1] or not torch.equal(self.members, old.members):
            raise ValueError(
                "expected a run of the same algorithm, networks and clients to start from, but "
                f"its states have the shapes {shapes[1]} and not {shapes[0]}"
            )
        kept, place = tree(torch.clone, old.kept), old.place.clone()
        return replace(self, server=old.server, kept=kept, place=place, past=[old.server])

    @property
    def clients(self) -> State:
        """What all clients keep, every tensor (members, ...)."""
        return self.states(self.members)

    @property
    def seen(self) -> Tensor:
        """Who has trained, (members,) bool."""
        return self.place > 0

    def rows(self, clients: Tensor) -> Tensor:
        """Where among the members these clients are."""
        return torch.searchsorted(self.members, clients)

    def states(self, clients: Tensor) -> State:
        """What these clients keep, every tensor (clients, ...)."""
        place = self.place[self.rows(clients)]
        return tree(lambda v: v[place.to(v.device)], self.kept)

    def keep(self, clients: Tensor, states: State) -> None:
        """Store what these clients keep from now on."""
        rows = self.rows(clients)
        new = rows[self.place[rows] == 0]
        first = int(self.place.max()) + 1
        self.place[new] = torch.arange(first, first + len(new))
        place = self.place[rows]

        def store(v: Tensor, rows: Tensor) -> Tensor:
            more = v.new_empty(first + len(new) - len(v), *v.shape[1:])
            v = torch.cat([v, more]) if len(more) else v
            return v.index_copy_(0, place.to(v.device), rows)

        self.kept = tree(store, self.kept, states)

    def messages(self, algorithm: FedAvg, clients: Tensor, staleness: Tensor) -> State:
        """What these clients were sent, so many server steps ago: every tensor (clients, ...)."""
        if not staleness.any():
            return algorithm.address(self.model, self.server, clients)
        each = zip(clients, staleness.tolist(), strict=True)
        rows = [algorithm.address(self.model, self.past[-1 - s], k[None]) for k, s in each]
        return tree(lambda *parts: torch.cat(parts), *rows)


def simulate(
    algorithm: FedAvg,
    model: Model | Sequence[tuple[Model, Sequence[int]]],
    federation: Federation,
    rounds: int = 50,
    schedule: Schedule = Synchronous(),
    seed: int = 0,
    held_out: Iterable[int] = (),
    start: History | None = None,
    evaluate_every: int | None = None,
    device: str | torch.device | None = None,
    block: int = 500,
    threads: int = 2,
    checkpoint: str | os.PathLike | None = None,
    progress: bool = True,
    report: Callable[[History], None] = lambda history: None,
) -> History:
    """Run a federated algorithm, and score every client's own model on its own test data.

    model: one Model for all clients, or [(model, client numbers), ...] where architectures differ.
    held_out: clients that take no part in training and join for each evaluation.
    start: begin with the states that another run of this algorithm, on the same clients and
        networks but perhaps other data, has ended with. Rounds are counted anew.
    evaluate_every: rounds between evaluations; by default only the last round is evaluated.
    device: where to compute; by default where the data are.
    block: how many clients to compute at once; fewer need less memory and give the same numbers.
    threads: how many compute at the same time: blocks of clients where the network is stacked,
        inside torch's operations where clients come one after the other.
    checkpoint: a file to save to at every evaluation; where it exists, the run goes on from there.
    progress: show a bar once a run takes longer than two seconds.
    report: called with the History after every evaluation.

    Raises ValueError where clients are asked for that do not exist, or labels lie outside the
    network's outputs; Diverged where training leaves the floating-point numbers (which client,
    which round).
    """
    counts = {
        "rounds": rounds,
        "evaluate_every": evaluate_every,
        "block": block,
        "threads": threads,
    }
    for what, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"expected {what} of at least 1, got {count}")
    if device is not None:
        federation = federation.to(device)
    pairs = [(model, range(len(federation)))] if isinstance(model, Model) else list(model)
    held = _client_numbers(held_out, federation, "held_out")
    _check_groups(pairs, federation)
    for network, _ in pairs:
        network.to(federation.train.x.device)
        _check_outputs(network, federation)
    participants = torch.tensor([k for k in range(len(federation)) if k not in set(held)])
    if not len(participants):
        raise ValueError("expected at least one client to train, but all are held out")
    workers = Workers(threads, [network for network, _ in pairs])
    everyone = Data(algorithm, federation, seed, block, len(participants), workers)
    trainers, up, down = everyone, 0, 0
    groups = [Group.start(algorithm, network, members, seed) for network, members in pairs]
    if start is not None:
        groups = [group.go_on(old) for group, old in zip(groups, start.groups, strict=True)]
    if algorithm.pooled:
        if len(pairs) > 1:
            raise ValueError(f"expected one network where all data are pooled, got {len(pairs)}")
        pool = federation.select(participants).pool()
        trainers = Data(algorithm, pool, seed, block, 1, workers)
        up = pool.train.x.numel() + pool.train.y.numel()
        down = _count(algorithm.address(groups[0].model, groups[0].server, participants))
        participants = torch.tensor([0])
    history = History(algorithm, pairs[0][0].example_score, federation.clients, held, groups=groups)
    networks = [({n: tuple(s) for n, s in m.shapes.items()}, list(members)) for m, members in pairs]
    settings = repr(
        (algorithm, rounds, schedule, seed, held, evaluate_every, repr(federation), networks)
    )
    done = 0
    if checkpoint is not None and Path(checkpoint).exists():
        done, up, down = _load(checkpoint, settings, history)
        groups = history.groups
    bar = tqdm(
        total=rounds,
        initial=done,
        delay=2,
        leave=False,
        desc=algorithm.name,
        unit="round",
        **({} if progress else {"disable": True}),  # by default as TQDM_DISABLE says
    )
    with bar, torch.no_grad(), workers:
        for round, arrivals in enumerate(schedule.arrivals(len(participants), seed), start=1):
            if round > rounds:
                break
            if round <= done:
                continue  # before the checkpoint; the schedule is replayed, nothing else
            arrivals = arrivals._replace(clients=participants[arrivals.clients])
            sent = run_round(groups, trainers, arrivals, round)
            if not algorithm.pooled:
                up, down = up + sent[0], down + sent[1]
            bar.update()
            if round == rounds or (evaluate_every and round % evaluate_every == 0):
                before, after = score_clients(groups, everyone, round)
                history.rounds.append(round)
                history.time.append(float(arrivals.time))
                history.sent_up.append(up)
                history.sent_down.append(down)
                history.before.append(before)
                history.after.append(after)
                if checkpoint is not None:
                    _save(checkpoint, settings, history, (round, up, down))
                report(history)
        for group in groups:
            finish(group, everyone, rounds)
    return history


@dataclass(frozen=True)
class Data:
    """What a run computes with, apart from the states: fixed from its first round to its last."""

    algorithm: FedAvg
    federation: Federation
    seed: int
    block: int
    population: int  # how many clients take part in training
    workers: Workers

    def local(self, clients: Tensor, round: int) -> Any:
        """The local data of some clients in one round."""
        a = self.algorithm
        return self.federation.local(clients, a.batch_size, a.epochs, self.seed, round, a.steps)

    def map(
        self, f: Callable[[Tensor], Any], clients: Tensor, model: Model, round: int
    ) -> list[tuple[Tensor, Any]]:
        """Blocks of clients, and f(block) of each: (where in `clients`, result)."""
        order = self.federation.sizes[clients].argsort(descending=True, stable=True)
        local = self.local(clients[order], round)
        widths = local.width * model.d
        sizes = [
            size
            for part in share_out(local.counts, widths, self.workers.count)
            for size in _portions(part, self.block)
        ]
        places = list(order.split(sizes))
        with self.workers.reproducible(self.seed, round):
            return list(zip(places, self.workers.map(f, [clients[p] for p in places]), strict=True))


def run_round(groups: list[Group], data: Data, arrivals: Arrivals, round: int) -> tuple[int, int]:
    """One server step of every group -> numbers sent up and down."""
    algorithm, teams = data.algorithm, []
    generator = torch_stream("server noise", data.seed, round)  # one stream for all groups
    for group in groups:
        here = torch.isin(arrivals.clients, group.members)
        if here.any():
            clients = arrivals.clients[here]
            sizes = data.federation.sizes[clients]
            staleness = arrivals.staleness[here]
            teams.append((group, Cohort(clients, sizes, staleness, data.population, generator)))
    uploads, downs = [], 0
    for group, cohort in teams:
        upload, down = train_cohort(group, cohort, data, round)
        uploads.append(upload)
        downs += down
    servers = [
        algorithm.aggregate(group.model, group.server, upload, cohort)
        for (group, cohort), upload in zip(teams, uploads, strict=True)
    ]
    servers = algorithm.exchange([group.model for group, _ in teams], servers, uploads)
    if not all(v.isfinite().all() for v in leaves(tuple(servers)) if v.is_floating_point()):
        raise Diverged(
            f"round {round}: what the server computed from the uploads is no longer finite; "
            "try a smaller learning rate of its optimiser"
        )
    for (group, _), server in zip(teams, servers, strict=True):
        group.server = server
    for group in groups:
        group.past = [*group.past, group.server][-arrivals.keep :]
    sent = zip(teams, uploads, strict=True)
    return sum(algorithm.sent(group.model, upload) for (group, _), upload in sent), downs


def train_cohort(group: Group, cohort: Cohort, data: Data, round: int) -> tuple[State, int]:
    """`client_update` for all of a cohort -> uploads (cohort, ...), and how many numbers it got."""
    staleness = torch.zeros(len(data.federation), dtype=torch.long)
    staleness[cohort.clients] = cohort.staleness

    def work(clients: Tensor) -> tuple[int, State, State]:
        server = group.messages(data.algorithm, clients, staleness[clients])
        upload, kept = data.algorithm.client_update(
            group.model, server, group.states(clients), data.local(clients, round)
        )
        _check_finite((upload, kept), clients, data.federation, round)
        return _count(server), upload, kept

    places, results = zip(*data.map(work, cohort.clients, group.model, round), strict=True)
    downs, uploads, states = zip(*results, strict=True)
    back = torch.cat(places)
    group.keep(cohort.clients[back], tree(lambda *v: torch.cat(v), *states))
    order = back.argsort()
    return tree(lambda *v: torch.cat(v)[order.to(v[0].device)], *uploads), sum(downs)


def finish(group: Group, data: Data, round: int) -> None:
    """Let the clients that have trained do what they do when training is over."""
    members = group.members[group.seen]
    if not leaves(group.kept) or data.algorithm.pooled or not len(members):
        return

    def work(clients: Tensor) -> State:
        server = data.algorithm.address(group.model, group.server, clients)
        local = data.local(clients, round)
        return data.algorithm.finish(group.model, server, group.states(clients), local)

    for place, kept in data.map(work, members, group.model, round):
        group.keep(members[place], kept)


def score_clients(groups: list[Group], data: Data, round: int) -> tuple[Tensor, Tensor]:
    """Test score of every client, before and after personalisation: two of (clients,).

    Clients that have not trained yet are welcomed first; what they learn by it is not kept.
    """
    algorithm = data.algorithm
    scores = torch.full((2, len(data.federation)), float("nan"), dtype=torch.float64)
    for group in groups:
        model = group.model
        newcomers = ~group.seen if leaves(group.kept) else torch.zeros_like(group.seen)

        def work(clients: Tensor, welcome: bool, group: Group = group) -> list[Tensor]:
            model = group.model
            server = algorithm.address(model, group.server, clients)
            local, kept = data.local(clients, round), group.states(clients)
            if welcome:
                kept = algorithm.welcome(model, server, kept, local)
            before = algorithm.receive(model, server, kept)
            after = algorithm.personalise(model, server, kept, local)
            test = data.federation.test.batch(clients)
            outputs = [algorithm.predict(model, w, test.x) for w in (before, after)]
            return [model.example_score(o, test.y, test.mask).double().cpu() for o in outputs]

        for welcome, who in ((False, ~newcomers), (True, newcomers)):
            members = group.members[who]
            if len(members):
                for place, both in data.map(partial(work, welcome=welcome), members, model, round):
                    scores[:, members[place]] = torch.stack(both)
    return scores[0], scores[1]


def _portions(total: int, most: int) -> list[int]:
    """As few numbers of at most so much as add up to the total."""
    return [min(most, total - begun) for begun in range(0, total, most)]


def _count(state: State) -> int:
    """How many numbers."""
    return sum(v.numel() for v in leaves(state))


def _client_numbers(numbers: Iterable[int], federation: Federation, what: str) -> tuple[int, ...]:
    """Sorted, each once. Raises ValueError for numbers that are no clients."""
    found = sorted({int(k) for k in numbers})
    if found and not 0 <= found[0] <= found[-1] < len(federation):
        wrong = [k for k in found if not 0 <= k < len(federation)]
        raise ValueError(
            f"{what} expects client numbers from 0 to {len(federation) - 1}, got {wrong}"
        )
    return tuple(found)


def _check_groups(pairs: Sequence[tuple[Model, Sequence[int]]], federation: Federation) -> None:
    """Every client has exactly one architecture."""
    members = sorted(int(k) for _, numbers in pairs for k in numbers)
    if members != list(range(len(federation))):
        raise ValueError(
            f"expected each of the clients 0 to {len(federation) - 1} in exactly one group, got "
            f"{members if len(members) < 20 else f'{len(members)} numbers'}"
        )


def _check_outputs(model: Model, federation: Federation) -> None:
    """The network takes these examples, and has an output for every label."""
    x = federation.train.x[:2]
    with torch.no_grad():
        output = model(model.init(0).to(x.device), x)
    for y in (federation.train.y, federation.test.y):
        if y.is_floating_point() or output.shape[:-1] != x.shape[:1] or output.shape[-1] < 2:
            continue  # no labels of classes
        wrong = y[(y < 0) | (y >= output.shape[-1])]
        if len(wrong):
            raise ValueError(
                f"expected labels 0 to {output.shape[-1] - 1} for a network with "
                f"{output.shape[-1]} outputs, but there is a label {wrong.flatten()[0]}"
            )


def _check_finite(states: State, clients: Tensor, federation: Federation, round: int) -> None:
    """Raises Diverged at the first client that computed NaN or infinity."""
    for v in leaves(states):
        if v.is_floating_point() and not v.sum().isfinite() and not v.isfinite().all():
            wrong = clients[(~v.isfinite()).reshape(len(v), -1).any(1).cpu()].tolist()
            raise Diverged(
                f"round {round}: the parameters of client {wrong[0]} "
                f"({federation.clients[wrong[0]]}) are no longer finite"
                + (f", nor are those of {len(wrong) - 1} others" if len(wrong) > 1 else "")
                + "; try a smaller learning rate, or standardise the data"
            )


def _save(path: str | os.PathLike, settings: str, history: History, counts: tuple) -> None:
    """Write beside the file first: a run killed while saving loses nothing."""
    kept = [(g.server, g.kept, g.place, g.past) for g in history.groups]
    curves = {name: getattr(history, name) for name in _CURVES}
    beside = Path(f"{os.fspath(path)}.new")
    torch.save({"settings": settings, "counts": counts, "groups": kept, "curves": curves}, beside)
    beside.replace(path)


def _load(path: str | os.PathLike, settings: str, history: History) -> tuple[int, int, int]:
    """Put a saved run back into `history` -> rounds done, numbers sent up and down."""
    saved = torch.load(path, weights_only=True)
    if saved["settings"] != settings:
        raise ValueError(
            f"{os.fspath(path)} is a checkpoint of another run; expected {settings}, "
            f"found {saved['settings']}; give this run a file of its own, or delete that one"
        )
    for group, kept in zip(history.groups, saved["groups"], strict=True):
        group.server, group.kept, group.place, group.past = kept
    for name in _CURVES:
        setattr(history, name, saved["curves"][name])
    return saved["counts"]


_CURVES = ("rounds", "time", "before", "after", "sent_up", "sent_down")
