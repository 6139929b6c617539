"""What holds exactly: one algorithm as a special case of another, and closed forms."""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import sqrtm
from test_model import normed
from torch import nn
from toys import (
    SIZES,
    classification,
    classifier,
    close,
    equal,
    graded,
    network,
    normed_network,
    parabolas,
    slope,
)

from fedlab_helpers import (
    APFL,
    IFCA,
    L2SP,
    MOCHA,
    SCAFFOLD,
    SGD,
    Adam,
    Adaptive,
    Buffered,
    CoordinateMedian,
    Ditto,
    DPFedAvg,
    Examples,
    FedALA,
    FedAsync,
    FedAvg,
    FedBABU,
    FedBN,
    FedBuff,
    FedEM,
    Federation,
    FedEWC,
    FedNova,
    FedOpt,
    FedPer,
    FedProto,
    FedProx,
    FedRep,
    FineTuning,
    LGFedAvg,
    Local,
    MeanRegularised,
    Model,
    PerFedAvg,
    PFedMe,
    PFedRec,
    Pooled,
    QFedAvg,
    Reptile,
    Synchronous,
    TrimmedMean,
    rmse,
    simulate,
)
from fedlab_helpers.states import leaves

WORK = {"optimiser": SGD(lr=0.2, momentum=0.5), "batch_size": 4, "epochs": 2}
PLAIN = {**WORK, "optimiser": SGD(lr=0.2)}
TRAINED = [0, 2, 3, 4, 5]  # all but client 1, who is held out


def run(algorithm, model=None, federation=None, rounds=3, **options):
    return simulate(
        algorithm,
        model or graded(),
        federation or classification(),
        rounds,
        **{"progress": False, "schedule": Synchronous(0.7), "held_out": (1,), **options},
    )


def server(*arguments, **options):
    return run(*arguments, **options).groups[0].server


def clients(*arguments, **options):
    return run(*arguments, **options).groups[0].clients


# One algorithm is another ------------------------------------------------------------------------


def test_fedprox_without_its_pull_is_fedavg():
    equal(server(FedProx(mu=0.0, **WORK)), server(FedAvg(**WORK)))


def test_ditto_without_its_tie_is_local_training():
    equal(clients(Ditto(lam=0.0, **WORK))[TRAINED], clients(Local(**WORK))[TRAINED])


def test_the_global_model_of_ditto_is_that_of_fedavg():
    equal(server(Ditto(lam=0.7, **WORK)), server(FedAvg(**WORK)))
    equal(run(Ditto(**WORK)).before[-1], run(FedAvg(**WORK)).after[-1])


def test_fedper_with_nothing_personal_is_fedavg():
    one, other = run(FedPer(personal=(), **WORK)), run(FedAvg(**WORK))
    equal(one.groups[0].server, other.groups[0].server)
    equal(one.after[-1], other.after[-1])


def test_fedper_with_everything_personal_is_local_training():
    one, other = run(FedPer(personal=("*",), **WORK)), run(Local(**WORK))
    equal(one.groups[0].clients, other.groups[0].clients)
    equal(one.after[-1], other.after[-1])  # newcomers included


def test_fedopt_with_a_plain_step_of_one_is_fedavg():
    w, _ = server(FedOpt(server_optimiser=SGD(lr=1.0, momentum=0.0), **WORK))
    close(w, server(FedAvg(**WORK)))


def test_fine_tuning_for_no_rounds_is_fedavg():
    equal(run(FineTuning(tuning=0, **WORK)).after[-1], run(FedAvg(**WORK)).after[-1])


def test_pooled_is_fedavg_on_the_pool():
    pool = classification().select(TRAINED).pool()
    expected = server(FedAvg(**WORK), federation=pool, schedule=Synchronous(), held_out=())
    equal(server(Pooled(**WORK)), expected)


def test_ifca_with_one_cluster_is_fedavg():
    W, algorithm = server(IFCA(clusters=1, **WORK)), FedAvg(**WORK)
    model = classifier()
    model.init = lambda *seed: classifier().init(*seed[:1], 0)  # as IFCA draws its only model
    close(W[0], server(algorithm, model))


def test_tasks_without_a_tie_to_their_mean_are_local_training():
    equal(clients(MeanRegularised(lam=0.0, **WORK))[TRAINED], clients(Local(**WORK))[TRAINED])


def test_tasks_that_are_not_related_are_local_training():
    algorithm = MOCHA(clients=len(SIZES), lam=0.0, **WORK)
    equal(clients(algorithm)[TRAINED], clients(Local(**WORK))[TRAINED])


def test_before_the_first_relations_the_tasks_pull_towards_their_mean():
    """All others are still where they began, and one of the six is the client itself."""
    everybody = {"rounds": 1, "schedule": Synchronous(), "held_out": ()}
    one = clients(MOCHA(clients=6, lam=0.6, **WORK), **everybody)
    close(one, clients(MeanRegularised(lam=0.5, **WORK), **everybody))


@dataclass(frozen=True)
class EvenFedAvg(FedAvg):
    """FedAvg with the plain mean: clients count alike, whatever their size."""

    def aggregate(self, model, server, uploads, cohort):
        return uploads.mean(0)


@pytest.mark.parametrize(
    ("algorithm", "rounds"),
    [
        (DPFedAvg(noise=0.0, clip=1e9, **PLAIN), 3),
        (QFedAvg(q=0.0, **PLAIN), 3),
        (TrimmedMean(trim=0.0, **PLAIN), 3),
        (SCAFFOLD(**PLAIN), 1),  # as long as the control variates are zero
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_it_is_fedavg_in_which_clients_count_alike(algorithm, rounds):
    w = server(algorithm, rounds=rounds)
    close(leaves(w)[0], server(EvenFedAvg(**PLAIN), rounds=rounds))


def test_scaffold_is_no_longer_fedavg_in_its_second_round():
    w, _ = server(SCAFFOLD(**PLAIN), rounds=2)
    assert (w - server(EvenFedAvg(**PLAIN), rounds=2)).abs().max() > 1e-3


def test_fednova_is_fedavg_where_all_take_as_many_steps():
    work = {"optimiser": SGD(lr=0.2, momentum=0.5), "batch_size": 4, "steps": 3}
    close(server(FedNova(**work)), server(FedAvg(**work)))


def test_fedbuff_with_equal_speeds_and_a_full_buffer_is_fedavg():
    w = server(FedBuff(**WORK), schedule=Buffered(buffer=5, concurrency=5, spread=0.0))
    close(w, server(FedAvg(**WORK), schedule=Synchronous()))


def test_fedasync_with_all_weight_on_the_newest_takes_the_last_model():
    uploads = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).double()
    cohort = type("Cohort", (), {"staleness": torch.tensor([0, 3, 7])})
    w = FedAsync(alpha=1.0, decay=0.0).aggregate(None, torch.zeros(2).double(), uploads, cohort)
    equal(w, uploads[-1])


def test_reptile_that_goes_all_the_way_is_fedavg_with_fine_tuning():
    one, other = run(Reptile(server_lr=1.0, **WORK)), run(FineTuning(**WORK))
    equal(one.groups[0].server, server(FedAvg(**WORK)))
    equal(one.after[-1], other.after[-1])


def test_reptile_that_goes_no_way_stays():
    model = classifier()
    close(server(Reptile(server_lr=1e-12, **WORK)), model.init(0))


def test_apfl_without_its_personal_part_is_fedavg():
    one, other = run(APFL(alpha=0.0, **WORK)), run(FedAvg(**WORK))
    equal(one.groups[0].server, other.groups[0].server)
    equal(one.after[-1], other.after[-1])


def test_apfl_with_nothing_but_its_personal_part_is_local_training():
    one, other = run(APFL(alpha=1.0, **WORK)), run(Local(**WORK))
    equal(one.groups[0].clients[TRAINED], other.groups[0].clients[TRAINED])
    equal(one.after[-1][TRAINED], other.after[-1][TRAINED])


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_the_global_model_of_apfl_is_that_of_fedavg(alpha):
    equal(server(APFL(alpha=alpha, **WORK)), server(FedAvg(**WORK)))
    equal(run(APFL(alpha=alpha, **WORK)).before[-1], run(FedAvg(**WORK)).after[-1])


def test_fedala_that_adapts_nothing_is_fedavg():
    """Every model is the server's when training begins - here, where no array is adaptive."""
    algorithm = FedALA(adaptive=(), **WORK)
    equal(server(algorithm), server(FedAvg(**WORK)))


def test_fedala_takes_over_all_in_its_first_round():
    close(server(FedALA(**WORK), rounds=1), server(FedAvg(**WORK), rounds=1))


def test_fedproto_without_its_pull_is_local_training():
    close(clients(FedProto(lam=0.0, **WORK))[TRAINED], clients(Local(**WORK))[TRAINED])


def test_fedrep_with_everything_personal_is_local_training():
    """The last epoch, that of the body, moves nothing."""
    one = clients(FedRep(personal=("*",), **{**WORK, "epochs": 3}))
    close(one, clients(Local(**WORK)))


def test_fedrep_with_nothing_personal_is_fedavg_on_its_last_epoch():
    one = {"optimiser": SGD(lr=0.2), "batch_size": None}  # in full batches, epochs are alike
    close(server(FedRep(personal=(), epochs=4, **one)), server(FedAvg(epochs=1, **one)))


def test_lg_fedavg_is_fedper_the_other_way_round():
    equal(server(LGFedAvg(**WORK)), server(FedPer(personal=("body.*",), **WORK)))
    body = classifier().coordinates("body.*")
    assert len(server(LGFedAvg(**WORK))) == (~body).sum()


def test_fedbabu_never_moves_its_head():
    algorithm, model = FedBABU(**WORK), classifier()
    _, head = model.split(model.init(0), "head.*")
    history = run(algorithm)
    equal(history.groups[0].clients, head.expand(len(SIZES), -1))
    assert len(history.groups[0].server) == model.d - len(head)


def test_fedbabu_without_a_head_of_its_own_is_fedavg_with_fine_tuning():
    one, other = run(FedBABU(head=(), **WORK)), run(FineTuning(**WORK))
    equal(one.groups[0].server, other.groups[0].server)
    equal(one.after[-1], other.after[-1])


def test_fedbn_is_fedper_whose_normalisation_is_personal():
    model = graded(normed_network)
    one, other = (run(a, model) for a in (FedBN(**WORK), FedPer(personal=("body.1.*",), **WORK)))
    equal(one.groups[0].server, other.groups[0].server)
    equal(one.groups[0].clients, other.groups[0].clients)
    equal(one.after[-1], other.after[-1])


def test_fedbn_shares_no_number_of_a_normalisation_layer():
    history = run(FedBN(**WORK), Model(normed_network), rounds=1)
    (group,) = history.groups
    layer = normed_network().body[1]
    assert group.clients.shape[1] == len(layer.state_dict()) * 4 - 4  # all but num_batches_tracked
    assert len(group.server) == Model(normed_network).d - group.clients.shape[1]


def test_fedbn_needs_something_to_keep():
    with pytest.raises(ValueError, match="a network with a normalisation layer"):
        run(FedBN(**WORK))


def first_of_one(algorithm):
    """FedAvg from where an algorithm with several models draws its first."""
    model = graded()
    model.init = lambda *seed: graded().init(*seed[:1], 0)
    return run(algorithm, model)


def test_fedem_with_one_component_is_fedavg():
    one, other = run(FedEM(components=1, **WORK)), first_of_one(FedAvg(**WORK))
    close(one.groups[0].server[0], other.groups[0].server)
    close(one.groups[0].clients, torch.ones(len(SIZES), 1).double())
    close(one.after[-1], other.after[-1])


def test_l2sp_without_its_pulls_is_fedavg():
    close(server(L2SP(lam=0.0, weight_decay=0.0, **WORK)), server(FedAvg(**WORK)))


def test_l2sp_in_the_first_round_is_fedprox():
    plain = {"rounds": 1, "held_out": ()}
    one = L2SP(lam=0.8, fresh=(), **WORK)
    close(server(one, **plain), server(FedProx(mu=0.8, **WORK), **plain))


def test_l2sp_pulls_new_arrays_to_zero_and_the_others_to_their_start():
    model, strong = classifier(), {"optimiser": SGD(lr=0.01), "batch_size": None, "steps": 2000}
    strong |= {"lam": 90.0, "weight_decay": 90.0}
    name = list(model.shapes)[-1]
    w = server(L2SP(fresh=(name,), **strong), rounds=1, held_out=())
    new = model.coordinates(name)
    assert w[new].abs().max() < 0.02
    assert (w - model.init(0))[~new].abs().max() < 0.05


def test_elastic_weights_without_weight_are_fedavg():
    equal(server(FedEWC(lam=0.0, **WORK)), server(FedAvg(**WORK)))


def test_there_is_nothing_to_hold_on_to_in_a_first_run():
    equal(server(FedEWC(lam=50.0, **WORK)), server(FedAvg(**WORK)))


def test_pfedrec_with_nothing_personal_is_fedavg_in_which_clients_count_alike():
    algorithm = PFedRec(personal=(), items="body.0.weight", item_lr=0.2, **PLAIN)
    table, shared = server(algorithm)
    everything = algorithm.join(classifier(), table, shared, shared[:0])
    close(everything, server(EvenFedAvg(**PLAIN)))


def test_the_median_of_equals_is_what_they_are():
    w = torch.tensor([3.0, -1.0, 0.1]).double()
    equal(CoordinateMedian().aggregate(None, None, w.expand(4, -1), None), w)


def test_per_fedavg_that_hardly_adapts_is_fedavg():
    """Every example comes twice in a row, so that both halves of a batch are the same."""
    examples = classification().train
    twice = Examples(
        examples.x.repeat_interleave(2, 0),
        examples.y.repeat_interleave(2),
        examples.sizes * 2,
    )
    federation, work = replace(classification(), train=twice), {**WORK, "batch_size": None}
    for first_order in (False, True):
        algorithm = PerFedAvg(inner_lr=1e-13, first_order=first_order, **work)
        one, other = (run(a, federation=federation) for a in (algorithm, FedAvg(**work)))
        close(one.groups[0].server, other.groups[0].server)
        close(one.after[-1], other.after[-1])


def test_the_two_gradients_of_per_fedavg_agree_where_the_loss_has_no_curvature():
    """The slope of |output - y| does not change with w, as long as it is far from y."""

    def distance(output, y):
        return (output[..., 0] - y).abs()

    x, y = torch.rand(8, 2).double(), torch.full((8,), 1e3).double()
    federation = Federation(Examples(x, y, (5, 3)), Examples(x, y, (5, 3)))
    model = Model(lambda: nn.Linear(2, 1).double(), distance, replace(rmse, of_examples=distance))
    exact, first = (
        server(PerFedAvg(inner_lr=0.3, first_order=f), model, federation, held_out=())
        for f in (False, True)
    )
    close(exact, first)


def test_warm_starts_change_nothing_where_the_inner_problem_is_solved():
    solved = {"lam": 4.0, "inner_lr": 0.2, "inner_steps": 40, **PLAIN}
    one, other = (run(PFedMe(warm_start=warm, **solved)) for warm in (False, True))
    close(one.groups[0].server, other.groups[0].server)
    close(one.groups[0].clients[TRAINED], other.groups[0].clients[TRAINED])
    one, other = (
        server(PFedMe(warm_start=warm, **{**solved, "inner_steps": 1})) for warm in (False, True)
    )
    assert (one - other).abs().max() > 1e-4


def test_pfedme_that_moves_no_way_stays():
    close(server(PFedMe(beta=1e-13, **PLAIN)), classifier().init(0))


def test_the_relations_of_mocha_are_the_root_of_what_tasks_have_in_common():
    W = torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    omega = MOCHA(clients=5).relations(W)
    close(omega.trace(), torch.tensor(1.0).double())
    close(omega, omega.T)
    root = torch.from_numpy(sqrtm((W @ W.T).numpy()).real)
    torch.testing.assert_close(omega, root / root.trace())


def test_equal_tasks_are_related_and_orthogonal_ones_are_not():
    W = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 0, 2]]).double()
    omega = MOCHA(clients=3).relations(W)
    assert omega[0, 1] > 0.1
    close(omega[0, 2], torch.tensor(0.0).double())
    close(omega[0, 1], omega[0, 0])


def test_equal_clients_of_equal_size_are_a_single_one():
    """Averaging what is equal changes nothing - with full batches, whose order does not matter."""
    whole = {**WORK, "batch_size": None}
    one = classification((9,))
    same = one.select([0, 0, 0])
    everyone = {"schedule": Synchronous(), "held_out": ()}
    close(server(FedAvg(**whole), federation=same, **everyone),
          server(FedAvg(**whole), federation=one, **everyone))  # fmt: skip


# An algorithm is a computation of torch -----------------------------------------------------------


def trained_by_torch(build, start, batches, optimiser, pull=lambda net: 0.0):
    """A network trained the way torch's tutorials do it, one mini-batch after the other."""
    net = build()
    net.load_state_dict({**net.state_dict(), **start})
    steps = optimiser(net.train().parameters())
    for batch in batches:
        real = slice(None) if batch.mask is None else batch.mask[0]
        steps.zero_grad()
        (F.cross_entropy(net(batch.x[0][real]), batch.y[0][real]) + pull(net)).backward()
        steps.step()
    return net


def batches_of(k, algorithm, round=1, federation=None):
    data = (federation or classification()).local(
        torch.tensor([k]), algorithm.batch_size, algorithm.epochs, 0, round, algorithm.steps
    )
    return list(data.batches())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SGD(lr=0.2), lambda p: torch.optim.SGD(p, lr=0.2)),
        (SGD(lr=0.2, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9)),
        (Adam(0.05, eps=0.01), lambda p: torch.optim.Adam(p, lr=0.05, eps=0.01)),
    ],
    ids=["SGD", "momentum", "Adam"],
)
@pytest.mark.parametrize(("build", "size"), [(network, 9), (normed, 8)], ids=["plain", "BatchNorm"])
def test_fedavg_with_one_client_is_plain_training(build, size, ours, theirs):
    model, federation = Model(build), classification((size,))
    algorithm = FedAvg(optimiser=ours, batch_size=4, epochs=2)
    w = model.init(0)
    for round in (1, 2, 3):  # the optimiser starts afresh in every round
        batches = batches_of(0, algorithm, round, federation)
        net = trained_by_torch(build, model.unflatten(w), batches, theirs)
        w = model.flatten(net.state_dict())
    close(server(algorithm, model, federation, held_out=()), w)


def test_fedavg_is_the_mean_of_its_clients_weighted_by_their_examples():
    algorithm, model = FedAvg(**WORK), classifier()
    start, total = model.unflatten(model.init(0)), torch.zeros(model.d).double()
    for k, n in enumerate(SIZES):
        net = trained_by_torch(
            network, start, batches_of(k, algorithm),
            lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.5),
        )  # fmt: skip
        total += n / sum(SIZES) * model.flatten(net.state_dict())
    close(server(algorithm, rounds=1, schedule=Synchronous(), held_out=()), total)


def test_fedavg_with_one_full_step_is_gradient_descent_on_all_examples():
    federation, net = classification(), network()
    net.load_state_dict(classifier().unflatten(classifier().init(0)))
    descent = torch.optim.SGD(net.parameters(), lr=0.2)
    for _ in range(5):
        descent.zero_grad()
        F.cross_entropy(net(federation.train.x), federation.train.y).backward()
        descent.step()
    algorithm = FedAvg(optimiser=SGD(lr=0.2), batch_size=None, steps=1)
    w = server(algorithm, rounds=5, schedule=Synchronous(), held_out=())
    close(w, classifier().flatten(net.state_dict()))


def test_fedprox_pulls_every_step_towards_the_server():
    algorithm, model, mu = FedProx(mu=0.8, **WORK), classifier(), 0.8
    start = {name: v.clone() for name, v in model.unflatten(model.init(0)).items()}

    def pull(net):
        return mu / 2 * sum(((p - start[n]) ** 2).sum() for n, p in net.named_parameters())

    one = classification().select([3])
    net = trained_by_torch(
        network, start, batches_of(0, algorithm, federation=one),
        lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.5), pull,
    )  # fmt: skip
    w = server(algorithm, federation=one, rounds=1, held_out=())
    close(w, model.flatten(net.state_dict()))


def test_fedper_sends_its_body_and_keeps_its_head():
    """In round 1 clients train as in FedAvg; afterwards bodies are averaged and heads are not."""
    algorithm, model = FedPer(**WORK), classifier()
    start, heads, body = model.unflatten(model.init(0)), [], 0.0
    for k, n in enumerate(SIZES):
        net = trained_by_torch(
            network, start, batches_of(k, algorithm),
            lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.5),
        )  # fmt: skip
        heads.append(torch.cat([net.head.weight.detach().flatten(), net.head.bias.detach()]))
        layer = net.body[0]
        body += n / sum(SIZES) * torch.cat([layer.weight.detach().flatten(), layer.bias.detach()])
    (group,) = run(algorithm, rounds=1, schedule=Synchronous(), held_out=()).groups
    close(group.clients, torch.stack(heads))
    close(group.server, body)


def test_a_newcomer_of_fedper_trains_its_head_under_the_body_as_it_is():
    history = run(FedPer(tuning=2, **WORK), held_out=(1,))
    model, (group,) = classifier(), history.groups
    net = network()
    net.load_state_dict(model.unflatten(model.join(group.server, group.clients[1], "head.*")))
    net.body.requires_grad_(False)
    for _ in range(2):
        optimiser = torch.optim.SGD(net.head.parameters(), lr=0.2, momentum=0.5)
        for batch in batches_of(1, FedPer(**WORK), round=3):
            real = slice(None) if batch.mask is None else batch.mask[0]
            optimiser.zero_grad()
            F.cross_entropy(net(batch.x[0][real]), batch.y[0][real]).backward()
            optimiser.step()
    x, y = classification().test[1]
    close(history.after[-1][1], F.cross_entropy(net(x), y).detach())


def test_fine_tuning_trains_the_received_copy_on_the_clients_own_examples():
    algorithm, model = FineTuning(tuning=2, **WORK), graded()
    history = run(algorithm, model)
    net = network()
    net.load_state_dict(model.unflatten(history.groups[0].server))
    for _ in range(2):
        net = trained_by_torch(
            network, net.state_dict(), batches_of(4, algorithm, round=3),
            lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.5),
        )  # fmt: skip
    x, y = classification().test[4]
    close(history.after[-1][4], F.cross_entropy(net(x), y).detach())


@pytest.mark.parametrize("optimiser", [SGD(lr=0.7, momentum=0.9), Adaptive(lr=0.1)], ids=str)
def test_fedopt_takes_the_mean_update_for_a_gradient(optimiser):
    algorithm = FedOpt(server_optimiser=optimiser, **WORK)
    w, state = classifier().init(0), optimiser.init(classifier().init(0))
    for round in (1, 2):
        mean = 0.0
        for k, n in enumerate(SIZES):
            net = trained_by_torch(
                network, classifier().unflatten(w), batches_of(k, algorithm, round),
                lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.5),
            )  # fmt: skip
            mean += n / sum(SIZES) * classifier().flatten(net.state_dict())
        w, state = optimiser.step(w, w - mean, state)
    close(
        leaves(server(algorithm, rounds=2, schedule=Synchronous(), held_out=())), leaves((w, state))
    )


# Closed forms on parabolas ------------------------------------------------------------------------

CURVATURES, CENTRES, EXAMPLES = [1.0, 4.0, 2.0], [0.0, 3.0, -2.0], [1, 2, 3]
A, C = (torch.tensor(v, dtype=torch.float64) for v in (CURVATURES, CENTRES))
P = torch.tensor(EXAMPLES, dtype=torch.float64) / 6
FULL = {"batch_size": None, "schedule": Synchronous(), "held_out": ()}


def settled(algorithm, rounds=120):
    """The federation of parabolas once nothing moves any more."""
    (group,) = run(
        replace(algorithm, batch_size=None), slope(), parabolas(CURVATURES, CENTRES, EXAMPLES),
        rounds, schedule=Synchronous(), held_out=(),
    ).groups  # fmt: skip
    return group


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_local_steps_drift_to_the_fixed_point_of_the_theory(steps):
    lr = 0.1
    pulled = P * (1 - (1 - lr * A) ** steps)  # how far a round carries each client to its centre
    expected = (pulled * C).sum() / pulled.sum()
    group = settled(FedAvg(optimiser=SGD(lr=lr), steps=steps))
    close(group.server, expected[None])


def test_one_step_settles_at_the_minimum_and_ten_do_not():
    minimum = (P * A * C).sum() / (P * A).sum()
    close(settled(FedAvg(optimiser=SGD(lr=0.1), steps=1)).server, minimum[None])
    assert (settled(FedAvg(optimiser=SGD(lr=0.1), steps=10)).server - minimum).abs() > 0.1


@pytest.mark.parametrize(("mu", "lr", "steps", "rounds"), [(0.5, 0.3, 45, 25), (5.0, 0.12, 22, 75)])
def test_fedprox_settles_where_its_pull_says(mu, lr, steps, rounds):
    """Clients go all the way to the minimum of f_k(v) + mu/2 |v - w|^2."""
    pulled = P * A / (A + mu)
    expected = (pulled * C).sum() / pulled.sum()
    group = settled(FedProx(mu=mu, optimiser=SGD(lr=lr), steps=steps), rounds)
    close(group.server, expected[None])


@pytest.mark.parametrize("lam", [0.5, 3.0])
def test_ditto_settles_between_a_client_and_the_server(lam):
    group = settled(Ditto(lam=lam, optimiser=SGD(lr=0.1), steps=5))
    expected = (A * C + lam * group.server) / (A + lam)
    close(group.clients[:, 0], expected)


def test_ditto_tied_tightly_is_the_global_model():
    slow = {"optimiser": SGD(lr=1e-4), "steps": 5}
    groups = [settled(Ditto(lam=lam, **slow), rounds=20) for lam in (1e4, 0.0)]
    tied, free = ((group.clients - group.server).abs().max() for group in groups)
    assert tied < 1e-3
    assert free > 50 * tied


@pytest.mark.parametrize("lam", [0.5, 3.0])
def test_tasks_settle_between_their_own_minimum_and_the_mean_of_all(lam):
    group = settled(MeanRegularised(lam=lam, optimiser=SGD(lr=0.1), steps=5))
    mean = (A * C / (A + lam)).sum() / (A / (A + lam)).sum()  # of tasks, not of examples
    close(group.server, mean[None])
    close(group.clients[:, 0], (A * C + lam * mean) / (A + lam))


def test_ifca_settles_at_the_mean_of_every_cluster_weighted_by_examples():
    centres, examples = [-5.0, 4.0, -6.0, 7.0], [1, 2, 3, 1]
    (group,) = run(
        IFCA(optimiser=SGD(lr=0.2), batch_size=None, steps=3), slope(),
        parabolas([1.0] * 4, centres, examples), 60, schedule=Synchronous(), held_out=(),
    ).groups  # fmt: skip
    means = torch.tensor([(-5.0 - 18.0) / 4, (8.0 + 7.0) / 3]).double()
    close(group.server.flatten().sort().values, means)


def test_an_ifca_model_that_nobody_picks_stays_as_it_was():
    lonely = parabolas([1.0], [5.0])
    (group,) = run(
        IFCA(batch_size=None), slope(), lonely, 3, schedule=Synchronous(), held_out=()
    ).groups
    W, _ = IFCA().init(slope(), 0)
    assert (group.server == W).flatten().tolist() == [bool(w < W.max()) for w in W]


def test_local_training_finds_every_centre():
    close(settled(Local(optimiser=SGD(lr=0.1), steps=5)).clients[:, 0], C)


@pytest.mark.parametrize("warm_start", [False, True])
def test_pfedme_settles_where_its_envelopes_say(warm_start):
    lam = 2.0
    group = settled(PFedMe(lam=lam, inner_lr=0.2, inner_steps=30, optimiser=SGD(lr=0.2), steps=1,
                           warm_start=warm_start))  # fmt: skip
    pulled = P * A / (A + lam)
    w = (pulled * C).sum() / pulled.sum()
    close(group.server, w[None])
    close(group.clients[:, 0], (A * C + lam * w) / (A + lam))


def test_scaffold_settles_at_the_minimum_however_many_steps():
    """FedAvg drifts away from it; here clients count alike, as in SCAFFOLD's mean."""
    minimum = (A * C).sum() / A.sum()
    group = settled(SCAFFOLD(optimiser=SGD(lr=0.1), steps=10), rounds=200)
    close(group.server[0], minimum[None])


def test_tasks_settle_where_the_slope_of_their_joint_loss_is_zero():
    """At rest, a_k (w_k - c_k) = - lam sum_j P_kj w_j."""
    group = settled(MOCHA(clients=3, lam=0.3, optimiser=SGD(lr=0.1), steps=1), rounds=400)
    W, pull = group.server
    close(group.clients, W)
    close(A * (W[:, 0] - C), -0.3 * (pull @ W)[:, 0])


# Federated point estimation (Li et al., ICML 2021) ------------------------------------------------


def measure(own, lam):
    """Ditto's personal estimates from what every device saw on average, own (devices, trials)."""

    def loss(output, y):
        return ((output - y) ** 2).sum(-1) / 2

    examples = Examples(torch.ones(len(own), 1).double(), own, [1] * len(own))
    model = Model(lambda: nn.Linear(1, own.shape[1], bias=False).double(), loss,
                  replace(rmse, of_examples=loss))  # fmt: skip
    algorithm = Ditto(lam=lam, optimiser=SGD(lr=1 / (1 + lam)), steps=30, batch_size=None)
    federation = Federation(examples, examples)
    (group,) = run(algorithm, model, federation, schedule=Synchronous(), held_out=()).groups
    return group.clients


def test_the_personal_estimate_lies_between_the_mean_and_ones_own():
    own = torch.tensor([[1.0], [2.0], [6.0]]).double()
    lam = 2.0
    close(measure(own, lam), lam / (1 + lam) * own.mean() + 1 / (1 + lam) * own)


@pytest.mark.parametrize(
    ("devices", "adversaries", "tau_a", "best"), [(8, 0, 0.1, 2.1333), (16, 8, 0.5, 1.1852)]
)
def test_the_best_tie_is_that_of_the_paper(devices, adversaries, tau_a, best):
    sigma, n, tau, trials = 0.8, 30, 0.1, 5_000
    K, m = devices, adversaries
    formula = sigma**2 / n * K / (K * tau**2 + m * (tau_a**2 - tau**2) / (K - 1))
    assert formula == pytest.approx(best, abs=1e-4)
    generator = torch.Generator().manual_seed(0)

    def normal(rows):
        return torch.randn(rows, trials, generator=generator, dtype=torch.float64)

    spread = torch.tensor([tau_a] * adversaries + [tau] * (devices - adversaries)).double()
    truth = normal(1) + spread[:, None] * normal(devices)
    own = truth + sigma / n**0.5 * normal(devices)
    benign = slice(adversaries, None)

    def error(lam):
        return (measure(own, lam)[benign] - truth[benign]).square().mean()

    at_best = error(best)
    assert at_best < min(error(0.7 * best), error(1.4 * best))
    # The error is a parabola in t = lam / (1 + lam): where it is least, in each tenth of the trials
    away, towards = (own - truth)[benign], (own - own.mean(0))[benign]
    t = torch.stack([(a * b).mean() / (b * b).mean() for a, b in
                     zip(away.chunk(10, 1), towards.chunk(10, 1), strict=True)])  # fmt: skip
    found = t / (1 - t)
    uncertainty = float(found.std() / 10**0.5)
    assert abs(float(found.mean()) - best) < 3 * uncertainty
    assert uncertainty < 0.05 * best
