"""One step or one round of every algorithm against the same thing written differently: one client
and one example after the other, with torch.nn, torch.autograd and plain loops.
"""

from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import sqrtm
from scipy.stats import trim_mean
from torch import nn
from toys import SIZES, alone, classification, classifier, close, equal, graded, network, public

from fedlab_helpers import (
    APFL,
    DPSGD,
    IFCA,
    MOCHA,
    SCAFFOLD,
    SGD,
    Batch,
    Cohort,
    CoordinateMedian,
    Ditto,
    DPFedAvg,
    Examples,
    FedALA,
    FedAsync,
    FedAvg,
    FedBABU,
    FedBuff,
    FedDF,
    FedEM,
    Federation,
    FedEWC,
    FedMD,
    FedNova,
    FedPer,
    FedProto,
    FedRep,
    Krum,
    LGFedAvg,
    MeanRegularised,
    Model,
    PerFedAvg,
    PFedMe,
    PFedRec,
    QFedAvg,
    Reptile,
    Synchronous,
    TrimmedMean,
    binary_accuracy,
    binary_cross_entropy,
    distil,
    simulate,
)
from fedlab_helpers.randomness import torch_stream
from fedlab_helpers.states import leaves

LR = 0.3
WORK = {"optimiser": SGD(lr=LR), "batch_size": 4, "epochs": 2}
D = classifier().d
NET, BODY = network(), slice(0, 16)  # the body's Linear(3, 4) comes first
HEAD = slice(16, D)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def output(w, x):
    """The network by its own forward pass, its parameters cut from the vector w (d,)."""
    named, at = {}, 0
    for name, parameter in NET.named_parameters():
        named[name] = w[at : at + parameter.numel()].view_as(parameter)
        at += parameter.numel()
    return torch.func.functional_call(NET, named, (x,))


def loss(w, x, y):
    return F.cross_entropy(output(w, x), y)


def slope(f, w, *arguments):
    w = w.detach().requires_grad_()
    return torch.autograd.grad(f(w, *arguments), w)[0]


def local(k, algorithm, round=1):
    return classification().local(
        torch.tensor([k]), algorithm.batch_size, algorithm.epochs, 0, round, algorithm.steps
    )


def batches(k, algorithm, round=1):
    """The mini-batches of client k as pairs (x, y), without rows that fill up."""
    for x, y, mask in local(k, algorithm, round).batches():
        real = torch.ones_like(y[0], dtype=torch.bool) if mask is None else mask[0]
        yield x[0][real], y[0][real]


def sgd(k, algorithm, w, direction=lambda w, x, y: slope(loss, w, x, y), round=1):
    """Client k's round: w - lr direction, for every mini-batch."""
    for x, y in batches(k, algorithm, round):
        w = w - LR * direction(w, x, y)
    return w


def work(algorithm, k, server, client=(), round=1, model=None):
    """`client_update` for client k -> upload, client; each without the clients axis."""
    upload, kept = algorithm.client_update(
        model or classifier(), alone(server), alone(client), local(k, algorithm, round)
    )
    return strip(upload), strip(kept)


def strip(state):
    return tuple(map(strip, state)) if isinstance(state, tuple) else state[0]


def cohort(sizes=SIZES, staleness=None, population=None, seed=0):
    n, generator = len(sizes), torch.Generator().manual_seed(seed)
    return Cohort(
        torch.arange(n), torch.tensor(sizes), torch.tensor(staleness or [0] * n),
        population or n, lambda: generator,
    )  # fmt: skip


EVERYBODY = {"schedule": Synchronous(), "progress": False}


def run(algorithm, rounds=1, federation=None, **options):
    federation = federation or classification()
    options = {**EVERYBODY, **options}
    return simulate(algorithm, graded(), federation, rounds, **options).groups[0]


W0 = classifier().init(0)


# One model for all --------------------------------------------------------------------------------


def test_scaffold_over_two_rounds_with_some_absent():
    """Algorithm 1, option II, with a list of control variates."""
    algorithm, K = SCAFFOLD(server_lr=0.7, **WORK), len(SIZES)
    schedule = Synchronous(0.5)
    arrivals = schedule.arrivals(K, 0)
    x, c, own = W0, torch.zeros(D).double(), [torch.zeros(D).double() for _ in range(K)]
    for round in (1, 2, 3):
        moves, changes = [], []
        for k in next(arrivals).clients.tolist():
            y, steps = x, 0
            for batch in batches(k, algorithm, round):
                y = y - LR * (slope(loss, y, *batch) - own[k] + c)
                steps += 1
            new = own[k] - c + (x - y) / (steps * LR)
            moves.append(y - x)
            changes.append(new - own[k])
            own[k] = new
        x = x + 0.7 * sum(moves) / len(moves)
        c = c + len(moves) / K * sum(changes) / len(changes)
    group = run(algorithm, rounds=3, schedule=schedule)
    close(group.server[0], x)
    close(group.server[1], c)
    close(group.clients, torch.stack(own))


def test_the_servers_control_variate_is_the_mean_of_all_clients_own():
    group = run(SCAFFOLD(**WORK), rounds=4, schedule=Synchronous(0.5))
    close(group.server[1], group.clients.mean(0))


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_fednova_divides_by_what_a_step_counts_and_multiplies_by_the_mean(momentum):
    algorithm = FedNova(optimiser=SGD(LR, momentum=momentum), batch_size=4, epochs=2)
    effective, directions = 0.0, 0.0
    for k, n in enumerate(SIZES):
        w, v, unit, a = W0, 0.0, 0.0, 0.0
        for batch in batches(k, algorithm):
            v = momentum * v + slope(loss, w, *batch)
            w = w - LR * v
            unit = momentum * unit + 1.0  # how a gradient of one would have gone on
            a += unit
        p = n / sum(SIZES)
        effective += p * a
        directions = directions + p * (W0 - w) / a
    close(run(algorithm).server, W0 - effective * directions)


@pytest.mark.parametrize("q", [0.0, 0.5, 2.0])
def test_q_fedavg_raises_losses_to_the_power_of_q(q):
    algorithm, L = QFedAvg(q=q, **WORK), 1 / LR
    deltas, normalisers = [], []
    for k in range(len(SIZES)):
        start = float(loss(W0, *classification().train[k]))
        dw = L * (W0 - sgd(k, algorithm, W0))
        deltas.append(start**q * dw)
        normalisers.append(q * start ** (q - 1) * float(dw @ dw) + L * start**q)
    close(run(algorithm).server, W0 - sum(deltas) / sum(normalisers))


# Personal models ----------------------------------------------------------------------------------


def test_fedrep_trains_its_head_in_all_epochs_but_the_last():
    algorithm, k = FedRep(optimiser=SGD(LR), batch_size=4, epochs=3), 4
    per_epoch = -(-SIZES[k] // 4)
    w = W0.clone()
    for number, batch in enumerate(batches(k, algorithm)):
        part = HEAD if number < 2 * per_epoch else BODY
        w[part] = (w - LR * slope(loss, w, *batch))[part]
    shared, head = work(algorithm, k, *classifier().split(W0, "head.*"))
    close(shared, w[BODY])
    close(head, w[HEAD])


def test_fedbabu_trains_its_body_and_at_the_end_everything():
    algorithm, k, w = FedBABU(tuning=1, **WORK), 4, W0.clone()
    for batch in batches(k, algorithm):
        w[BODY] = (w - LR * slope(loss, w, *batch))[BODY]
    body, head = work(algorithm, k, *classifier().split(W0, "head.*"))
    close(torch.cat([body, head]), w)
    both = algorithm.personalise(classifier(), body[None], head[None], local(k, algorithm))
    close(both[0], sgd(k, algorithm, w))


@pytest.mark.parametrize("warm_start", [False, True])
def test_pfedme_descends_towards_its_envelopes(warm_start):
    lam, eta, k = 3.0, 0.07, 4
    algorithm = PFedMe(lam=lam, inner_lr=eta, inner_steps=4, warm_start=warm_start, **WORK)
    w, theta = W0, drawn(D)
    for x, y in batches(k, algorithm):
        theta = (theta if warm_start else w).clone().requires_grad_()
        inner, anchor = torch.optim.SGD([theta], lr=eta), w.clone()
        for _ in range(4):
            inner.zero_grad()
            (loss(theta, x, y) + lam / 2 * (theta - anchor).square().sum()).backward()
            inner.step()
        theta = theta.detach()
        w = w - LR * lam * (w - theta)
    sent, kept = work(algorithm, k, W0, drawn(D))
    close(sent, w)
    close(kept, theta)


def test_pfedme_moves_the_server_by_beta():
    uploads = drawn(len(SIZES), D)
    expected = 0.7 * W0 + 0.3 * sum(n / sum(SIZES) * w for n, w in zip(SIZES, uploads, strict=True))
    close(PFedMe(beta=0.3, **WORK).aggregate(None, W0, uploads, cohort()), expected)


@pytest.mark.parametrize(
    "algorithm",
    [
        Ditto(lam=0.6, tuning=2, **WORK),
        MeanRegularised(lam=0.6, tuning=2, **WORK),
        PFedMe(lam=3.0, tuning=2, **WORK),
        APFL(alpha=0.3, tuning=2, **WORK),
        FedALA(tuning=2, **WORK),
    ],
    ids=lambda algorithm: algorithm.name,
)
def test_a_newcomers_own_model_starts_at_the_servers(algorithm):
    """Not where the run began, before there was anything to learn from others."""
    model, server, k = classifier(), drawn(D), 3
    _, untouched = algorithm.init(model, 0)
    welcomed = strip(algorithm.welcome(model, alone(server), alone(untouched), local(k, algorithm)))
    client = (server, untouched[1]) if isinstance(untouched, tuple) else server
    for _ in range(2):
        _, client = work(algorithm, k, server, client)
    close(leaves(welcomed), leaves(client))


@pytest.mark.parametrize("algorithm", [FedRep, LGFedAvg, FedPer], ids=lambda kind: kind.__name__)
def test_a_newcomers_personal_part_is_trained_under_the_shared_one(algorithm):
    algorithm, k = algorithm(tuning=2, optimiser=SGD(LR), batch_size=4, epochs=2), 3
    mine = BODY if algorithm.personal == ("body.*",) else HEAD
    w = drawn(D)
    shared, personal = classifier().split(w, *algorithm.personal)
    for _ in range(2):
        for batch in batches(k, algorithm):
            w[mine] = (w - LR * slope(loss, w, *batch))[mine]
    close(
        algorithm.welcome(classifier(), shared[None], personal[None], local(k, algorithm))[0],
        w[mine],
    )


def test_apfl_descends_the_loss_of_the_mixture():
    algorithm, k, alpha = APFL(alpha=0.3, **WORK), 3, 0.3
    w, v = W0, drawn(D)
    for batch in batches(k, algorithm):
        mixture = slope(lambda v, w=w, b=batch: loss(alpha * v + (1 - alpha) * w, *b), v)
        w, v = w - LR * slope(loss, w, *batch), v - LR * mixture
    sent, kept = work(algorithm, k, W0, drawn(D))
    close(sent, w)
    close(kept, v)
    mixed = algorithm.personalise(None, W0, v, None)
    close(mixed, torch.stack([alpha * b + (1 - alpha) * a for a, b in zip(W0, v, strict=True)]))


def test_fedala_learns_for_every_number_of_the_head_how_much_to_take_over():
    algorithm, k = FedALA(ala_lr=2.0, **WORK), 3
    server, v = W0, drawn(D)
    start = torch.full((D,), 0.6).double()

    def mixed(a):
        """The body of the server, and a head on the way from one's own to the server's."""
        return torch.cat([server[BODY], v[HEAD] + (server[HEAD] - v[HEAD]) * a])

    a = start[HEAD].clone()
    for batch in batches(k, algorithm):
        g = slope(lambda a, b=batch: loss(mixed(a.clamp(0, 1)), *b), a)
        inside = slope(lambda a, b=batch: loss(mixed(a), *b), a.clamp(0, 1))
        assert ((g == inside) | (g == 0)).all()
        a = a - 2.0 * inside  # the slope where it is cut off: from there it can come back
    a = a.clamp(0, 1)
    w = sgd(k, algorithm, mixed(a))
    sent, (kept, A) = work(algorithm, k, server, (v, start))
    close(A[HEAD], a)
    close(A[BODY], start[BODY])
    close(sent, w)
    close(kept, w)


def test_mocha_descends_the_joint_loss_of_all_tasks():
    """One step for every client against autograd of sum_k f_k(w_k) + lam/2 tr(P W W^T)."""
    K, lam = len(SIZES), 0.4
    algorithm = MOCHA(clients=K, lam=lam, optimiser=SGD(LR), batch_size=None, steps=1)
    W, root = drawn(K, D), drawn(K, K, seed=1)
    P = root @ root.T
    U = W.clone().requires_grad_()
    own = sum(loss(U[k], *classification().train[k]) for k in range(K))
    (own + lam / 2 * torch.trace(P @ U @ U.T)).backward()
    for k in range(K):
        received = algorithm.address(classifier(), (W, P), torch.tensor([k]))
        (sent,), (kept,) = algorithm.client_update(
            classifier(), received, W[k : k + 1], local(k, algorithm)
        )
        close(sent, W[k] - LR * U.grad[k])
        equal(kept, sent)


def test_mocha_takes_in_who_came_and_relates_all_tasks():
    algorithm = MOCHA(clients=4, damping=0.3)
    W, new = drawn(4, D), drawn(2, D, seed=1)
    team = cohort([3, 5])._replace(clients=torch.tensor([2, 0]))
    together, P = algorithm.aggregate(None, (W, torch.eye(4).double()), new, team)
    rows = np.array([new[1].numpy(), W[1].numpy(), new[0].numpy(), W[3].numpy()])
    root = sqrtm(rows @ rows.T).real
    expected = np.linalg.inv(4 * root / np.trace(root) + 0.3 * np.eye(4))
    close(together, torch.from_numpy(rows))
    torch.testing.assert_close(P, torch.from_numpy(expected))


class Catalogue(nn.Module):
    """Four items of two numbers, and a linear score."""

    def __init__(self):
        super().__init__()
        self.items, self.score = nn.Embedding(4, 2).double(), nn.Linear(2, 1).double()

    def forward(self, x):
        return self.score(self.items(x[:, 0]))


def test_pfedrec_steps_with_its_score_first_and_then_with_the_items():
    net, item_lr = Catalogue(), 0.7
    model = Model(Catalogue, binary_cross_entropy, binary_accuracy)
    x, y = torch.tensor([[0], [2], [2], [2], [2]]), torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0]).double()
    federation = Federation(Examples(x, y, (2, 3)), Examples(x, y, (2, 3)))
    algorithm = PFedRec(item_lr=item_lr, optimiser=SGD(LR), batch_size=2, epochs=2)
    start = model.unflatten(model.init(0))
    moved, scores = 0.0, []
    for k in (0, 1):
        net.load_state_dict(start)
        for batch in federation.local(torch.tensor([k]), 2, 2, 0, 1).batches():
            real = slice(None) if batch.mask is None else batch.mask[0]
            for layer, lr in ((net.score, LR), (net.items, item_lr)):
                net.zero_grad()
                logits = net(batch.x[0][real])[:, 0]
                F.binary_cross_entropy_with_logits(logits, batch.y[0][real]).backward()
                torch.optim.SGD(layer.parameters(), lr=lr).step()
        moved = moved + (net.items.weight.detach() - start["items.weight"])
        scores.append(torch.cat([p.detach().flatten() for p in net.score.parameters()]))
    history = simulate(algorithm, model, federation, 1, **EVERYBODY)
    (group,) = history.groups
    close(group.server[0], start["items.weight"] + moved / 2)
    close(group.clients, torch.stack(scores))
    assert history.sent_up == [(1 + 2) * 3]  # items 0 and 2, or 2 alone: two numbers and a name


# Data that change ---------------------------------------------------------------------------------


def test_elastic_weights_hold_on_to_what_mattered():
    """A run on old data, then one on new: the Fisher information by a loop over examples."""
    algorithm, K = FedEWC(lam=3.0, **WORK), len(SIZES)
    first = simulate(algorithm, graded(), classification(), 2, **EVERYBODY)
    anchor, fisher = first.groups[0].server, []
    for k in range(K):
        x, y = classification().train[k]
        each = [slope(loss, anchor, x[i : i + 1], y[i : i + 1]) ** 2 for i in range(len(y))]
        fisher.append(sum(each) / len(each))
    close(first.groups[0].clients[0], torch.stack(fisher))
    equal(first.groups[0].clients[1], anchor.expand(K, -1))

    new, mean = classification(seed=5), 0.0
    for k, n in enumerate(SIZES):
        w = anchor
        for x, y, mask in new.local(torch.tensor([k]), 4, 2, 0, 1).batches():
            real = slice(None) if mask is None else mask[0]
            pull = slope(lambda w, k=k: (fisher[k] * (w - anchor) ** 2).sum() * 3.0 / 2, w)
            w = w - LR * (slope(loss, w, x[0][real], y[0][real]) + pull)
        mean = mean + n / sum(SIZES) * w
    second = simulate(algorithm, graded(), new, 1, start=first, **EVERYBODY)
    close(second.groups[0].server, mean)
    more = second.groups[0].clients[0] - first.groups[0].clients[0]  # added up over all data
    x, y = new.train[2]
    each = [slope(loss, mean, x[i : i + 1], y[i : i + 1]) ** 2 for i in range(len(y))]
    close(more[2], sum(each) / len(each))


# A start from which to adapt ----------------------------------------------------------------------


@pytest.mark.parametrize("first_order", [False, True], ids=["exact", "first order"])
def test_per_fedavg_against_an_explicit_hessian(first_order):
    """grad F(w) = (I - a H_support(w)) grad f_query(w - a grad f_support(w))."""
    a, k = 0.4, 1  # 9 examples: batches of 4, 4 and 1
    algorithm = PerFedAvg(inner_lr=a, first_order=first_order, **WORK)

    def direction(w, x, y):
        (xs, ys), (xq, yq) = (x[::2], y[::2]), (x[1::2], y[1::2])
        if len(y) == 1:
            xq, yq = xs, ys  # a single example is both
        g = slope(loss, w - a * slope(loss, w, xs, ys), xq, yq)
        if first_order:
            return g
        return g - a * torch.autograd.functional.hessian(lambda w: loss(w, xs, ys), w) @ g

    sent, _ = work(algorithm, k, W0)
    close(sent, sgd(k, algorithm, W0, direction))


def test_several_inner_steps_are_differentiated_through():
    algorithm, k = PerFedAvg(inner_lr=0.2, inner_steps=3, **{**WORK, "batch_size": 6}), 3

    def meta(w, x, y):
        for _ in range(3):
            w = w - 0.2 * torch.func.grad(loss)(w, x[::2], y[::2])
        return loss(w, x[1::2], y[1::2])

    sent, _ = work(algorithm, k, W0)
    close(sent, sgd(k, algorithm, W0, torch.func.grad(meta)))


@pytest.mark.parametrize("first_order", [False, True])
def test_a_client_of_per_fedavg_adapts_on_all_its_examples(first_order):
    algorithm = PerFedAvg(inner_lr=0.2, inner_steps=2, first_order=first_order, **WORK)
    x, y = classification().train[1]
    w = W0
    for _ in range(2):
        w = w - 0.2 * slope(loss, w, x, y)
    close(algorithm.personalise(classifier(), W0[None], (), local(1, algorithm))[0], w)


def test_reptile_goes_part_of_the_way():
    mean = sum(n / sum(SIZES) * sgd(k, FedAvg(**WORK), W0) for k, n in enumerate(SIZES))
    close(run(Reptile(server_lr=0.25, **WORK)).server, W0 + 0.25 * (mean - W0))


# Clusters and mixtures ----------------------------------------------------------------------------


def test_ifca_averages_those_who_found_the_same_model_the_best():
    algorithm = IFCA(clusters=3, **WORK)
    start = torch.stack([classifier().init(0, j) for j in range(3)])
    members = {0: [], 1: [], 2: []}
    for k in range(len(SIZES)):
        losses = [float(loss(w, *classification().train[k])) for w in start]
        j = losses.index(min(losses))
        members[j].append((SIZES[k], sgd(k, algorithm, start[j])))
    expected = [
        sum(n * w for n, w in team) / sum(n for n, _ in team) if team else start[j]
        for j, team in members.items()
    ]
    assert len([team for team in members.values() if team]) > 1
    close(run(algorithm).server, torch.stack(expected))


def e_step(components, pi, x, y):
    """q[i][m], proportional to pi_m exp(-loss_m(x_i, y_i)), example by example."""
    q = torch.empty(len(y), len(pi)).double()
    for i in range(len(y)):
        each = [float(p * torch.exp(-loss(w, x[i : i + 1], y[i : i + 1])))
                for p, w in zip(pi, components, strict=True)]  # fmt: skip
        q[i] = torch.tensor(each, dtype=torch.float64) / sum(each)
    return q


def test_fedem_explains_every_example_by_all_components():
    components, pi = drawn(3, D), torch.tensor([0.5, 0.3, 0.2]).double()
    data = classification().train.batch()
    mixed = [t.expand(len(SIZES), *t.shape) for t in (components, pi)]
    q = FedEM(components=3).explain(classifier(), *mixed, data)
    for k, n in enumerate(SIZES):
        close(q[k, :, :n].T, e_step(components, pi, *classification().train[k]))


def test_fedem_over_one_round():
    algorithm, k = FedEM(components=2, **WORK), 1
    components, pi = drawn(2, D), torch.tensor([0.7, 0.3]).double()
    expected = []
    for m in range(2):
        w = components[m]
        for x, y in batches(k, algorithm):
            q = e_step(components, pi, x, y)[:, m]
            w = w - LR * slope(
                lambda w, x=x, y=y, q=q: (
                    q * F.cross_entropy(output(w, x), y, reduction="none")
                ).mean(),
                w,
            )
        expected.append(w)
    sent, kept = work(algorithm, k, components, pi)
    close(sent, torch.stack(expected))
    close(kept, e_step(components, pi, *classification().train[k]).mean(0))


def test_fedem_predicts_with_the_mixture_of_probabilities():
    components, pi = drawn(2, D), torch.tensor([0.7, 0.3]).double()
    x = classification().test.x
    mixed = FedEM().predict(classifier(), (components[None], pi[None]), x[None])[0]
    expected = sum(p * output(w, x).softmax(-1) for p, w in zip(pi, components, strict=True))
    close(mixed.exp(), expected)


# Distillation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["stacked", "vmap"])  # by formula, by autograd
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_is_torchs_kl_div_times_t_squared(temperature, backend):
    T, x, scores = temperature, public(), drawn(8, 3)
    w = W0.clone().requires_grad_()
    optimiser = torch.optim.SGD([w], lr=0.2, momentum=0.5)
    for _ in range(4):
        optimiser.zero_grad()
        student, teacher = F.log_softmax(output(w, x) / T, -1), F.softmax(scores / T, -1)
        (T**2 * F.kl_div(student, teacher, reduction="batchmean")).backward()
        optimiser.step()
    model, optimiser = classifier(backend), SGD(0.2, momentum=0.5)
    assert (model.formula is None) == (backend == "vmap")
    ours = distil(model, W0[None], x[None], scores[None], optimiser, 4, T)
    close(ours[0], w.detach())


def distilled(w, scores, steps, lr=LR, T=1.0):
    for _ in range(steps):
        w = w - lr * slope(
            lambda w: T**2 * F.kl_div(
                F.log_softmax(output(w, public()) / T, -1), F.softmax(scores / T, -1),
                reduction="batchmean",
            ), w,
        )  # fmt: skip
    return w


def test_fedmd_over_two_rounds():
    """Digest the consensus, revisit one's own data, communicate the scores."""
    algorithm = FedMD(public=public(), digest_steps=2, temperature=2.0, **WORK)
    consensus, ws = torch.zeros(8, 3).double(), [W0] * len(SIZES)
    for round in (1, 2):
        ws = [
            sgd(k, algorithm, distilled(w, consensus, 2, T=2.0), round=round)
            for k, w in enumerate(ws)
        ]
        consensus = sum(output(w, public()) for w in ws) / len(ws)
    group = run(algorithm, rounds=2)
    close(group.clients, torch.stack(ws))
    close(group.server, consensus)


def test_a_newcomer_to_fedmd_digests_and_trains_for_as_many_rounds_as_it_is_told():
    algorithm, k = FedMD(public=public(), digest_steps=2, tuning=3, **WORK), 1
    consensus, w = drawn(8, 3), W0
    for _ in range(3):
        w = sgd(k, algorithm, distilled(w, consensus, 2))
    ours = algorithm.welcome(classifier(), consensus[None], W0[None], local(k, algorithm))
    close(ours[0], w)


def test_feddf_teaches_the_average_what_all_predict_together():
    algorithm = FedDF(
        public=public(), distil_steps=3, distil_optimiser=SGD(0.2), temperature=2.0, **WORK
    )
    ws = [sgd(k, algorithm, W0) for k in range(len(SIZES))]
    mean = sum(n / sum(SIZES) * w for n, w in zip(SIZES, ws, strict=True))
    teacher = sum(output(w, public()) for w in ws) / len(ws)
    close(run(algorithm).server, distilled(mean, teacher, 3, lr=0.2, T=2.0))


@pytest.mark.parametrize("what", ["FedMD", "FedDF"])
def test_networks_that_differ_teach_each_other(what):
    """The consensus, and the teacher, is the mean over the clients of both architectures."""
    narrow, wide = classifier(), Model(lambda: network(hidden=6))
    uploads = drawn(4, narrow.d), drawn(2, wide.d)
    x, models = public(), [narrow, wide]
    scores = torch.cat([narrow(uploads[0], x[None]), wide(uploads[1], x[None])])
    if what == "FedMD":
        each = scores[:4], scores[4:]
        servers = FedMD(public=x).exchange(models, [s.mean(0) for s in each], list(each))
        for consensus in servers:
            close(consensus, scores.mean(0))
        return
    algorithm, start = FedDF(public=x, distil_steps=2), [w.mean(0) for w in uploads]
    servers = algorithm.exchange(models, start, list(uploads))
    how = (x[None], scores.mean(0, keepdim=True), algorithm.distil_optimiser, 2)
    for model, before, after in zip(models, start, servers, strict=True):
        close(after, distil(model, before[None], *how)[0])


def embedding(w, x):
    return torch.tanh(x @ w[:12].view(4, 3).T + w[12:16])


def test_fedproto_pulls_examples_towards_the_prototype_of_their_class():
    algorithm, k = FedProto(lam=0.7, **WORK), 1
    prototypes, counts = drawn(3, 4), torch.tensor([2.0, 0.0, 5.0]).double()  # class 1: not known

    def total(w, x, y):
        pull = sum(F.mse_loss(embedding(w, x[i]), prototypes[c]) for i, c in enumerate(y.tolist())
                   if counts[c] > 0)  # fmt: skip
        return loss(w, x, y) + 0.7 * pull / len(y)

    w = sgd(k, algorithm, W0, lambda w, x, y: slope(total, w, x, y))
    (means, how_many), kept = work(algorithm, k, (prototypes, counts), W0)
    close(kept, w)
    x, y = classification().train[k]
    for c in range(3):
        rows = [embedding(w, x[i]) for i in range(len(y)) if y[i] == c]
        assert how_many[c] == len(rows)
        close(means[c], sum(rows) / len(rows) if rows else torch.zeros(4).double())


def test_fedproto_averages_prototypes_by_their_examples():
    prototypes = drawn(2, 3, 4)
    counts = torch.tensor([[2.0, 1.0, 0.0], [6.0, 0.0, 0.0]]).double()
    old = drawn(3, 4, seed=1), torch.tensor([1.0, 1.0, 9.0]).double()
    means, known = FedProto().aggregate(None, old, (prototypes, counts), None)
    close(means[0], (2 * prototypes[0, 0] + 6 * prototypes[1, 0]) / 8)
    close(means[1], prototypes[0, 1])
    close(means[2], old[0][2])  # nobody has this class now
    assert (known > 0).tolist() == [True, True, True]


def test_prototypes_cross_the_border_between_architectures():
    prototypes, counts = drawn(3, 3, 4), torch.tensor([[1.0, 0, 2], [3, 0, 0], [0, 4, 1]]).double()
    old = torch.zeros(3, 4).double(), torch.zeros(3).double()
    uploads = [(prototypes[:1], counts[:1]), (prototypes[1:], counts[1:])]
    one, other = FedProto().exchange([None, None], [old, old], uploads)
    close(one[0], FedProto().aggregate(None, old, (prototypes, counts), None)[0])
    equal(one[0], other[0])


# A server that does not wait ----------------------------------------------------------------------


def test_fedasync_trusts_old_models_less():
    uploads, server = drawn(3, D), W0
    for w, staleness in zip(uploads, [0, 3, 8], strict=True):
        weight = 0.6 / (1 + staleness) ** 0.5
        server = (1 - weight) * server + weight * w
    close(FedAsync().aggregate(None, W0, uploads, cohort([5, 9, 3], [0, 3, 8])), server)


def test_fedbuff_discounts_updates_by_their_age():
    uploads = drawn(3, D)
    step = sum(n / 17 / (1 + s) ** 0.5 * u
               for n, s, u in zip([5, 9, 3], [0, 3, 8], uploads, strict=True))  # fmt: skip
    team = cohort([5, 9, 3], [0, 3, 8])
    close(FedBuff(server_lr=0.5).aggregate(None, W0, uploads, team), W0 + 0.5 * step)


def test_an_update_of_fedbuff_is_relative_to_the_copy_it_started_from():
    algorithm, old = FedBuff(**WORK), drawn(D)
    sent, _ = work(algorithm, 2, old)
    close(sent, sgd(2, algorithm, old) - old)


# Private ------------------------------------------------------------------------------------------


def cut(v, length):
    return v * min(1.0, length / float(v.norm()))


@pytest.mark.parametrize("batch_size", [4, None])
@pytest.mark.parametrize("k", [1, 2])  # nine examples, and less than a batch
def test_dp_sgd_clips_every_example_and_adds_noise_to_the_sum(k, batch_size):
    clip, z = 1.3, 0.8
    algorithm = DPSGD(clip=clip, noise=z, optimiser=SGD(LR), batch_size=batch_size, epochs=2)
    generator, w = torch_stream("client noise", 0, 1, k), W0
    full = min(batch_size or 100, SIZES[k])
    for x, y in batches(k, algorithm):
        each = [slope(loss, w, x[i : i + 1], y[i : i + 1]) for i in range(len(y))]
        noise = torch.randn(D, generator=generator, dtype=torch.float64)
        w = w - LR * (sum(cut(g, clip) for g in each) + z * clip * noise) / full
    sent, _ = work(algorithm, k, W0)
    close(sent, w)


def test_some_examples_are_longer_than_the_clip_and_some_are_not():
    x, y = classification().train[1]
    norms = torch.stack([slope(loss, W0, x[i : i + 1], y[i : i + 1]).norm() for i in range(9)])
    assert norms.min() < 1.3 < norms.max()


def test_dp_fedavg_clips_every_update_and_adds_noise_to_the_sum():
    clip, z = 0.4, 0.5
    algorithm = DPFedAvg(clip=clip, noise=z, **WORK)
    updates = [sgd(k, algorithm, W0) - W0 for k in range(len(SIZES))]
    assert min(u.norm() for u in updates) < clip < max(u.norm() for u in updates)
    noise = torch.randn(D, generator=torch_stream("server noise", 0, 1), dtype=torch.float64)
    total = sum(cut(u, clip) for u in updates) + z * clip * noise
    close(run(algorithm).server, W0 + total / len(SIZES))


def test_what_leaves_a_private_client_is_no_longer_than_the_clip():
    for k in range(len(SIZES)):
        sent, _ = work(DPFedAvg(clip=0.2, **WORK), k, W0)
        assert sent.norm() <= 0.2 + 1e-12


def test_the_noise_of_two_architectures_is_not_the_same():
    """Else the difference of two servers would show the updates without it."""
    groups = [(classifier(), [0, 1, 2]), (classifier(), [3, 4, 5])]
    algorithm = DPFedAvg(clip=1e-9, noise=1e9, **WORK)  # nothing but noise
    one, other = simulate(algorithm, groups, classification(), 1, **EVERYBODY).groups
    assert ((one.server - W0) - (other.server - W0)).abs().min() > 1e-4


# Robust -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clients", [4, 5])
def test_the_median_is_numpys(clients):
    uploads = drawn(clients, D)
    ours = CoordinateMedian().aggregate(None, W0, uploads, cohort([1] * clients))
    close(ours, torch.from_numpy(np.median(uploads.numpy(), axis=0)))


@pytest.mark.parametrize("trim", [0.0, 0.1, 0.25, 0.4])
def test_the_trimmed_mean_is_scipys(trim):
    uploads = drawn(11, D)
    ours = TrimmedMean(trim=trim).aggregate(None, W0, uploads, cohort([1] * 11))
    close(ours, torch.from_numpy(trim_mean(uploads.numpy(), trim, axis=0)))


def krum_by_hand(uploads, f, keep):
    n = len(uploads)
    apart = {frozenset(p): float((uploads[p[0]] - uploads[p[1]]).square().sum())
             for p in combinations(range(n), 2)}  # fmt: skip
    scores = []
    for i in range(n):
        nearest = sorted(apart[frozenset((i, j))] for j in range(n) if j != i)
        scores.append(sum(nearest[: n - f - 2]))
    best = sorted(range(n), key=scores.__getitem__)[:keep]
    return sum(uploads[i] for i in best) / keep


@pytest.mark.parametrize(("f", "keep"), [(0, 1), (1, 1), (2, 1), (2, 3)])
def test_krum_takes_the_models_closest_to_most_others(f, keep):
    for seed in range(20):  # in which an error in the number of the nearest would show
        uploads = drawn(7, 2, seed=seed)
        ours = Krum(byzantine=f, keep=keep).aggregate(None, None, uploads, cohort([1] * 7))
        close(ours, krum_by_hand(uploads, f, keep))


def test_krum_picks_an_honest_model():
    honest = drawn(5, D)
    uploads = torch.cat([honest, 100 + drawn(2, D, seed=1) / 100])  # two that agree with each other
    chosen = Krum(byzantine=2).aggregate(None, None, uploads, cohort([1] * 7))
    assert (chosen == honest).all(1).any()


def test_krum_tells_apart_models_that_differ_by_little():
    """Forty of them in single precision, near a long vector."""
    near = 30 + 1e-3 * drawn(40, 50)
    uploads = near.float()
    chosen = Krum(byzantine=3).aggregate(None, None, uploads, cohort([1] * 40))
    close(chosen.double(), krum_by_hand(uploads.double(), 3, 1))


@pytest.mark.parametrize("robust", [CoordinateMedian(), TrimmedMean(trim=0.3), Krum(byzantine=2)])
def test_two_liars_of_seven_do_not_move_a_robust_server_far(robust):
    honest = drawn(5, D)
    uploads = torch.cat([honest, torch.full((2, D), 1e6).double()])
    w = robust.aggregate(None, None, uploads, cohort([1] * 7))
    assert (w >= honest.min(0).values).all()
    assert (w <= honest.max(0).values).all()


# Everybody's halves -------------------------------------------------------------------------------


def test_a_single_example_is_both_halves_also_where_it_was_filled_up():
    x, y = torch.tensor([[[1.0], [1.0], [1.0]]]), torch.tensor([[2, 2, 2]])
    batch = Batch(x, y, torch.tensor([[True, False, False]]))
    for half in batch.halves():
        assert half.y[half.mask].tolist() == [2]
