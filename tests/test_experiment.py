"""Comparisons and the choice of hyper-parameters."""

from dataclasses import replace

import pytest
from toys import classification, classifier, close, equal, parabolas, slope

from fedlab_helpers import (
    SGD,
    Adam,
    Comparison,
    Ditto,
    FedAvg,
    FedPer,
    FedProx,
    FineTuning,
    Local,
    compare,
    experiment,
    grid,
    simulate,
    tune,
    tune_both,
)

OPTIONS = {"rounds": 3, "progress": False}


def local(lr=0.3, steps=3):
    return Local(optimiser=SGD(lr=lr), steps=steps)


def counted(monkeypatch):
    """The algorithms that `repeat` is asked for from now on."""
    asked, repeat = [], experiment.repeat

    def noted(algorithm, *rest, **options):
        asked.append(algorithm)
        return repeat(algorithm, *rest, **options)

    monkeypatch.setattr(experiment, "repeat", noted)
    return asked


def test_a_comparison_is_one_simulation_per_algorithm_and_seed():
    algorithms = [FedAvg(batch_size=4), local()]
    comparison = compare(algorithms, classifier(), classification(), seeds=(0, 5), **OPTIONS)
    assert list(comparison.histories) == ["FedAvg", "Local"]
    for algorithm in algorithms:
        for row, seed in enumerate((0, 5)):
            alone = simulate(algorithm, classifier(), classification(), seed=seed, **OPTIONS)
            equal(comparison.clients(algorithm.name)[row], alone.after[-1])


@pytest.mark.parametrize("epochs", [2, 3])
def test_fedavg_is_what_fine_tuning_begins_with_and_not_simulated_again(monkeypatch, epochs):
    ran = counted(monkeypatch)
    algorithms = [FedAvg(SGD(0.2), epochs), FedProx(SGD(0.2), 2), FineTuning(SGD(0.2), 2, tuning=3)]
    options = {**OPTIONS, "held_out": [1], "evaluate_every": 1}
    comparison = compare(algorithms, classifier(), classification(), seeds=(0, 5), **options)
    assert [*comparison.histories] == ["FedAvg", "FedProx", "FedAvg + fine-tuning"]
    assert len(ran) == (2 if epochs == 2 else 3)
    for found, seed in zip(comparison["FedAvg"], (0, 5), strict=True):
        alone = simulate(algorithms[0], classifier(), classification(), seed=seed, **options)
        assert (found.algorithm, found.sent_up) == (algorithms[0], alone.sent_up)
        for v, u in zip(found.after + found.before, alone.after + alone.before, strict=True):
            close(v, u)


def test_the_federation_may_depend_on_the_seed():
    comparison = compare(
        [local()], classifier(), lambda seed: classification(seed=seed), seeds=(0, 1), **OPTIONS
    )
    alone = simulate(local(), classifier(), classification(seed=1), seed=1, **OPTIONS)
    equal(comparison.clients("Local")[1], alone.after[-1])


def test_algorithms_of_one_class_need_names():
    with pytest.raises(ValueError, match=r"got \['Local', 'Local'\]; give a dict"):
        compare([local(), local(0.1)], classifier(), classification(), **OPTIONS)


def test_a_dictionary_names_them():
    both = {"slow": local(0.01), "fast": local(0.3)}
    comparison = compare(both, classifier(), classification(), seeds=[0], **OPTIONS)
    assert comparison["slow"][0].algorithm.optimiser.lr == 0.01


def test_an_unknown_name_is_explained():
    comparison = compare([local()], classifier(), classification(), seeds=[0], **OPTIONS)
    with pytest.raises(KeyError, match=r"one of \['Local'\], got 'FedAvg'"):
        comparison["FedAvg"]


def test_a_margin_is_positive_for_the_higher_accuracy():
    comparison = compare(
        {"good": local(0.5, 30), "bad": local(0.001, 1)},
        classifier(), classification(), seeds=(0, 1), **OPTIONS,
    )  # fmt: skip
    margin = comparison.margin("good", "bad")
    close(margin, comparison.mean("good") - comparison.mean("bad"))
    assert (margin > 0).all()
    close(comparison.margin("bad", "good"), -margin)


@pytest.mark.parametrize("of", ["mean", "worst", "held_out"])
def test_a_margin_is_positive_for_the_lower_error(of):
    comparison = compare(
        {"good": local(0.5, 30), "bad": local(0.001, 1)},
        slope(), parabolas([1.0] * 4, [4.0, 3.0, 5.0, 4.0]), seeds=(0, 1),
        held_out=[2], **OPTIONS,
    )  # fmt: skip
    assert (comparison.margin("good", "bad", of) > 0).all()
    assert (comparison.margin("bad", "good", of) < 0).all()


def test_the_table_shows_mean_and_deviation_over_seeds():
    comparison = compare(
        [FedAvg(), local()], classifier(), classification(), seeds=(0, 1, 2), **OPTIONS
    )
    table, mean = comparison.table(), comparison.mean("Local")
    assert table.index.tolist() == ["FedAvg", "Local"]
    assert table.loc["Local", "accuracy, mean client"] == f"{mean.mean():.3f} ± {mean.std():.3f}"
    assert table.loc["FedAvg", "sent up"] == "93"  # 31 numbers in each of 3 rounds
    assert table.loc["Local", "sent up"] == "0"
    assert "new clients" not in table
    assert "FedAvg" in str(comparison)
    assert "<table" in comparison._repr_html_()


def test_new_clients_have_a_column_where_some_were_held_out():
    comparison = compare(
        [local()], classifier(), classification(), seeds=[0], held_out=[1], **OPTIONS
    )
    score = comparison.held_out("Local").item()
    assert comparison.table().loc["Local", "new clients"] == f"{score:.3f}"


def test_a_comparison_reads_the_last_evaluation():
    history = simulate(local(), classifier(), classification(), evaluate_every=1, **OPTIONS)
    equal(Comparison({"Local": [history]}).clients("Local")[0], history.after[-1])


# Grids --------------------------------------------------------------------------------------------


def test_a_grid_has_every_combination():
    variants = grid(FedProx(), lr=[0.1, 0.3], mu=[0.01, 0.1])
    assert [(a.optimiser.lr, a.mu) for a in variants] == [
        (0.1, 0.01), (0.1, 0.1), (0.3, 0.01), (0.3, 0.1)
    ]  # fmt: skip


def test_a_grid_leaves_everything_else_as_it_was():
    base = Ditto(optimiser=Adam(beta1=0.5), epochs=3)
    (variant,) = grid(base, lr=[0.2])
    assert variant == replace(base, optimiser=Adam(lr=0.2, beta1=0.5))


def test_values_may_come_from_an_iterator():
    assert len(grid(FedPer(), epochs=iter([1, 2]), lr=iter([0.1, 0.2]))) == 4


def test_a_grid_refuses_what_the_algorithm_does_not_have():
    with pytest.raises(TypeError, match="mu"):
        grid(FedAvg(), mu=[0.1])


# Tuning -------------------------------------------------------------------------------------------


def test_the_better_learning_rate_wins_for_errors_and_for_accuracies():
    candidates = grid(local(), lr=[0.001, 0.3])
    federation = parabolas([1.0] * 3, [4.0, 3.0, 5.0], [4, 4, 4])
    assert tune(candidates, slope(), federation, **OPTIONS) is candidates[1]
    candidates = grid(Local(steps=30), lr=[0.0001, 0.3])
    assert tune(candidates, classifier(), classification(), **OPTIONS) is candidates[1]


def test_tuning_never_sees_a_test_row():
    candidates = grid(local(), lr=[0.001, 0.3])
    federation = parabolas([1.0] * 3, [4.0, 3.0, 5.0], [4, 4, 4])
    poisoned = replace(federation, test=parabolas([1.0] * 3, [-400.0] * 3, [4, 4, 4]).test)
    assert simulate(candidates[0], slope(), poisoned, **OPTIONS).mean < simulate(
        candidates[1], slope(), poisoned, **OPTIONS).mean  # fmt: skip
    assert tune(candidates, slope(), poisoned, **OPTIONS) is candidates[1]


def test_candidates_that_diverge_lose():
    federation = parabolas([1.0] * 3, [4.0, 3.0, 5.0], [4, 4, 4])
    candidates = grid(Local(steps=200), lr=[1e6, 0.001])
    assert tune(candidates, slope(), federation, **OPTIONS) is candidates[1]


def test_candidates_whose_score_is_no_number_lose():
    def root_of_what_is_left(mean):
        return (100 - mean).sqrt()  # NaN for errors above 100

    model = slope()
    model.example_score = replace(model.example_score, finish=root_of_what_is_left)
    candidates = grid(local(), lr=[100.0, 0.3])
    federation = parabolas([1.0] * 3, [4.0, 3.0, 5.0], [4, 4, 4])
    assert tune(candidates, model, federation, **OPTIONS) is candidates[1]


def test_where_all_diverge_there_is_nothing_to_choose():
    federation = parabolas([1.0] * 3, [4.0, 3.0, 5.0], [4, 4, 4])
    with pytest.raises(ArithmeticError, match="all 2 candidates diverged"):
        tune(grid(Local(steps=200), lr=[1e6, 1e7]), slope(), federation, **OPTIONS)


def test_no_candidates_are_refused():
    with pytest.raises(ValueError, match="at least one candidate"):
        tune([], classifier(), classification(), **OPTIONS)


def test_ties_go_to_the_first():
    candidates = [local(), local()]
    assert tune(candidates, classifier(), classification(), **OPTIONS) is candidates[0]


def test_every_seed_has_a_say():
    seen = []

    def federation(seed):
        seen.append(seed)
        return classification(seed=seed)

    tune([local(), local(0.1)], classifier(), federation, seeds=(3, 4), **OPTIONS)
    assert seen == [3, 4]


def test_fedavg_and_fine_tuning_are_tuned_with_one_training_of_each_candidate(monkeypatch):
    candidates = grid(FineTuning(epochs=1, tuning=20), lr=[0.03, 0.3, 3.0])
    rest = (classifier(), classification(), 2)
    alone = [
        tune(some, *rest, held_out=[1], progress=False)
        for some in (grid(FedAvg(epochs=1), lr=[0.03, 0.3, 3.0]), candidates)
    ]
    assert alone[0].optimiser != alone[1].optimiser  # so that it matters which of the two counts
    ran = counted(monkeypatch)
    assert [*tune_both(candidates, *rest, held_out=[1], progress=False)] == alone
    assert len(ran) == 3
    with pytest.raises(ValueError, match="at least one candidate"):
        tune_both([], *rest)
