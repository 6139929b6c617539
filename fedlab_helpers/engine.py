"""The simulation: the server, its clients, and what they send each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import accumulate
from math import isfinite
from operator import itemgetter
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .algorithms.base import Cohort, FedAvg
from .data import Examples, Federation, LocalData
from .history import Group, History, load, save
from .model import Model
from .plan import STEP, share_out
from .randomness import torch_stream
from .schedule import Arrivals, Schedule, Synchronous
from .states import State, leaves, tree
from .workers import Workers

PATIENCE = 2  # seconds until a run shows how far it is
LOOK_AHEAD = 100  # clients whose mini-batches are drawn at once, be it for several rounds
BLOCK = 20 * STEP  # what a step costs in a block of its own, as Python's threads take turns


class Diverged(ArithmeticError):
    """Training left the range of floating-point numbers."""


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
    block: int = 200,
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
    threads: how many blocks of clients are computed at the same time, if the network draws no
        random numbers.
    checkpoint: a file to save to at every evaluation; where it exists, the run goes on from there.
    progress: show a bar once a run takes longer than two seconds.
    report: called with the History after every evaluation.

    Raises ValueError where clients are asked for that do not exist, or labels lie outside the
    network's outputs; Diverged where training leaves the floating-point numbers (which client,
    which round).
    """
    options = (rounds, schedule, held_out, evaluate_every, device, block, threads, progress)
    (history,) = _simulate(
        algorithm, model, [(seed, federation)], *options, start, checkpoint, report
    )
    return history


def repeat(
    algorithm: FedAvg,
    model: Model | Sequence[tuple[Model, Sequence[int]]],
    federation: Federation | Callable[[int], Federation],
    rounds: int = 50,
    seeds: Iterable[int] = range(3),
    schedule: Schedule = Synchronous(),
    held_out: Iterable[int] = (),
    evaluate_every: int | None = None,
    device: str | torch.device | None = None,
    block: int = 200,
    threads: int = 2,
    progress: bool = True,
) -> list[History]:
    """The same simulation with several seeds: what `simulate` gives for each of them, sooner.

    federation: the same for all seeds, or a function of the seed. Else as `simulate`. The clients
    of all runs are computed together where threads can share the network.
    """
    cases = [
        (seed, federation if isinstance(federation, Federation) else federation(seed))
        for seed in seeds
    ]
    options = (rounds, schedule, held_out, evaluate_every, device, block, threads, progress)
    networks = [model] if isinstance(model, Model) else [network for network, _ in model]
    together = all(network.shareable for network in networks) and all(
        type(data).local is Federation.local for _, data in cases
    )
    return [
        history
        for some in ([cases] if together and cases else [[case] for case in cases])
        for history in _simulate(algorithm, model, some, *options)
    ]


def _simulate(
    algorithm: FedAvg,
    model: Model | Sequence[tuple[Model, Sequence[int]]],
    cases: Sequence[tuple[int, Federation]],
    rounds: int,
    schedule: Schedule,
    held_out: Iterable[int],
    evaluate_every: int | None,
    device: str | torch.device | None,
    block: int,
    threads: int,
    progress: bool,
    start: History | None = None,
    checkpoint: str | os.PathLike | None = None,
    report: Callable[[History], None] = lambda history: None,
) -> list[History]:
    """Runs that go through their rounds side by side, one for each seed and federation."""
    counts = {
        "rounds": rounds,
        "evaluate_every": evaluate_every,
        "block": block,
        "threads": threads,
    }
    for what, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"expected {what} of at least 1, got {count}")
    held_out = list(held_out)
    networks = [model] if isinstance(model, Model) else [network for network, _ in model]
    workers = Workers(threads, networks)
    runs = [
        Run.begin(algorithm, model, data if device is None else data.to(device), schedule, seed,
                  held_out, start, block, workers)
        for seed, data in cases
    ]  # fmt: skip
    shared = Together.of([run.trainers for run in runs])
    scored = Together.of([run.data for run in runs]) if algorithm.pooled else shared
    done = 0
    if checkpoint is not None:
        (run,) = runs
        shapes = [
            ({n: tuple(s) for n, s in g.model.shapes.items()}, g.members.tolist())
            for g in run.groups
        ]
        settings = repr(
            (algorithm, rounds, schedule, run.data.seed, run.history.held_out, evaluate_every,
             repr(run.data.federation), shapes)
        )  # fmt: skip
        if Path(checkpoint).exists():
            done, run.up, run.down = load(checkpoint, settings, run.history)
    ticks = counted(rounds, done, algorithm.name, progress)
    with torch.no_grad(), workers, closing(ticks):
        for round, arrivals in zip(ticks, upcoming(runs, shared, rounds), strict=False):
            if round <= done:
                continue  # before the checkpoint; the schedule is replayed, nothing else
            run_round(runs, arrivals, shared, round)
            if round == rounds or (evaluate_every and round % evaluate_every == 0):
                scores = score_clients(runs, scored, round)
                for run, now, both in zip(runs, arrivals, scores, strict=True):
                    run.note(round, now.time, both)
                    if checkpoint is not None:
                        save(checkpoint, settings, run.history, (round, run.up, run.down))
                    report(run.history)
        if not algorithm.pooled:
            finish(runs, scored, rounds)
    return [run.history for run in runs]


def upcoming(runs: list[Run], together: Together, rounds: int) -> Iterator[list[Arrivals]]:
    """The arrivals of all runs, round after round. Where few clients train in a round, several
    rounds are prepared at once.
    """
    done = 0
    while done < rounds:
        some = [[run.next_arrivals() for run in runs]]
        clients = sum(len(now.clients) for now in some[0])
        ahead = LOOK_AHEAD // clients if done else 1  # the first round need not wait for others
        for _ in range(min(ahead, rounds - done) - 1):
            some.append([run.next_arrivals() for run in runs])
        if len(some) > 1 and together.plain and len(runs[0].groups) == 1:
            coming = [{i: now.clients for i, now in enumerate(arrivals)} for arrivals in some]
            together.prepare(coming, runs[0].groups[0].model, done + 1)
        yield from some
        done += len(some)


def counted(rounds: int, done: int, name: str, progress: bool) -> Generator[int, None, None]:
    """1, 2, ..., rounds; with a bar from the third second on. (A notebook's bar takes a hundredth
    of a second to make, longer than many a run.)
    """
    bar, begin = None, monotonic()
    try:
        for round in range(1, rounds + 1):
            yield round
            if bar is not None:
                bar.update()
            elif progress and done < round < rounds and monotonic() - begin > PATIENCE:
                bar = tqdm(total=rounds, initial=round, desc=name, unit="round", leave=False)
    finally:
        if bar is not None:
            bar.close()


@dataclass(frozen=True)
class Data:
    """What a run computes with, apart from the states: fixed from its first round to its last."""

    algorithm: FedAvg
    federation: Federation
    seed: int
    block: int
    population: int  # how many clients take part in training
    workers: Workers

    def local(self, clients: Tensor, round: int) -> LocalData:
        """The local data of some clients in one round."""
        a = self.algorithm
        return self.federation.local(clients, a.batch_size, a.epochs, self.seed, round, a.steps)


@dataclass(frozen=True)
class Together:
    """The data of several runs of an algorithm as if they were one: a client is (run, number)."""

    runs: tuple[Data, ...]
    train: Examples  # of all runs, one after the other; once where all have the same
    test: Examples
    offsets: Tensor  # (runs,), where the clients of each begin
    known: dict[Any, tuple[list[Crew], Tensor | None]] = field(default_factory=dict)  # `crews`
    ready: dict[tuple[Crew, int], LocalData] = field(default_factory=dict)  # `data`, taken once

    @classmethod
    def of(cls, runs: Sequence[Data]) -> Together:
        """What they train and are scored on."""
        parts = [(run.federation.train, run.federation.test) for run in runs]
        if all(a.shares(b) for pair in parts for a, b in zip(pair, parts[0], strict=True)):
            return cls(tuple(runs), *parts[0], torch.zeros(len(runs), dtype=torch.long))
        counts = torch.tensor([len(run.federation) for run in runs])
        train, test = map(Examples.join, zip(*parts, strict=True))
        return cls(tuple(runs), train, test, counts.cumsum(0) - counts)

    @property
    def plain(self) -> bool:
        """Whether clients have the same examples in all rounds."""
        return all(type(run.federation).local is Federation.local for run in self.runs)

    def places(self, run: Tensor, clients: Tensor) -> Tensor:
        """Where among the examples these clients are. run, clients: (clients,)."""
        return self.offsets[run] + clients

    def local(self, run: Tensor, clients: Tensor, round: int | Tensor) -> LocalData:
        """The local data of some clients in one round, or each in its own."""
        if len(self.runs) == 1 and isinstance(round, int):
            return self.runs[0].local(clients, round)
        a, seeds = self.runs[0].algorithm, torch.tensor([data.seed for data in self.runs])
        key, where = (seeds[run], round), self.places(run, clients)
        return LocalData(self.train, clients, a.batch_size, a.epochs, a.steps, key, where)

    def crews(
        self, asked: dict[int, Tensor], model: Model, round: int
    ) -> tuple[list[Crew], Tensor | None]:
        """These clients of some runs, {run: numbers}, in crews, larger clients first; and what puts
        the rows of all crews in the order in which they were asked, None where they are.
        """
        key = _key(asked, model)
        if key not in self.known:
            self.prepare([asked], model, round)
        return self.known[key]  # most runs ask the same clients again and again

    def prepare(self, coming: Sequence[dict[int, Tensor]], model: Model, first: int) -> None:
        """Crews, and what they train on, for those asked in the rounds from `first` on."""
        if len(self.known) + len(coming) > LOOK_AHEAD:
            self.known.clear()
            self.ready.clear()
        each = [(n, i, v) for n, asked in enumerate(coming, first) for i, v in asked.items()]
        rounds, runs, numbers = zip(*each, strict=True)
        lengths = [len(v) for v in numbers]
        round, run = (torch.from_numpy(np.repeat(v, lengths)) for v in (rounds, runs))
        data = self.local(run, torch.cat(numbers), round if len(coming) > 1 else first)
        amount = data.sizes if data.batch_size is None else data.counts  # rows, or mini-batches
        order = torch.from_numpy(np.lexsort((-amount.numpy(), round.numpy())))
        data, run = data.take(order), run[order]
        totals = tuple(sum(map(len, asked.values())) for asked in coming)
        parts = data.drawn_together(totals) if len(coming) > 1 else [data]
        order -= torch.from_numpy(np.repeat(np.cumsum(totals) - totals, totals))  # in their round
        arrays = zip(coming, parts, run.split(totals), order.split(totals), strict=True)
        for n, (asked, part, of, places) in enumerate(arrays, first):
            crews = self._crews(asked, part, of, places, model)
            self.known[_key(asked, model)] = [*crews], _order(places)
            self.ready.update({(crew, n): some for crew, some in crews.items()})

    def _crews(
        self, asked: dict[int, Tensor], data: LocalData, run: Tensor, places: Tensor, model: Model
    ) -> dict[Crew, LocalData]:
        """Of one round, larger clients first, and what they train on."""
        if model.backend == "loop":  # nothing is gained by putting clients together
            cut = [1] * len(data)
        else:
            threads, block = self.runs[0].workers.count, self.runs[0].block
            shares = share_out(data.counts.numpy(), data.width * model.d, threads, BLOCK)
            cut = [n for share in shares for n in _portions(share, block)]
        begins = dict(zip(asked, accumulate(map(len, asked.values()), initial=0), strict=False))
        found = {}
        for n, end in zip(cut, accumulate(cut), strict=True):
            some = slice(end - n, end)
            crew = Crew.of(run[some], data.clients[some], places[some], begins)
            found[crew] = data if n == len(data) else data.take(some)
        return found

    def data(self, crew: Crew, round: int) -> LocalData:
        """What a crew trains on in one round."""
        ready = self.ready.pop((crew, round), None)
        return self.local(crew.run, crew.clients, round) if ready is None else ready


@dataclass(frozen=True, eq=False)
class Crew:
    """Clients that compute together, those with more mini-batches first."""

    run: Tensor  # (clients,)
    clients: Tensor  # (clients,), their numbers
    own: dict[int, Tensor]  # where they are among those of each run
    order: Tensor | None  # of all of `own`, one after the other; None where it is that

    @classmethod
    def of(cls, run: Tensor, clients: Tensor, places: Tensor, begins: dict[int, int]) -> Crew:
        """places: where they are among all that were asked. begins: where those of each run begin
        there.
        """
        if len(begins) == 1:
            return cls(run, clients, dict.fromkeys(begins, places), None)
        inside = {i: (run == i).nonzero().flatten() for i in begins}
        own = {i: places[p] - begins[i] for i, p in inside.items() if len(p)}
        return cls(run, clients, own, _order(torch.cat([*inside.values()])))


@dataclass
class Run:
    """A simulation under way."""

    data: Data
    trainers: Data  # what rounds train on: the same, or everybody's examples in one place
    participants: Tensor  # client numbers
    schedule: Iterator[Arrivals]
    history: History
    up: int = 0
    down: int = 0

    @classmethod
    def begin(
        cls,
        algorithm: FedAvg,
        model: Model | Sequence[tuple[Model, Sequence[int]]],
        federation: Federation,
        schedule: Schedule,
        seed: int,
        held_out: Iterable[int],
        start: History | None,
        block: int,
        workers: Workers,
    ) -> Run:
        """Before the first round."""
        pairs = [(model, range(len(federation)))] if isinstance(model, Model) else list(model)
        held = _client_numbers(held_out, federation, "held_out")
        _check_groups(pairs, federation)
        for network, _ in pairs:
            network.to(federation.train.x.device)
            _check_outputs(network, federation)
        participants = torch.tensor([k for k in range(len(federation)) if k not in set(held)])
        if not len(participants):
            raise ValueError("expected at least one client to train, but all are held out")
        groups = [Group.start(algorithm, network, members, seed) for network, members in pairs]
        if start is not None:
            groups = [group.go_on(old) for group, old in zip(groups, start.groups, strict=True)]
        score = pairs[0][0].example_score
        history = History(algorithm, score, federation.clients, held, groups=groups)
        data = Data(algorithm, federation, seed, block, len(participants), workers)
        if not algorithm.pooled:
            arrivals = schedule.arrivals(len(participants), seed)
            return cls(data, data, participants, arrivals, history)
        if len(pairs) > 1:
            raise ValueError(f"expected one network where all data are pooled, got {len(pairs)}")
        pool = federation.select(participants).pool() if held else federation.pool()
        trainers = replace(data, federation=pool, population=1)
        return cls(
            data, trainers, torch.tensor([0]), schedule.arrivals(1, seed), history,
            up=pool.train.x.numel() + pool.train.y.numel(),
            down=_count(algorithm.address(groups[0].model, groups[0].server, participants)),
        )  # fmt: skip

    @property
    def groups(self) -> list[Group]:
        """The states of servers and clients."""
        return self.history.groups

    def next_arrivals(self) -> Arrivals:
        """Whose uploads the server aggregates next."""
        arrivals = next(self.schedule)
        return arrivals._replace(clients=self.participants[arrivals.clients])

    def teams(self, arrivals: Arrivals, round: int) -> list[Team]:
        """The cohort of every group that has arrivals."""
        teams, data = [], self.trainers

        @cache
        def draws() -> torch.Generator:  # one for all groups
            return torch_stream("server noise", data.seed, round)

        for group in self.groups:
            clients, staleness = arrivals.clients, arrivals.staleness
            if len(self.groups) > 1:
                here = torch.isin(clients, group.members)
                clients, staleness = clients[here], staleness[here]
            if len(clients):
                sizes = data.federation.sizes[clients]
                cohort = Cohort(clients, sizes, staleness, data.population, draws)
                teams.append(Team(group, cohort))
        return teams

    def aggregate(self, teams: list[Team], arrivals: Arrivals, round: int) -> None:
        """The server's step."""
        algorithm = self.data.algorithm
        uploads = [team.upload for team in teams]
        servers = [
            algorithm.aggregate(t.group.model, t.group.server, t.upload, t.cohort) for t in teams
        ]
        servers = algorithm.exchange([t.group.model for t in teams], servers, uploads)
        if not all(_finite(v) for v in leaves(tuple(servers))):
            raise Diverged(
                f"round {round}: what the server computed from the uploads is no longer finite; "
                "try a smaller learning rate of its optimiser"
            )
        for team, server in zip(teams, servers, strict=True):
            team.group.server = server
        for group in self.groups:
            group.past = [*group.past, group.server][-arrivals.keep :]
        if not algorithm.pooled:
            self.up += sum(algorithm.sent(t.group.model, t.upload) for t in teams)
            self.down += sum(t.down for t in teams)

    def note(self, round: int, time: float, scores: Tensor) -> None:
        """Add the scores of all clients, before and after personalisation, to the history."""
        self.history.rounds.append(round)
        self.history.time.append(float(time))
        self.history.sent_up.append(self.up)
        self.history.sent_down.append(self.down)
        self.history.before.append(scores[0])
        self.history.after.append(scores[1])


@dataclass
class Team:
    """The clients of a group that train in a round, and what comes of it."""

    group: Group
    cohort: Cohort
    upload: State = ()  # every tensor (cohort, ...)
    down: int = 0  # how many numbers they got


def run_round(runs: list[Run], arrivals: list[Arrivals], together: Together, round: int) -> None:
    """One server step of every run. The clients of all runs train at the same time."""
    teams = [run.teams(now, round) for run, now in zip(runs, arrivals, strict=True)]
    for model in dict.fromkeys(group.model for group in runs[0].groups):
        train_teams(
            {i: team for i, some in enumerate(teams) for team in some if team.group.model is model},
            model, together, round,
        )  # fmt: skip
    for run, some, now in zip(runs, teams, arrivals, strict=True):
        run.aggregate(some, now, round)


def train_teams(teams: dict[int, Team], model: Model, together: Together, round: int) -> None:
    """`client_update` for teams of several runs, {run: team}, with the same network."""
    algorithm = together.runs[0].algorithm

    def work(server: State, client: State, data: LocalData) -> State:
        upload, kept = algorithm.client_update(model, server, client, data)
        down = sum(v[0].numel() for v in leaves(server))
        return upload, kept, torch.full((len(data),), down)

    asked = {i: Asked(t.group, t.cohort.clients, t.cohort.staleness) for i, t in teams.items()}
    for i, (upload, kept, down) in at_clients(work, asked, together, round).items():
        team, names = teams[i], together.runs[i].federation.clients
        _check_finite((upload, kept), team.cohort.clients, names, round)
        team.upload, team.down = upload, int(down.sum())
        team.group.keep(team.cohort.clients, kept)


class Asked(NamedTuple):
    """Clients of a run that have something to do, all with the same network."""

    group: Group
    clients: Tensor  # (clients,) their numbers
    staleness: Tensor  # (clients,) server steps since they received their copy


def at_clients(
    work: Callable[[State, State, LocalData], State],
    asked: dict[int, Asked],
    together: Together,
    round: int,
) -> dict[int, State]:
    """What clients of several runs, {run: those}, compute at the same time -> {run: rows in the
    order of its clients}.

    work: (what some were sent, what they keep, their data) -> State, one row per client.
    """
    if not asked:
        return {}
    data, model = together.runs[0], next(iter(asked.values())).group.model
    crews, order = together.crews({i: some.clients for i, some in asked.items()}, model, round)

    def of_crew(crew: Crew) -> State:
        servers, states = [], []
        for i, places in crew.own.items():
            group, clients, staleness = asked[i]
            clients = clients[places]
            servers.append(group.messages(data.algorithm, clients, staleness[places]))
            states.append(group.states(clients))
        local = together.data(crew, round)
        return work(_in_order(servers, crew.order), _in_order(states, crew.order), local)

    with data.workers.reproducible(data.seed, round):
        rows = data.workers.map(of_crew, crews)
    rows = _in_order(rows, order)
    if len(asked) == 1:
        return dict.fromkeys(asked, rows)
    lengths = [len(some.clients) for some in asked.values()]
    parts = zip(asked, accumulate(lengths), lengths, strict=True)
    return {i: tree(itemgetter(slice(end - n, end)), rows) for i, end, n in parts}


def _key(asked: dict[int, Tensor], model: Model) -> tuple:
    return (model, *((i, numbers.numpy().tobytes()) for i, numbers in asked.items()))


def _order(places: Tensor) -> Tensor | None:
    """What puts rows that are at these places in order; None where they are."""
    in_order = (places.numpy() == np.arange(len(places))).all()
    return None if in_order else places.argsort()


def _in_order(parts: Sequence[State], order: Tensor | None) -> State:
    """The rows of several states, one after the other, in another order."""
    if order is None:
        return tree(lambda *v: v[0] if len(v) == 1 else torch.cat(v), *parts)
    return tree(lambda *v: torch.cat(v).index_select(0, order.to(v[0].device)), *parts)


def score_clients(runs: list[Run], together: Together, round: int) -> list[Tensor]:
    """Test scores of all clients of every run, before and after personalisation: (2, clients) each.

    Clients that have not trained yet are welcomed first; what they learn by it is not kept.
    """
    algorithm = runs[0].data.algorithm
    scores = [
        torch.full((2, len(run.data.federation)), float("nan"), dtype=torch.float64) for run in runs
    ]

    def work(
        model: Model, welcome: bool, server: State, client: State, data: LocalData
    ) -> tuple[Tensor, ...]:
        if welcome:
            client = algorithm.welcome(model, server, client, data)
        before = algorithm.receive(model, server, client)
        after = algorithm.personalise(model, server, client, data)
        test = together.test.batch(data.places)

        def score(w: State) -> Tensor:
            output = algorithm.predict(model, w, test.x)
            return model.example_score(output, test.y, test.mask).double().cpu()

        now = score(before)
        return now, now if _equal(before, after) else score(after)

    for groups in zip(*(run.groups for run in runs), strict=True):
        for welcome in (False, True):
            asked = {}
            for i, group in enumerate(groups):
                new = ~group.seen if leaves(group.kept) else torch.zeros_like(group.seen)
                members = group.members[new == welcome]
                if len(members):
                    asked[i] = Asked(group, members, torch.zeros_like(members))
            some = partial(work, groups[0].model, welcome)
            for i, both in at_clients(some, asked, together, round).items():
                scores[i][:, asked[i].clients] = torch.stack(both)
    return scores


def finish(runs: list[Run], together: Together, round: int) -> None:
    """Let the clients that have trained do what they do when training is over."""
    for groups in zip(*(run.groups for run in runs), strict=True):
        members = [group.members[group.seen] for group in groups]
        asked = {
            i: Asked(group, some, torch.zeros_like(some))
            for i, (group, some) in enumerate(zip(groups, members, strict=True))
            if leaves(group.kept) and len(some)
        }
        work = partial(runs[0].data.algorithm.finish, groups[0].model)
        for i, kept in at_clients(work, asked, together, round).items():
            groups[i].keep(members[i], kept)


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
    x, w = federation.train.x[:2], torch.zeros(1, model.d)
    with torch.no_grad():
        output = model(w.to(next(model.learning.parameters())), x[None])[0]
    for y in (federation.train.y, federation.test.y):
        if y.is_floating_point() or output.shape[:-1] != x.shape[:1] or output.shape[-1] < 2:
            continue  # no labels of classes
        wrong = y[(y < 0) | (y >= output.shape[-1])]
        if len(wrong):
            raise ValueError(
                f"expected labels 0 to {output.shape[-1] - 1} for a network with "
                f"{output.shape[-1]} outputs, but there is a label {wrong.flatten()[0]}"
            )


def _equal(a: State, b: State) -> bool:
    """Whether two states of the same form hold the same numbers."""
    return all(torch.equal(v, u) for v, u in zip(leaves(a), leaves(b), strict=True))


def _finite(v: Tensor) -> bool:
    """Whether there is neither NaN nor infinity. (A finite sum has no such terms.)"""
    return not v.is_floating_point() or isfinite(v.sum()) or bool(v.isfinite().all())


def _check_finite(states: State, clients: Tensor, names: Sequence[str], round: int) -> None:
    """Raises Diverged at the first client that computed NaN or infinity."""
    for v in leaves(states):
        if not _finite(v):
            wrong = (~v.isfinite()).reshape(len(v), -1).any(1).nonzero().flatten().tolist()
            first = int(clients[wrong[0]])
            raise Diverged(
                f"round {round}: the parameters of client {first} ({names[first]}) are no "
                "longer finite"
                + (f", nor are those of {len(wrong) - 1} others" if len(wrong) > 1 else "")
                + "; try a smaller learning rate, or standardise the data"
            )
