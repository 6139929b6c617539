"""The one loop over mini-batches."""

import importlib.util

import pytest
import torch
from test_model import normed
from toys import SIZES, classification, classifier, close, equal

from fedlab_helpers import SGD, Adam, Model, Proximal, chain, closed_form, train
from fedlab_helpers.data import LocalData

LARGE_FIRST = torch.tensor(SIZES).argsort(descending=True, stable=True)


def local(clients=LARGE_FIRST, batch_size=4, epochs=2, steps=None):
    return LocalData(classification().train, clients, batch_size, epochs, steps, (0, 0))


def drawn(model, clients=6):
    return torch.stack([model.init(k) for k in range(clients)])


@pytest.mark.parametrize("optimiser", [SGD(0.1), SGD(0.1, momentum=0.9), Adam(0.1)], ids=str)
def test_a_client_with_fewer_mini_batches_stops_when_it_has_none_left(optimiser):
    model, data = classifier(), local()
    w = drawn(model)

    def pulled(w, batch):
        return model.gradient(w, batch) + 1.0  # never zero, even where nothing is to be learned

    together = train(model, w, data, optimiser, pulled)
    for row in range(len(LARGE_FIRST)):
        alone = local(LARGE_FIRST[row : row + 1])
        close(together[row], train(model, w[row : row + 1], alone, optimiser, pulled)[0])


def test_by_default_it_descends_the_loss():
    model, data = classifier(), local(LARGE_FIRST[:2], batch_size=None, epochs=1)
    w = drawn(model, 2)
    close(train(model, w, data, SGD(0.1)), w - 0.1 * model.gradient(w, data.all))


def test_the_anchors_come_row_by_row_with_the_clients_still_at_work():
    model, data = classifier(), local()
    w, anchor = drawn(model), torch.arange(6.0).double()[:, None].expand(6, model.d)

    def towards(w, batch, anchor):
        assert len(anchor) == len(w) == len(batch.x)
        return w - anchor

    close(train(model, w, data, SGD(1.0), towards, anchor), anchor)


def test_only_the_named_coordinates_move():
    model, data = classifier(), local()
    w, head = drawn(model), classifier().coordinates("head.*")
    moved = train(model, w, data, SGD(0.1, momentum=0.9), only=head) != w
    assert (moved == head).all()


def test_what_may_not_move_stays_even_where_it_is_a_statistic():
    model, data = Model(normed), local()
    w, last = drawn(model), Model(normed).coordinates("3.*")
    assert ((train(model, w, data, SGD(0.1), only=last) != w) == last).all()


def test_training_leaves_the_parameters_it_began_with_alone():
    model, w = classifier(), drawn(classifier())
    before = w.clone()
    train(model, w, local(), SGD(0.1))
    equal(w, before)


@pytest.mark.parametrize("backend", ["stacked", "vmap", "loop"])
def test_batch_norm_remembers_the_batch_as_it_was_before_the_step(backend):
    model = Model(normed, backend=backend)
    data = local(torch.tensor([3]), batch_size=4, epochs=3)  # 12 examples: no short mini-batch
    net = normed()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.5)
    w = train(model, model.flatten(net.state_dict())[None], data, SGD(0.3, momentum=0.5))
    for batch in data.batches():
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(batch.x[0]), batch.y[0]).backward()
        optimiser.step()
    close(w[0], model.flatten(net.state_dict()))


def networks():
    linear = Model(lambda: torch.nn.Linear(3, 3, dtype=torch.float64))
    bare = Model(lambda: torch.nn.Linear(3, 3, bias=False, dtype=torch.float64))
    return {"linear": linear, "linear without bias": bare, "one hidden layer": classifier()}


@pytest.mark.parametrize("batch_size", [4, None], ids=["mini-batches", "all at once"])
@pytest.mark.parametrize("network", networks())
def test_steps_by_formula_are_those_along_the_gradient(network, batch_size):
    model, data = networks()[network], local(batch_size=batch_size)
    w = drawn(model)
    assert model.formula is not None
    before = w.clone()
    along = train(model, w, data, SGD(0.1), model.gradient)
    close(train(model, w, data, SGD(0.1)), along)
    equal(w, before)
    assert not torch.equal(along, w)


@pytest.mark.parametrize("batch_size", [4, None], ids=["mini-batches", "all at once"])
@pytest.mark.parametrize("network", networks())
def test_proximal_steps_by_formula_are_those_along_the_direction(network, batch_size):
    model, data = networks()[network], local(batch_size=batch_size)
    w, anchor, near = drawn(model), drawn(model).flip(0), Proximal(model, 0.7)

    def direction(w, batch, anchor):
        return model.gradient(w, batch) + 0.7 * (w - anchor)

    along = train(model, w, data, SGD(0.1), direction, anchor)
    close(train(model, w, data, SGD(0.1), near, anchor), along)
    assert not torch.allclose(along, train(model, w, data, SGD(0.1)))


@pytest.mark.parametrize("names", ["head.*", "body.*", "*.bias"])
def test_a_proximal_term_may_be_stronger_for_some_coordinates(names):
    """By formula where that is the same for all of a layer, else the general way."""
    model, data = classifier(), local()
    strength = torch.where(model.coordinates(names), 0.2, torch.tensor(0.7))
    w, anchor, near = drawn(model), drawn(model).flip(0), Proximal(model, strength)

    def direction(w, batch, anchor):
        return model.gradient(w, batch) + strength * (w - anchor)

    along = train(model, w, data, SGD(0.1), direction, anchor)
    close(train(model, w, data, SGD(0.1), near, anchor), along)
    general = model.formula.descend(w, data, 0.1, strength, anchor) is None
    assert general == (names == "*.bias")


@pytest.mark.parametrize("names", ["head.*", "body.*", "*.bias", "*"])
def test_steps_by_formula_move_only_the_named_coordinates(names):
    """Whole layers; where a layer would move in part, the steps go the general way."""
    model, data = classifier(), local()
    w, named = drawn(model), classifier().coordinates(names)
    along = train(model, w, data, SGD(0.1), model.gradient, only=named)
    by_formula = train(model, w, data, SGD(0.1), only=named)
    close(by_formula, along)
    equal(by_formula[:, ~named], w[:, ~named])
    assert (model.formula.descend(w, data, 0.1, only=named) is None) == (names == "*.bias")
    equal(train(model, w, data, SGD(0.1), only=torch.zeros_like(named)), w)


@pytest.mark.parametrize("batch_size", [4, None])
@pytest.mark.parametrize("parts", [[2, 2, 2], [1, 5], [5, 1]])
def test_clients_whose_steps_go_to_several_threads_take_the_same(monkeypatch, parts, batch_size):
    model, data = classifier(), local(batch_size=batch_size)
    w, near = drawn(model), Proximal(model, 0.7)
    assert len(w) == sum(parts)
    whole = train(model, w, data, SGD(0.1), near, w.flip(0))
    monkeypatch.setattr(closed_form, "share_out", lambda *_: parts)
    close(train(model, w, data, SGD(0.1), near, w.flip(0)), whole)


@pytest.mark.parametrize(
    ("batch_size", "start", "run"),
    [(4, "start", chain.descend), (None, "start_repeat", chain.repeat)],
)
def test_steps_are_over_when_those_of_all_threads_are(monkeypatch, batch_size, start, run):
    """Whoever begins in another thread here only begins once somebody waits for it."""

    class Late:
        def __init__(self, *task):
            self.task = task

        def wait(self):
            run(*self.task)

    model, data = classifier(), local(batch_size=batch_size)
    w = drawn(model)
    whole = train(model, w, data, SGD(0.1))
    monkeypatch.setattr(closed_form, "share_out", lambda *_: [2, 2, 2])
    monkeypatch.setattr(chain, start, Late)
    close(train(model, w, data, SGD(0.1)), whole)


def test_the_steps_are_compiled_and_plain_python_takes_the_same(monkeypatch):
    assert isinstance(chain.descend, torch.jit.ScriptFunction)
    model, data = classifier(), local()
    w, near = drawn(model), Proximal(model, 0.7)
    compiled = train(model, w, data, SGD(0.1), near, w.flip(0))
    gradient = model.gradient(w, data.all)
    monkeypatch.delattr(torch.jit, "script")
    plain = importlib.util.module_from_spec(importlib.util.find_spec("fedlab_helpers.chain"))
    plain.__spec__.loader.exec_module(plain)
    assert not isinstance(plain.descend, torch.jit.ScriptFunction)
    monkeypatch.setattr(closed_form, "chain", plain)
    equal(train(model, w, data, SGD(0.1), near, w.flip(0)), compiled)
    equal(model.gradient(w, data.all), gradient)
