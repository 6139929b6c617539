"""Tiny federations and networks that the tests share, all in float64; and the package's rounds
written once more, one client at a time.
"""

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from fedlab_helpers import Cohort, Examples, Federation, Model, cross_entropy, squared_error
from fedlab_helpers.model import rmse
from fedlab_helpers.randomness import torch_stream
from fedlab_helpers.states import tree

SIZES = (5, 9, 3, 12, 7, 4)  # neither sorted nor even: some clients have fewer mini-batches

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-11)
equal = partial(torch.testing.assert_close, rtol=0, atol=0)


def classification(sizes=SIZES, features=3, classes=3, seed=0):
    """Clients of different sizes, their labels a noisy function of their examples."""
    generator = torch.Generator().manual_seed(seed)

    def examples(sizes):
        x = torch.randn(sum(sizes), features, generator=generator, dtype=torch.float64)
        noise = torch.randn(sum(sizes), classes, generator=generator, dtype=torch.float64)
        scores = x @ torch.eye(features, classes, dtype=torch.float64) + noise / 2
        return Examples(x, scores.argmax(1), sizes)

    names = tuple(f"class {c}" for c in range(classes))
    return Federation(examples(sizes), examples([4] * len(sizes)), "toys", classes=names)


def network(features=3, classes=3, hidden=4):
    """A small network with a body and a head."""
    net = nn.Sequential()
    net.add_module("body", nn.Sequential(nn.Linear(features, hidden), nn.Tanh()))
    net.add_module("head", nn.Linear(hidden, classes))
    return net.double()


def normed_network(features=3, classes=3, hidden=4):
    """The same, with BatchNorm in its body."""
    net = network(features, classes, hidden)
    net.body.insert(1, nn.BatchNorm1d(hidden).double())
    return net


def classifier(backend="auto"):
    return Model(network, backend=backend)


def graded(build=network, backend="auto"):
    """A classifier whose score is its loss: unlike accuracy, it shows every change of w."""
    loss = replace(rmse, name="loss", of_examples=cross_entropy, finish=lambda mean: mean)
    return Model(build, score=loss, backend=backend)


def public(rows=8, features=3):
    """Examples without labels, which nobody minds to share."""
    generator = torch.Generator().manual_seed(9)
    return torch.randn(rows, features, generator=generator, dtype=torch.float64)


def parabolas(curvatures, centres, weights=None):
    """Clients whose losses are curvature/2 (w - centre)^2, plus nothing."""
    weights = weights or [1] * len(curvatures)
    clients = []
    for a, c, n in zip(curvatures, centres, weights, strict=True):
        x = torch.full((n, 1), (a / 2) ** 0.5, dtype=torch.float64)
        clients.append((x, c * x[:, 0]))
    return Federation(Examples.stack(clients), Examples.stack(clients), "parabolas")


def slope():
    """The one number that a client of `parabolas` learns."""
    return Model(lambda: nn.Linear(1, 1, bias=False).double(), squared_error, rmse)


def alone(state):
    """The state of one client, as the algorithms want it: with a clients axis of one."""
    return tree(lambda v: v[None], state)


def by_hand(algorithm, model, federation, rounds, schedule, seed, held_out=()):
    """The rounds of `simulate`, client by client -> server, {client: its state}, scores before
    and after personalisation (one list of clients' scores each).
    """
    server, start = algorithm.init(model, seed)
    trained = [k for k in range(len(federation)) if k not in held_out]
    states, seen, past = dict.fromkeys(range(len(federation)), start), set(), []
    trainers, numbers = federation, trained
    if algorithm.pooled:
        trainers, numbers = federation.select(trained).pool(), [0]

    def local(data, k, round):
        a = algorithm
        return data.local(torch.tensor([k]), a.batch_size, a.epochs, seed, round, a.steps)

    past.append(server)
    arrivals = schedule.arrivals(len(numbers), seed)
    for round in range(1, rounds + 1):
        cohort = next(arrivals)
        clients = [numbers[i] for i in cohort.clients]
        uploads = []
        for k, age in zip(clients, cohort.staleness, strict=True):
            received = algorithm.address(model, past[-1 - age], torch.tensor([k]))
            upload, state = algorithm.client_update(
                model, received, alone(states[k]), local(trainers, k, round)
            )
            uploads.append(upload)
            states[k] = tree(lambda v: v[0], state)
            seen.add(k)
        stacked = tree(lambda *v: torch.cat(v), *uploads)
        who = torch.tensor(clients)
        sizes = torch.tensor([len(trainers.train[k][1]) for k in clients])
        generator = torch_stream("server noise", seed, round)
        team = Cohort(who, sizes, cohort.staleness, len(numbers), lambda g=generator: g)
        server = algorithm.aggregate(model, server, stacked, team)
        [server] = algorithm.exchange([model], [server], [stacked])
        past.append(server)
    before, after, finished = [], [], {}
    for k in range(len(federation)):
        received = algorithm.address(model, past[-1], torch.tensor([k]))
        state, data = alone(states[k]), local(federation, k, rounds)
        if k in seen and not algorithm.pooled:
            finished[k] = tree(lambda v: v[0], algorithm.finish(model, received, state, data))
        if k not in seen:
            state = algorithm.welcome(model, received, state, data)
        test = federation.test.batch(torch.tensor([k]))
        for scores, w in (
            (before, algorithm.receive(model, received, state)),
            (after, algorithm.personalise(model, received, state, data)),
        ):
            output = algorithm.predict(model, w, test.x)
            scores.append(model.example_score(output, *test[1:])[0])
    return server, {**states, **finished}, torch.stack(before), torch.stack(after)
