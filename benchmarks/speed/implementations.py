"""The implementations that share this environment: ours, the limit, and loops in plain PyTorch.

Each trains a workload for some rounds that are timed, after one and before one that are not, and
returns the seconds that those took and what came of all. (The first round warms up; the last of
`simulate` ends in the evaluation.)
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import limit
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from workloads import Workload, plan

import fedlab_helpers as fl
from fedlab_helpers.plan import layout_of

SPARE = 2  # rounds that are not timed
Result = tuple[float, Any]  # seconds for the timed rounds, what came of all rounds
Rows = list[list[Tensor]]  # for every client of a cohort, the rows of its mini-batches


# --- ours ----------------------------------------------------------------------------------------


def ours(workload: Workload, data: fl.Federation, rounds: int, **options: Any) -> Result:
    """`simulate`, with its defaults. What earlier runs have left in caches is forgotten."""
    layout_of.cache_clear()
    schedule = fl.Synchronous(workload.fraction)
    model = options.pop("model", None) or workload.model()
    a, ended = copy.copy(workload.algorithm), []

    def aggregate(*args: Any) -> Any:
        server = type(a).aggregate(a, *args)
        ended.append(time.perf_counter())
        return server

    object.__setattr__(a, "aggregate", aggregate)  # the end of every round
    history = fl.simulate(a, model, data, rounds + SPARE, schedule, progress=False, **options)
    return ended[-2] - ended[0], history


# --- the limit -----------------------------------------------------------------------------------


def fused(
    workload: Workload, data: fl.Federation, rounds: int, planned: bool = False, threads: int = 2
) -> Result:
    """The kernel, which draws its own mini-batches, or takes the package's (`planned`)."""
    model, a, train = workload.model(), workload.algorithm, data.train
    w, x, y = model.init(0).float(), train.x.float(), train.y
    widths = (x.shape[1], workload.hidden or 0, model.learning.head.out_features)

    def one_round(round: int, clients: Tensor) -> None:
        visits = None
        if planned:
            visits = [torch.cat(rows) for rows in plan(data, a, clients, round)]
        sizes = train.sizes[clients]
        limit.fedavg_round(
            w, x, y, widths, train.starts[clients], sizes, workload.counts(sizes),
            a.batch_size, a.optimiser.lr, round, visits, threads,
        )  # fmt: skip

    return timed(workload, data, rounds, one_round), w


# --- plain PyTorch -------------------------------------------------------------------------------


def timed(
    workload: Workload, data: fl.Federation, rounds: int, one_round: Callable[[int, Tensor], Any]
) -> float:
    """Seconds for all rounds but the first and the last."""
    began = []
    for round, clients in zip(range(1, rounds + SPARE + 1), workload.cohorts(data), strict=False):
        began.append(time.perf_counter())
        one_round(round, clients)
    return began[-1] - began[1]


def flat(network: nn.Module) -> Tensor:
    """All parameters of a network as one vector, of which they become views."""
    w = torch.cat([p.detach().flatten() for p in network.parameters()])
    pieces = w.split([p.numel() for p in network.parameters()])
    for p, piece in zip(network.parameters(), pieces, strict=True):
        p.data = piece.view_as(p)
    return w


def mini_batches(start: int, size: int, a: fl.FedAvg) -> Iterator[Tensor]:
    """The rows of a client's mini-batches: permutations, cut up."""
    done, most = 0, a.steps if a.steps is not None else -(-size // a.batch_size) * a.epochs
    while done < most:
        for rows in torch.randperm(size).add_(start).split(a.batch_size)[: most - done]:
            yield rows
            done += 1


def plain(workload: Workload, data: fl.Federation, rounds: int, planned: bool = False) -> Result:
    """A loop over clients, tuned: no DataLoader, no copies of the network, one vector to average.

    planned: with the package's mini-batches instead of its own.
    """
    torch.set_num_threads(workload.threads)
    network, a, train = workload.network(), workload.algorithm, data.train
    w = flat(network)
    server = workload.model().init(0)
    parameters, lr = list(network.parameters()), a.optimiser.lr
    loss = nn.functional.cross_entropy

    def one_round(round: int, clients: Tensor) -> None:
        total = torch.zeros_like(server)
        weights = (train.sizes[clients] / train.sizes[clients].sum()).tolist()
        batches: Sequence = (
            plan(data, a, clients, round)
            if planned
            else [
                mini_batches(start, size, a)
                for start, size in zip(
                    train.starts[clients].tolist(), train.sizes[clients].tolist(), strict=True
                )
            ]
        )
        for weight, steps in zip(weights, batches, strict=True):
            w.copy_(server)
            for rows in steps:
                x, y = train.x.index_select(0, rows), train.y.index_select(0, rows)
                gradients = torch.autograd.grad(loss(network(x), y), parameters)
                with torch.no_grad():
                    torch._foreach_add_(parameters, gradients, alpha=-lr)
            total.add_(w, alpha=weight)
        server.copy_(total)

    return timed(workload, data, rounds, one_round), server


def naive(workload: Workload, data: fl.Federation, rounds: int) -> Result:
    """The loop of most tutorials: a DataLoader, a deep copy and an optimiser for every client."""
    torch.set_num_threads(workload.threads)
    a, train = workload.algorithm, data.train
    server, start = workload.network(), workload.model().init(0)
    nn.utils.vector_to_parameters(start, server.parameters())
    sets = [torch.utils.data.TensorDataset(*train[k]) for k in range(len(train))]

    def one_round(round: int, clients: Tensor) -> None:
        states = []
        for k in clients.tolist():
            network = copy.deepcopy(server)
            optimiser = torch.optim.SGD(network.parameters(), lr=a.optimiser.lr)
            loader = torch.utils.data.DataLoader(sets[k], a.batch_size, shuffle=True)
            done, most = 0, int(workload.counts(train.sizes[k, None]))
            while done < most:
                for x, y in loader:
                    optimiser.zero_grad()
                    F.cross_entropy(network(x), y).backward()
                    optimiser.step()
                    done += 1
                    if done == most:
                        break
            states.append(network.state_dict())
        weights = train.sizes[clients] / train.sizes[clients].sum()
        mean = {
            name: sum(share * state[name] for share, state in zip(weights, states, strict=True))
            for name in states[0]
        }
        server.load_state_dict(mean)

    seconds = timed(workload, data, rounds, one_round)
    return seconds, nn.utils.parameters_to_vector(server.parameters()).detach()


# --- the recommender in plain PyTorch ------------------------------------------------------------


def plain_recommender(
    workload: Workload, data: fl.Federation, rounds: int, planned: bool = False
) -> Result:
    """PFedRec as a loop over users, tuned as `plain`; only the items that a user has move.

    A step on the private vector, then one on what is shared, as in the package. The outcome is
    (users' vectors, item table, scorer).
    """
    torch.set_num_threads(workload.threads)
    a, train = workload.algorithm, data.train
    first = workload.model()
    start = first.unflatten(first.init(0))
    table = start["items.weight"].clone()
    scorer = workload.network().score
    shared = flat(scorer)
    server = torch.cat([v.flatten() for n, v in start.items() if n.startswith("score.")])
    users = start["user"].repeat(len(train), 1)
    lr, item_lr = a.optimiser.lr, a.item_lr
    items, places = zip(
        *[train[k][0].unique(return_inverse=True) for k in range(len(train))], strict=True
    )

    def loss(user: Tensor, own: Tensor, x: Tensor, y: Tensor) -> Tensor:
        film = F.embedding(x, own)
        logits = scorer(torch.cat([user.expand_as(film), film], 1))
        return F.binary_cross_entropy_with_logits(logits[:, 0], y)

    def one_round(round: int, clients: Tensor) -> None:
        moved, total = torch.zeros_like(table), torch.zeros_like(server)
        handed = plan(data, a, clients, round) if planned else None
        for place, k in enumerate(clients.tolist()):
            begin, size = int(train.starts[k]), int(train.sizes[k])
            y_own, x_own = train.y[begin : begin + size], places[k]
            own = table[items[k]].requires_grad_()
            user = users[k].clone().requires_grad_()
            shared.copy_(server)
            parameters = [own, *scorer.parameters()]
            for rows in mini_batches(0, size, a) if handed is None else handed[place]:
                rows = rows if handed is None else rows - begin
                x, y = x_own[rows], y_own[rows]
                (gradient,) = torch.autograd.grad(loss(user, own, x, y), [user])
                with torch.no_grad():
                    user.sub_(gradient, alpha=lr)
                gradients = torch.autograd.grad(loss(user, own, x, y), parameters)
                with torch.no_grad():
                    torch._foreach_add_(parameters, gradients, alpha=-item_lr)
            with torch.no_grad():
                moved.index_add_(0, items[k], own - table[items[k]])
                users[k] = user
                total += shared - server
        table.add_(moved, alpha=1 / len(clients))
        server.add_(total, alpha=1 / len(clients))

    return timed(workload, data, rounds, one_round), (users, table, server)


# --- what came of it -----------------------------------------------------------------------------


def score(workload: Workload, data: fl.Federation, outcome: Any) -> float:
    """Score of the average client."""
    if isinstance(outcome, fl.History):
        return float(outcome.mean[-1])
    if isinstance(outcome, Tensor):
        return workload.mean_score(data, outcome)
    model, (users, table, shared) = workload.model(), outcome
    w = [torch.cat([user, table.flatten(), shared]) for user in users]
    test = [fl.Batch(*(v[None] for v in data.test[k])) for k in range(len(users))]
    return sum(float(model.score(v[None], b)) for v, b in zip(w, test, strict=True)) / len(users)


IMPLEMENTATIONS: dict[str, Callable[..., Result]] = {
    "ours": ours,
    "limit": fused,
    "plain": plain,
    "naive": naive,
}


def implementation(name: str, workload: Workload) -> Callable[..., Result] | None:
    """What runs a workload under this name; None where it cannot."""
    recommender = isinstance(workload.algorithm, fl.PFedRec)
    if name == "limit" and not (limit.available() and limit.knows(workload.hidden)):
        return None
    if name == "naive" and (recommender or workload.hidden is None):
        return None
    if name == "plain" and recommender:
        return plain_recommender
    return IMPLEMENTATIONS[name]
