"""What an observer reads from an update: checked against what is known to be in it."""

import pytest
import torch
from torch import nn

import fedlab_helpers as fl
from fedlab_helpers.attacks import seen_by_units

FEATURES, UNITS = 6, 5


def network(activation):
    def build():
        return nn.Sequential(nn.Linear(FEATURES, UNITS), activation(), nn.Linear(UNITS, 1))

    return fl.Model(build, fl.binary_cross_entropy, fl.binary_accuracy)


def patients(rows):
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, FEATURES, generator=generator)
    return x.double(), torch.arange(rows) % 2


def update(model, x, y, steps=1):
    """How far SGD moves the first layer."""
    w = start = model.init(0).double()[None]
    for _ in range(steps):
        w = w - 0.1 * model.gradient(w, fl.Batch(x[None], y[None]))
    moved = model.unflatten((w - start)[0])
    return moved["0.weight"], moved["0.bias"]


@pytest.mark.parametrize("steps", [1, 20])
def test_one_patient_is_read_off_exactly_after_any_number_of_steps(steps):
    x, y = patients(1)
    seen = seen_by_units(*update(network(nn.Identity), x, y, steps))
    torch.testing.assert_close(seen, x.expand(UNITS, -1), atol=1e-9, rtol=0)


def test_of_several_patients_a_weighted_mean_is_read_off():
    """Without an activation every unit has the same weights: the errors of the patients."""
    x, y = patients(4)
    model = network(nn.Identity)
    seen = seen_by_units(*update(model, x, y))
    with torch.no_grad():
        error = model(model.init(0).double(), x)[:, 0].sigmoid() - y
    mean = (error[:, None] * x).sum(0) / error.sum()
    torch.testing.assert_close(seen, mean.expand(UNITS, -1), atol=1e-9, rtol=0)


def test_a_unit_that_only_one_patient_switches_on_gives_that_patient_away():
    x, y = patients(4)
    model = network(nn.ReLU)
    first = model.unflatten(model.init(0).double())
    on = (x @ first["0.weight"].T + first["0.bias"]) > 0  # (patients, units)
    alone = (on.sum(0) == 1).nonzero().flatten().tolist()
    assert alone, "the toy should have such a unit"
    seen = seen_by_units(*update(model, x, y))
    for unit in alone:
        torch.testing.assert_close(seen[unit], x[on[:, unit]][0], atol=1e-9, rtol=0)


def test_a_unit_that_has_not_moved_has_seen_nobody():
    seen = seen_by_units(torch.ones(2, 3), torch.tensor([0.0, 2.0]))
    assert seen[0].isnan().all()
    assert seen[1].tolist() == [0.5, 0.5, 0.5]


def test_updates_of_many_clients_at_once():
    weight, bias = torch.rand(7, 2, 3), torch.rand(7, 2) + 1
    together = seen_by_units(weight, bias)
    torch.testing.assert_close(together[4], seen_by_units(weight[4], bias[4]))


def test_weight_and_bias_must_be_of_one_layer():
    with pytest.raises(ValueError, match=r"a bias \(..., units\), got \(2, 3\) and \(3,\)"):
        seen_by_units(torch.ones(2, 3), torch.ones(3))
