"""What every algorithm owes the engine, and the engine every algorithm."""

from dataclasses import replace

import pytest
import torch
from toys import (
    SIZES,
    by_hand,
    classification,
    close,
    equal,
    graded,
    network,
    normed_network,
    public,
)

import fedlab_helpers
import fedlab_helpers.algorithms as family
from fedlab_helpers import (
    APFL,
    DPSGD,
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
    FedALA,
    FedAsync,
    FedAvg,
    FedBABU,
    FedBN,
    FedBuff,
    FedDF,
    FedEM,
    FedEWC,
    FedMD,
    FedNova,
    FedOpt,
    FedPer,
    FedProto,
    FedProx,
    FedRep,
    FineTuning,
    Krum,
    LGFedAvg,
    Local,
    MeanRegularised,
    Model,
    PerFedAvg,
    Personal,
    PFedMe,
    PFedRec,
    Pooled,
    QFedAvg,
    Reptile,
    Synchronous,
    TrimmedMean,
    repeat,
    simulate,
)
from fedlab_helpers.states import leaves, tree

WORK = {"optimiser": SGD(lr=0.3, momentum=0.5), "batch_size": 4, "epochs": 2}
PLAIN = {**WORK, "optimiser": SGD(lr=0.3)}  # where the paper leaves no room for momentum
OWN = {"tuning": 2, **WORK}
ALGORITHMS = [
    FedAvg(**WORK),
    FedAvg(optimiser=Adam(lr=0.1, eps=0.01), batch_size=4, steps=3),
    Pooled(**WORK),
    FedProx(mu=0.5, **WORK),
    L2SP(lam=0.5, weight_decay=0.1, **WORK),
    FedOpt(server_optimiser=SGD(lr=0.5, momentum=0.5), **WORK),
    FedOpt(server_optimiser=Adaptive(lr=0.1, rule="yogi"), **WORK),
    SCAFFOLD(**PLAIN),
    FedNova(**WORK),
    QFedAvg(q=0.5, **PLAIN),
    Personal(**WORK),
    Local(**OWN),
    FineTuning(**OWN),
    FedPer(**OWN),
    FedRep(**{**OWN, "epochs": 3}),
    LGFedAvg(**OWN),
    FedBABU(**OWN),
    FedBN(**OWN),
    Ditto(lam=0.5, **OWN),
    MeanRegularised(lam=0.5, **OWN),
    PFedMe(lam=2.0, inner_lr=0.1, tuning=2, **PLAIN),
    PFedMe(lam=2.0, inner_lr=0.1, tuning=2, warm_start=True, **PLAIN),
    APFL(**OWN),
    FedALA(**OWN),
    MOCHA(clients=len(SIZES), lam=0.05, **OWN),
    PerFedAvg(**WORK),
    PerFedAvg(first_order=True, inner_steps=2, **WORK),
    Reptile(**OWN),
    IFCA(clusters=2, **WORK),
    FedEM(components=2, **OWN),
    FedMD(public=public(), **WORK),
    FedDF(public=public(), distil_steps=3, **WORK),
    FedProto(lam=0.5, **OWN),
    FedAsync(**WORK),
    FedBuff(**WORK),
    DPFedAvg(clip=2.0, noise=0.05, **WORK),
    DPSGD(clip=2.0, noise=0.05, **WORK),
    CoordinateMedian(**WORK),
    TrimmedMean(trim=0.34, **WORK),
    Krum(byzantine=0, keep=2, **WORK),
    PFedRec(personal=("head.*",), items="body.0.weight", item_lr=0.2, tuning=2, **PLAIN),
    FedEWC(lam=0.5, **WORK),
]
OPTIONS = {
    "rounds": 4, "seed": 1, "held_out": (1,), "progress": False, "schedule": Synchronous(0.6),
}  # fmt: skip

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)


def model_for(algorithm, backend="auto"):
    """Scored by its loss, which shows every change. FedBN needs something to keep."""
    return graded(normed_network if isinstance(algorithm, FedBN) else network, backend)


def buffered(algorithm):
    """A schedule in which copies are stale, with as many uploads at once as the server needs."""
    if algorithm.pooled:
        return Buffered(1, 1)  # there is only one client
    return Buffered(3 if isinstance(algorithm, Krum) else 2, 4, spread=1.0)


def run(algorithm, federation=None, **options):
    federation = federation or classification()
    model = options.pop("model", None) or model_for(algorithm)
    return simulate(algorithm, model, federation, **{**OPTIONS, **options})


def outcome(history):
    """All that a run leaves behind."""
    (group,) = history.groups
    curves = [torch.stack(history.before), torch.stack(history.after)]
    counted = [torch.tensor(v) for v in (history.rounds, history.sent_up, history.sent_down)]
    return [*leaves(group.server), *leaves(group.clients), *curves, *counted]


def cohorts(schedule, rounds=4, trained=(0, 2, 3, 4, 5), seed=1):
    """Who trains in each round."""
    arrivals = schedule.arrivals(len(trained), seed)
    return [[trained[i] for i in next(arrivals).clients] for _ in range(rounds)]


def test_no_algorithm_is_missing_here():
    exported = {getattr(family, name) for name in family.__all__}
    classes = {c for c in exported if isinstance(c, type) and issubclass(c, FedAvg)}
    assert classes == {type(algorithm) for algorithm in ALGORITHMS}


def compare_with_a_loop(algorithm, schedule, build=None, federation=classification()):
    def model(backend):
        return graded(build, backend) if build else model_for(algorithm, backend)

    history = run(algorithm, federation, schedule=schedule, model=model("auto"))
    rest = {name: OPTIONS[name] for name in ("rounds", "seed", "held_out")}
    server, states, before, after = by_hand(
        algorithm, model("loop"), federation, schedule=schedule, **rest
    )
    (group,) = history.groups
    close(leaves(group.server), leaves(server))
    for k, state in states.items():
        close(leaves(tree(lambda v, k=k: v[k], group.clients)), leaves(state))
    close(history.before[-1], before)
    close(history.after[-1], after)


@every_algorithm
def test_many_at_once_are_a_loop_over_clients(algorithm):
    compare_with_a_loop(algorithm, Synchronous(0.6))


@every_algorithm
def test_and_so_they_are_where_copies_have_different_ages(algorithm):
    compare_with_a_loop(algorithm, buffered(algorithm))


@every_algorithm
def test_and_so_they_are_in_a_network_with_batch_norm(algorithm):
    if isinstance(algorithm, (DPSGD, FedEWC)):  # these look at examples one by one
        with pytest.raises(ValueError, match="without BatchNorm"):
            run(algorithm, model=Model(normed_network))
        return
    # Of equal size: rows that only fill up would count in the statistics of a mini-batch.
    compare_with_a_loop(algorithm, Synchronous(0.6), normed_network, classification([8] * 6))


@every_algorithm
def test_the_size_of_a_block_changes_nothing(algorithm):
    close(outcome(run(algorithm, block=2)), outcome(run(algorithm)))


def test_how_many_rows_are_gathered_at_once_changes_nothing(monkeypatch):
    at_once = outcome(run(FedAvg(**WORK)))
    for few in (1, 400):
        monkeypatch.setattr(fedlab_helpers.data, "GATHER", few)
        equal(outcome(run(FedAvg(**WORK))), at_once)


@every_algorithm
def test_the_order_of_the_clients_changes_nothing(algorithm):
    if isinstance(algorithm, FedAsync):
        pytest.skip("models that arrive together are mixed in one after the other, by number")
    # Batches and noise are drawn by a client's number: without them nothing depends on it.
    algorithm = replace(algorithm, batch_size=None)
    if hasattr(algorithm, "noise"):
        algorithm = replace(algorithm, noise=0.0)
    order = [3, 5, 0, 4, 1, 2]
    first = run(algorithm, held_out=(), schedule=Synchronous())
    again = run(algorithm, classification().select(order), held_out=(), schedule=Synchronous())
    (one,), (other,) = first.groups, again.groups
    server = one.server
    if isinstance(algorithm, MOCHA):  # here the server keeps the clients apart
        W, P = server
        server = W[order], P[order][:, order]
    close(leaves(other.server), leaves(server))
    close(leaves(other.clients), leaves(tree(lambda v: v[order], one.clients)))
    for name in ("before", "after"):
        close(getattr(again, name)[-1], getattr(first, name)[-1][order])


@every_algorithm
@pytest.mark.parametrize("batch_size", [4, 100, None], ids=lambda size: f"batch_size={size}")
def test_what_a_client_does_depends_on_no_other_client(algorithm, batch_size):
    if isinstance(algorithm, FedBN) and batch_size != 4:
        pytest.skip("BatchNorm sees the rows that fill a batch up to the largest client's size")
    algorithm, model = replace(algorithm, batch_size=batch_size), model_for(algorithm)
    federation, (server, client) = classification(), algorithm.init(model, 0)

    def work(clients):
        data = federation.local(
            clients, algorithm.batch_size, algorithm.epochs, 0, 1, algorithm.steps
        )
        received = algorithm.address(model, server, clients)
        kept = tree(lambda v: torch.stack([v] * len(clients)), client)
        return tree(lambda v: v[-1], algorithm.client_update(model, received, kept, data))

    everyone = torch.tensor(SIZES).argsort(descending=True, stable=True)
    smallest = everyone[-1:]
    for others in (everyone[:-1], everyone[2:4]):
        close(leaves(work(torch.cat([others, smallest]))), leaves(work(smallest)))


@every_algorithm
def test_absent_clients_keep_their_state(algorithm):
    states = []

    def remember(history):
        states.append(tree(torch.clone, history.groups[0].clients))

    run(algorithm, evaluate_every=1, report=remember)
    for before, now, cohort in zip(
        states, states[1:], cohorts(OPTIONS["schedule"])[1:], strict=False
    ):
        for old, new in zip(leaves(before), leaves(now), strict=True):
            changed = (old != new).flatten(1).any(1).nonzero().flatten().tolist()
            # FedBABU keeps a head that nobody changes, FedEWC what earlier data have left, L2-SP
            # its start.
            same = isinstance(algorithm, (FedBABU, FedEWC, L2SP))
            assert changed == ([] if same else cohort)


@every_algorithm
def test_being_evaluated_changes_nothing(algorithm):
    often, once = run(algorithm, evaluate_every=1), run(algorithm)
    equal(leaves(often.groups[0].server), leaves(once.groups[0].server))
    equal(leaves(often.groups[0].clients), leaves(once.groups[0].clients))
    equal(often.after[-1], once.after[-1])


@every_algorithm
def test_what_a_newcomer_learns_by_its_welcome_is_not_kept(algorithm):
    history = run(algorithm, evaluate_every=2)
    _, start = algorithm.init(model_for(algorithm), OPTIONS["seed"])
    equal(leaves(tree(lambda v: v[1], history.groups[0].clients)), leaves(start))


@every_algorithm
def test_a_seed_repeats_a_run_bit_for_bit(algorithm):
    equal(outcome(run(algorithm)), outcome(run(algorithm)))


@every_algorithm
def test_another_seed_is_another_run(algorithm):
    one, other = (run(algorithm, seed=seed).groups[0] for seed in (1, 2))
    for a, b in zip(
        leaves((one.server, one.clients)), leaves((other.server, other.clients)), strict=True
    ):
        assert (a != b).any()


@every_algorithm
def test_what_is_counted_is_what_leaves_the_clients_and_the_server(algorithm, monkeypatch):
    up, down, work = [0], [0], type(algorithm).client_update

    def client_update(self, model, server, client, data):
        upload, client = work(self, model, server, client, data)
        down[0] += sum(v.numel() for v in leaves(server))
        numbers = sum(v.numel() for v in leaves(upload))
        if isinstance(self, PFedRec):  # leaves out what did not move
            numbers = self.sent(model, upload)
        up[0] += numbers
        return upload, client

    everybody = Synchronous()  # nobody is welcomed: a newcomer's work would pass here too
    monkeypatch.setattr(type(algorithm), "client_update", client_update)
    counted = run(algorithm, schedule=everybody, held_out=(), block=2, threads=1)
    if algorithm.pooled:  # the data go up once, and the last model down
        federation = classification()
        up[0] = federation.train.x.numel() + len(federation.train.y)
        down[0] = len(federation) * model_for(algorithm).d
    assert (counted.sent_up, counted.sent_down) == ([up[0]], [down[0]])


@every_algorithm
def test_the_server_sees_the_uploads_in_the_order_of_its_cohort(algorithm, monkeypatch):
    uploaded, received, work, add = {}, [], type(algorithm).client_update, type(algorithm).aggregate

    def client_update(self, model, server, client, data):
        upload, client = work(self, model, server, client, data)
        for row, k in enumerate(data.clients.tolist()):
            uploaded[k] = leaves(tree(lambda v, row=row: v[row], upload))
        return upload, client

    def aggregate(self, model, server, uploads, cohort):
        if cohort is None:  # FedProto, once more, over all architectures
            return add(self, model, server, uploads, cohort)
        for row, k in enumerate(cohort.clients.tolist()):
            received.append(k)
            equal(leaves(tree(lambda v, row=row: v[row], uploads)), uploaded[k])
            if not algorithm.pooled:
                assert cohort.sizes[row] == SIZES[k]
        return add(self, model, server, uploads, cohort)

    monkeypatch.setattr(type(algorithm), "client_update", client_update)
    monkeypatch.setattr(type(algorithm), "aggregate", aggregate)
    run(algorithm, rounds=1, block=2)
    assert received == ([0] if algorithm.pooled else cohorts(OPTIONS["schedule"])[0])


@every_algorithm
def test_a_run_killed_half_way_goes_on_as_if_nothing_had_happened(algorithm, tmp_path):
    settings = {
        "rounds": 6, "evaluate_every": 2, "checkpoint": tmp_path / "run.pt",
        "schedule": Synchronous(0.6, spread=1.0) if algorithm.pooled else buffered(algorithm),
    }  # fmt: skip
    undisturbed = run(algorithm, **{**settings, "checkpoint": None})

    def kill(history):
        if history.rounds[-1] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(algorithm, **settings, report=kill)
    rounds = []
    resumed = run(algorithm, **settings, report=lambda history: rounds.append(history.rounds[-1]))
    assert rounds == [6]
    equal(outcome(resumed), outcome(undisturbed))
    assert resumed.time == undisturbed.time
    equal(leaves(tuple(resumed.groups[0].past)), leaves(tuple(undisturbed.groups[0].past)))


@every_algorithm
def test_the_number_of_threads_changes_nothing(algorithm):
    equal(outcome(run(algorithm, threads=2)), outcome(run(algorithm, threads=1)))


@every_algorithm
def test_held_out_clients_teach_nobody_anything(algorithm):
    federation = classification()
    x = federation.train.x.clone()
    x[SIZES[0] : SIZES[0] + SIZES[1]] *= 100  # the examples of client 1
    train = type(federation.train)(x, federation.train.y, SIZES)
    one, other = run(algorithm), run(algorithm, replace(federation, train=train))
    equal(leaves(one.groups[0].server), leaves(other.groups[0].server))
    equal(leaves(one.groups[0].clients), leaves(other.groups[0].clients))


@every_algorithm
def test_test_examples_teach_nobody_anything(algorithm):
    federation = classification()
    poisoned = replace(federation, test=type(federation.test)(
        100 * federation.test.x, federation.test.y, federation.test.sizes))  # fmt: skip
    one, other = run(algorithm, evaluate_every=1), run(algorithm, poisoned, evaluate_every=1)
    equal(leaves(one.groups[0].server), leaves(other.groups[0].server))
    equal(leaves(one.groups[0].clients), leaves(other.groups[0].clients))


@every_algorithm
def test_it_learns(algorithm):
    build = normed_network if isinstance(algorithm, FedBN) else network
    model = Model(build)
    history = run(algorithm, model=model, rounds=15, held_out=(), schedule=Synchronous())
    w = model.init(OPTIONS["seed"]).expand(len(SIZES), -1)
    chance = model.score(w, classification().test.batch()).mean()
    assert history.mean[-1] > chance + 0.2


@every_algorithm
def test_it_prints_as_its_hyper_parameters(algorithm):
    shown = repr(algorithm)
    assert shown.startswith(f"{type(algorithm).__name__}(optimiser=")
    again = eval(shown, {**vars(fedlab_helpers), "tensor": torch.tensor, "torch": torch})
    assert repr(again) == shown


@every_algorithm
@pytest.mark.parametrize("late", [False, True], ids=["in step", "late"])
def test_seeds_together_give_what_each_gives_alone(algorithm, late):
    def data(seed):
        return classification(seed=seed if late else 0)

    options = {**OPTIONS, "evaluate_every": 2, "block": 4}
    options["schedule"] = buffered(algorithm) if late else OPTIONS["schedule"]
    del options["seed"]
    seeds = (3, 1, 4)
    histories = repeat(algorithm, model_for(algorithm), data, seeds=seeds, **options)
    for seed, history in zip(seeds, histories, strict=True):
        alone = run(algorithm, data(seed), seed=seed, **options)
        close(outcome(history), outcome(alone))
        assert history.time == alone.time


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@every_algorithm
@pytest.mark.parametrize("backend", ["auto", "vmap", "loop"])
def test_a_gpu_gives_what_the_processor_gives(algorithm, backend):
    on_gpu = run(algorithm, model=model_for(algorithm, backend), device="cuda")
    found = [v.cpu() for v in outcome(on_gpu)]
    close(found, outcome(run(algorithm, model=model_for(algorithm, backend))))
