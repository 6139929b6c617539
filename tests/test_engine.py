"""The simulation: what it refuses, what it returns, and when it stops."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from test_model import normed
from torch import nn
from toys import SIZES, classification, classifier, close, equal, network, parabolas, slope

from fedlab_helpers import (
    SGD,
    Buffered,
    Ditto,
    Diverged,
    Examples,
    FedAvg,
    Federation,
    FedProx,
    Local,
    Model,
    Pooled,
    Synchronous,
    engine,
    repeat,
    simulate,
)
from fedlab_helpers.data import LocalData


def run(algorithm=FedAvg(batch_size=4), model=None, federation=None, **options):
    options = {"rounds": 3, "progress": False, **options}
    return simulate(algorithm, model or classifier(), federation or classification(), **options)


class Bar:
    """Stands in for tqdm's."""

    made: list = []  # noqa: RUF012

    def __init__(self, total, initial, **options):
        self.total, self.at, self.closed = total, initial, False
        self.made.append(self)

    def update(self):
        self.at += 1

    def close(self):
        self.closed = True


@pytest.fixture
def bars(monkeypatch):
    """Every bar that a run has shown."""
    monkeypatch.setattr(engine, "tqdm", Bar)
    monkeypatch.setattr(Bar, "made", [])
    return Bar.made


# How far it is ------------------------------------------------------------------------------------


def test_a_run_that_takes_longer_shows_how_far_it_is(bars, monkeypatch):
    monkeypatch.setattr(engine, "PATIENCE", -1)
    run(rounds=5, progress=True)
    (bar,) = bars
    assert (bar.total, bar.at, bar.closed) == (5, 5, True)


def test_a_short_run_makes_no_bar_and_one_that_is_to_be_silent_neither(bars, monkeypatch):
    run(progress=True)
    monkeypatch.setattr(engine, "PATIENCE", -1)
    run(progress=False)
    assert not bars


def test_the_bar_of_a_run_that_fails_goes_away(bars, monkeypatch):
    monkeypatch.setattr(engine, "PATIENCE", -1)

    def stop(history):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        run(rounds=6, evaluate_every=3, report=stop, progress=True)
    (bar,) = bars
    assert (bar.at, bar.closed) == (2, True), stopped


# What it refuses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("held_out", [[6], [-1], [0, 7, 9]])
def test_clients_that_do_not_exist_cannot_be_held_out(held_out):
    wrong = [k for k in held_out if not 0 <= k < 6]
    with pytest.raises(ValueError) as error:  # noqa: PT011
        run(held_out=held_out)
    assert f"held_out expects client numbers from 0 to 5, got {wrong}" in str(error.value)


def test_somebody_must_train():
    with pytest.raises(ValueError, match="at least one client to train, but all are held out"):
        run(held_out=range(6))


@pytest.mark.parametrize("what", ["rounds", "evaluate_every", "block", "threads"])
def test_a_count_of_zero_is_refused(what):
    with pytest.raises(ValueError, match=f"expected {what} of at least 1, got 0"):
        run(**{what: 0})


def test_more_clients_at_once_than_there_are_are_refused():
    with pytest.raises(ValueError, match="number of clients, but they are 2, 7 and 6"):
        run(schedule=Buffered(buffer=2, concurrency=7))


def test_held_out_clients_do_not_count_as_there_for_a_buffer():
    with pytest.raises(ValueError, match="they are 2, 6 and 5"):
        run(schedule=Buffered(buffer=2, concurrency=6), held_out=[0])


@pytest.mark.parametrize("classes", [(), ("a", "b", "c")], ids=["without names", "with names"])
def test_labels_beyond_the_networks_outputs_are_refused(classes):
    two_outputs = Model(lambda: network(classes=2))
    with pytest.raises(ValueError, match=r"labels 0 to 1 for a network with 2 outputs.* label 2"):
        run(model=two_outputs, federation=replace(classification(), classes=classes))


def test_a_loss_that_leaves_the_numbers_names_client_and_round():
    federation = replace(
        parabolas([1.0, 1e4, 1.0], [0.0, 1.0, 2.0]), clients=("anna", "berta", "cleo")
    )
    with pytest.raises(Diverged, match=r"round \d+: .* client 1 \(berta\) are no longer finite"):
        run(Local(optimiser=SGD(lr=0.1), steps=30), slope(), federation, rounds=20)


def test_the_round_it_names_is_the_first_without_numbers():
    federation = parabolas([1e4], [1.0])
    algorithm, rounds = Local(optimiser=SGD(lr=1.0), steps=20), []
    with pytest.raises(Diverged) as error:
        run(algorithm, slope(), federation, rounds=20, evaluate_every=1,
            report=lambda history: rounds.append(history.rounds[-1]))  # fmt: skip
    assert str(error.value).startswith(f"round {rounds[-1] + 1}: ")


def test_others_that_diverged_are_counted():
    federation = parabolas([1e4, 1e4, 1.0], [1.0, 1.0, 1.0])
    with pytest.raises(Diverged, match="nor are those of 1 others"):
        run(Local(optimiser=SGD(lr=1.0), steps=200), slope(), federation)


@dataclass(frozen=True)
class Counting(FedAvg):
    """Uploads one number, and keeps one."""

    def init(self, model, seed):
        return model.init(seed), torch.zeros(())

    def client_update(self, model, server, client, data):
        return (server, client / client), client + 1


def test_a_state_may_be_a_single_number():
    with pytest.raises(Diverged, match=r"round 1: the parameters of client \d"):
        run(Counting())


# Groups of clients with different networks --------------------------------------------------------


def two_architectures():
    narrow, wide = Model(network), Model(lambda: network(hidden=6))
    return [(narrow, [4, 0, 2]), (wide, [1, 5, 3])]


def test_every_client_has_one_network():
    (narrow, some), (wide, others) = two_architectures()
    with pytest.raises(ValueError, match="in exactly one group"):
        run(model=[(narrow, some), (wide, [*others, 0])])


def test_pooled_data_have_one_network():
    with pytest.raises(ValueError, match="one network where all data are pooled, got 2"):
        run(Pooled(), model=two_architectures())


def test_clients_of_one_network_are_a_federation_of_their_own():
    history = run(FedAvg(batch_size=None), two_architectures(), evaluate_every=1)
    for group, (model, members) in zip(history.groups, two_architectures(), strict=True):
        members = sorted(members)
        alone = run(FedAvg(batch_size=None), model, classification().select(members))
        close(group.server, alone.groups[0].server)
        close(history.after[-1][members], alone.after[-1])


def test_a_network_whose_clients_are_absent_waits():
    history = run(model=two_architectures(), schedule=Synchronous(fraction=0.01), rounds=1)
    unchanged = [torch.equal(group.server, group.model.init(0)) for group in history.groups]
    assert sorted(unchanged) == [False, True]


# What it returns ----------------------------------------------------------------------------------


def test_only_the_last_round_is_evaluated_unless_asked():
    assert run(rounds=5).rounds == [5]
    assert run(rounds=5, evaluate_every=2).rounds == [2, 4, 5]


def test_report_sees_the_history_at_every_evaluation():
    seen = []
    history = run(evaluate_every=1, report=lambda h: seen.append((h.rounds[-1], len(h.after))))
    assert seen == [(1, 1), (2, 2), (3, 3)]
    assert history.rounds == [1, 2, 3]


def test_the_clock_runs_as_the_schedule_says():
    assert run(evaluate_every=1).time == [1.0, 2.0, 3.0]


def test_more_rounds_begin_with_the_same_ones():
    equal(run(evaluate_every=1).after[1], run(rounds=2).after[0])


def test_scores_are_those_of_every_clients_model_on_its_own_test_data():
    history = run(Local(batch_size=4))
    model, federation = classifier(), classification()
    for k in range(len(SIZES)):
        x, y = federation.test[k]
        right = model(history.groups[0].clients[k], x).argmax(1) == y
        close(history.after[-1][k], right.double().mean())


def test_the_mean_the_worst_and_the_newcomers():
    history = run(Ditto(batch_size=4), held_out=[0, 3])
    history.after = [torch.tensor([9.0, 0.4, 0.2, 7.0, 0.6, 0.8])]
    history.before = [torch.tensor([9.0, 0.1, 0.1, 7.0, 0.1, 0.1])]
    assert history.trained == [1, 2, 4, 5]
    close(history.mean, torch.tensor([0.5]))
    close(history.mean_before, torch.tensor([0.1]))
    close(history.mean_held_out, torch.tensor([8.0]))
    close(history.worst(0.1), torch.tensor([0.2]))
    close(history.worst(0.5), torch.tensor([0.3]))


def test_the_worst_error_is_the_highest():
    history = run(Local(steps=1), slope(), parabolas([1.0] * 4, [0.0] * 4))
    history.after = [torch.tensor([1.0, 4.0, 2.0, 3.0])]
    close(history.worst(0.5), torch.tensor([3.5]))


@pytest.mark.parametrize("fraction", [0, 1.5, -1])
def test_the_worst_of_none_and_of_more_than_all_are_refused(fraction):
    with pytest.raises(ValueError, match=r"fraction in \(0, 1\]"):
        run().worst(fraction)


def test_nobody_held_out_has_no_score():
    assert math.isnan(run().mean_held_out)


def test_the_table_has_one_line_an_evaluation():
    history = run(evaluate_every=1, held_out=[2])
    table = history.table()
    assert table.index.tolist() == [1, 2, 3]
    assert table["accuracy"].tolist() == history.mean.tolist()
    assert table["held out"].tolist() == history.mean_held_out.tolist()
    assert table["sent up"].tolist() == [5 * 31, 10 * 31, 15 * 31]
    assert "held out" not in run().table()


def test_it_prints_the_algorithm_and_its_first_and_last_line():
    printed = str(run(evaluate_every=1))
    assert printed.startswith("FedAvg(optimiser=SGD(lr=0.1")
    assert len(printed.splitlines()) == 1 + 4
    assert "<table" in run()._repr_html_()


def test_pooling_sends_the_data_once_and_the_model_once():
    history = run(Pooled(batch_size=4), evaluate_every=1)
    assert history.sent_up == [sum(SIZES) * (3 + 1)] * 3
    assert history.sent_down == [len(SIZES) * 31] * 3


# How it computes ----------------------------------------------------------------------------------


def test_torch_has_its_threads_back_afterwards():
    before = torch.get_num_threads()
    run(threads=2)
    assert torch.get_num_threads() == before
    with pytest.raises(Diverged):
        run(Counting(), threads=2)
    assert torch.get_num_threads() == before


def test_a_simulation_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    run(model=Model(lambda: nn.Sequential(nn.Dropout(0.5), network())))
    equal(torch.rand(3), expected)


@pytest.mark.parametrize("differ", ["labels", "sizes"])
def test_seeds_whose_data_share_the_features_alone_train_on_their_own(differ):
    whole, model = classification(), classifier()
    x, y, sizes = whole.train.x, whole.train.y, whole.train.sizes

    def world(seed):
        turned = (y.roll(seed), sizes) if differ == "labels" else (y, sizes.roll(seed))
        return replace(whole, train=Examples(x, *turned))

    for seed, run in enumerate(repeat(FedAvg(), model, world, 2, range(2))):
        alone = simulate(FedAvg(), model, world(seed), 2, seed=seed)
        close(run.groups[0].server, alone.groups[0].server)


def test_dropout_is_repeated_with_the_seed():
    model = Model(lambda: nn.Sequential(nn.Dropout(0.5), network()))
    one, same, other = (run(model=model, seed=seed).groups[0].server for seed in (0, 0, 1))
    equal(one, same)
    assert (one != other).any()


def test_batch_norm_statistics_are_averaged_like_weights():
    federation = classification((8, 8))
    history = run(FedAvg(batch_size=4), Model(normed), federation, rounds=1)
    lone = run(Local(batch_size=4), Model(normed), federation, rounds=1)
    close(history.groups[0].server, lone.groups[0].clients.mean(0))


# Checkpoints --------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [FedAvg(batch_size=4), Ditto(batch_size=4, steps=3)])
def test_few_clients_a_round_are_looked_at_several_rounds_at_once(monkeypatch, algorithm):
    drawn = []
    plans = LocalData._plans
    monkeypatch.setattr(
        LocalData, "_plans", lambda data, lengths: drawn.append(lengths) or plans(data, lengths)
    )

    def runs(clients):
        monkeypatch.setattr(engine, "LOOK_AHEAD", clients)
        drawn.clear()
        return repeat(
            algorithm, classifier(), classification(), 7, range(2),
            schedule=Synchronous(0.4), evaluate_every=3, progress=False,
        )  # fmt: skip

    each, together = runs(1), runs(9)  # two clients of each of two seeds are four
    assert [len(lengths) for lengths in drawn].count(2) == 3
    for one, other in zip(each, together, strict=True):
        equal(one.groups[0].server, other.groups[0].server)
        equal(torch.stack(one.after), torch.stack(other.after))


def test_data_that_change_are_looked_at_when_their_round_comes():
    asked = []

    class Stream(Federation):
        def local(self, clients, batch_size, epochs, seed, round, steps=None):
            asked.append(round)
            return super().local(clients, batch_size, epochs, seed, round, steps)

    still = classification()
    moving = Stream(still.train, still.test)
    options = {"schedule": Synchronous(0.4), "rounds": 5}
    equal(run(federation=moving, **options).mean, run(federation=still, **options).mean)
    assert asked == sorted(asked)
    assert set(asked) == {1, 2, 3, 4, 5}


def test_a_finished_run_is_read_and_not_repeated(tmp_path):
    first = run(checkpoint=tmp_path / "run.pt", evaluate_every=1)
    reports = []
    again = run(checkpoint=tmp_path / "run.pt", evaluate_every=1, report=reports.append)
    assert reports == []
    equal(again.after, first.after)


@pytest.mark.parametrize(
    "other",
    [
        {"algorithm": FedProx(batch_size=4)},
        {"algorithm": FedAvg(batch_size=5)},
        {"seed": 1},
        {"rounds": 4},
        {"held_out": [1]},
        {"schedule": Synchronous(0.5)},
        {"federation": classification((5, 9, 3, 12, 7, 5))},
        {"model": Model(lambda: network(hidden=6))},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, other):
    run(checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"run.pt is a checkpoint of another run; expected"):
        run(checkpoint=tmp_path / "run.pt", **other)


def test_a_run_killed_while_saving_loses_nothing(tmp_path, monkeypatch):
    good = run(checkpoint=tmp_path / "run.pt", rounds=4, evaluate_every=2)
    (tmp_path / "run.pt").unlink()

    def kill_the_second(value, path, save=torch.save, calls=[]):  # noqa: B006
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half a file")
            raise KeyboardInterrupt
        save(value, path)

    monkeypatch.setattr(torch, "save", kill_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=tmp_path / "run.pt", rounds=4, evaluate_every=2)
    resumed = run(checkpoint=tmp_path / "run.pt", rounds=4, evaluate_every=2)
    equal(resumed.after, good.after)


def test_labels_below_zero_are_refused():
    federation = classification()
    y = federation.train.y.clone()
    y[3] = -1
    federation = replace(federation, classes=())
    train = Examples(federation.train.x, y, SIZES)
    with pytest.raises(ValueError, match=r"labels 0 to 2 .* there is a label -1"):
        run(federation=replace(federation, train=train))


def test_a_run_goes_on_from_another_and_leaves_that_one_as_it_was():
    model, federation = classifier(), classification(SIZES)
    first = simulate(Ditto(), model, federation, 2)
    server, clients = first.groups[0].server.clone(), first.groups[0].clients.clone()
    second = simulate(Ditto(), model, federation, 1, start=first)
    assert torch.equal(first.groups[0].server, server)
    assert torch.equal(first.groups[0].clients, clients)
    again = simulate(Ditto(), model, federation, 1)
    assert not torch.equal(second.groups[0].server, again.groups[0].server)


def test_a_run_cannot_go_on_from_one_of_another_algorithm():
    model, federation = classifier(), classification(SIZES)
    first = simulate(FedAvg(), model, federation, 1)
    with pytest.raises(ValueError, match="same algorithm, networks and clients"):
        simulate(Ditto(), model, federation, 1, start=first)


def test_only_clients_that_have_trained_take_room():
    history = run(Local(epochs=1), rounds=2, schedule=Synchronous(0.2))
    (group,) = history.groups
    assert len(group.kept) == 1 + int(group.seen.sum()) < 1 + len(group.members)
    close(group.clients[~group.seen], group.kept[:1].expand((~group.seen).sum(), -1))
