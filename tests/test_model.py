"""A network as a function of one vector."""

import copy
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toys import SIZES, classification, classifier, close, equal, network

from fedlab_helpers import (
    Batch,
    Model,
    accuracy,
    binary_accuracy,
    binary_cross_entropy,
    cross_entropy,
    gradient,
    rmse,
    squared_error,
)

BACKENDS = ("stacked", "vmap", "loop")


def normed():
    """A network with BatchNorm."""
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()


def drawn(model, clients, seed=0):
    """Different parameters for every client."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(clients, model.d, generator=generator, dtype=torch.float64) + 0.1


# The vector -------------------------------------------------------------------------------------


def test_flatten_and_unflatten_are_inverse():
    model = classifier()
    w = drawn(model, 1)[0]
    equal(model.flatten(model.unflatten(w)), w)
    assert {n: tuple(v.shape) for n, v in model.unflatten(w).items()} == {
        "body.0.weight": (4, 3), "body.0.bias": (4,), "head.weight": (3, 4), "head.bias": (3,),
    }  # fmt: skip


def test_unflatten_keeps_the_clients_axis():
    model = classifier()
    w = drawn(model, 5)
    equal(model.unflatten(w)["head.weight"][3], model.unflatten(w[3])["head.weight"])


def test_flatten_wants_every_array():
    values = dict(network().state_dict())
    del values["head.bias"]
    with pytest.raises(KeyError, match=r"missing: \['head.bias'\]"):
        classifier().flatten(values)


def test_unflatten_wants_as_many_numbers_as_there_are():
    with pytest.raises(ValueError, match=r"expected 31 parameters in the last axis, got \(2, 5\)"):
        classifier().unflatten(torch.ones(2, 5))


def test_a_seed_draws_the_same_weights_and_another_seed_others():
    model = classifier()
    equal(model.init(3), classifier().init(3))
    assert (model.init(3) != model.init(4)).all()


def test_drawing_weights_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    classifier().init(1)
    equal(torch.rand(3), expected)


def test_split_and_join_are_inverse():
    model = classifier()
    w = drawn(model, 2)
    for patterns in [(), ("head.*",), ("*.bias",), ("*",), ("body.0.bias", "head.weight")]:
        equal(model.join(*model.split(w, *patterns), *patterns), w)


def test_split_takes_the_named_arrays_out():
    model = classifier()
    w = model.init(0)
    others, head = model.split(w, "head.*")
    named = model.unflatten(w)
    equal(head, torch.cat([named["head.weight"].flatten(), named["head.bias"]]))
    equal(others, torch.cat([named["body.0.weight"].flatten(), named["body.0.bias"]]))


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match=r"none matches 'heads\.\*'; there are: body.0.weight"):
        classifier().coordinates("head.*", "heads.*")


def test_a_network_instead_of_a_function_is_refused():
    with pytest.raises(TypeError, match="got a Linear; write Model"):
        Model(nn.Linear(2, 2))


@pytest.mark.parametrize("backend", ["fast", None])
def test_an_unknown_backend_is_refused(backend):
    with pytest.raises(ValueError, match="expected a backend among"):
        Model(network, backend=backend)


def test_stacked_is_refused_for_what_is_no_chain():
    with pytest.raises(ValueError, match="of GRU is not one; write backend='auto'"):
        Model(lambda: nn.GRU(2, 2), backend="stacked")


def test_auto_takes_the_fastest_backend_that_there_is():
    assert classifier().backend == "stacked"
    assert Model(lambda: nn.GRU(2, 2)).backend == "vmap"
    assert Model(lambda: nn.Sequential(nn.Conv2d(50, 50, 3))).backend == "loop"


def test_a_network_that_behaves_differently_when_trained_is_not_stacked():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2).double()

        def forward(self, x):
            return self.layer(x).tanh() if self.training else self.layer(x)

    model, x = Model(Network), torch.ones(3, 2, dtype=torch.float64)
    close(model(model.init(0).expand(4, -1), x[None])[2], model(model.init(0), x))


def test_frozen_parameters_are_no_part_of_the_vector_and_are_used():
    def build():
        net = network()
        net.body[0].weight.requires_grad_(False)
        return net

    model = Model(build)
    assert "body.0.weight" not in model.shapes
    assert model.d == 31 - 12
    x, w = classification().train[0][0], drawn(model, 2)
    frozen = model.learning.body[0].weight
    values = model.unflatten(w[1])
    hidden = torch.tanh(F.linear(x, frozen, values["body.0.bias"]))
    expected = F.linear(hidden, values["head.weight"], values["head.bias"])
    close(model(w, x[None])[1], expected)


# Outputs, losses, gradients ---------------------------------------------------------------------


@pytest.mark.parametrize("build", [network, normed], ids=["plain", "BatchNorm"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_computes_what_torch_computes(build, backend):
    model, batch = Model(build, backend=backend), classification((5, 5, 5)).train.batch()
    w = drawn(model, 3)
    for k in range(3):
        alone = build()
        alone.load_state_dict({**alone.state_dict(), **model.unflatten(w[k])})
        loss = F.cross_entropy(alone.train()(batch.x[k]), batch.y[k])
        parameters = dict(alone.named_parameters())
        slopes = dict(zip(parameters, torch.autograd.grad(loss, parameters.values()), strict=True))
        expected = torch.cat(
            [slopes.get(n, torch.zeros(s).double()).flatten() for n, s in model.shapes.items()]
        )
        close(model.loss(w, batch)[k], loss.detach(), check_dtype=True)
        close(model.gradient(w, batch)[k], expected)
        alone.load_state_dict({**alone.state_dict(), **model.unflatten(w[k])})  # statistics moved
        close(model(w, batch.x)[k], alone.eval()(batch.x[k]).detach())


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("loss", "outputs"), [(cross_entropy, 3), (squared_error, 1), (binary_cross_entropy, 1)]
)
def test_gradients_by_formula_are_those_of_autograd(loss, outputs, bias, activation):
    def build():
        layers = [nn.Linear(3, 4, bias=bias), activation(), nn.Linear(4, 5), activation()]
        return nn.Sequential(*layers, nn.Linear(5, outputs, bias=bias)).double()

    model, federation = Model(build, loss), classification(classes=2 if outputs == 1 else 3)
    w = drawn(model, len(SIZES))
    for batch in (federation.train.batch(), federation.test.batch()):  # with a mask, and without
        close(model.gradient(w, batch), gradient(model.loss, w, batch))


@pytest.mark.parametrize("length", [0.01, 0.3, 10.0])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_examples_gradient_is_clipped_on_its_own(backend, length):
    model, examples = classifier(backend), classification().train
    w = drawn(model, len(SIZES))
    found = model.clipped_gradient(w, examples.batch(), length)
    for k in range(len(SIZES)):
        x, y = examples[k]
        each = [model.gradient(w[k, None], Batch(x[None, i, None], y[None, i, None]))[0]
                for i in range(len(y))]  # fmt: skip
        close(found[k], sum(g * min(1, length / float(g.norm())) for g in each))


@pytest.mark.parametrize("loss", [squared_error, binary_cross_entropy])
def test_no_gradient_without_the_one_output_that_the_loss_needs(loss):
    model = Model(network, loss)
    with pytest.raises(ValueError, match="its last layer needs one output"):
        model.gradient(drawn(model, 6), classification().train.batch())


@pytest.mark.parametrize("backend", BACKENDS)
def test_padded_examples_count_neither_in_loss_nor_gradient_nor_score(backend):
    model, examples = classifier(backend), classification().train
    w, batch = drawn(model, len(SIZES)), examples.batch()
    poisoned = Batch(
        torch.where(batch.mask[..., None], batch.x, 7.0),
        torch.where(batch.mask, batch.y, 2),
        batch.mask,
    )
    for k in range(len(SIZES)):
        alone = Batch(*(v[None] for v in examples[k]))
        for f in (model.loss, model.gradient, model.score):
            expected = f(w[k : k + 1], alone)[0]
            close(f(w, batch)[k], expected)
            close(f(w, poisoned)[k], expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_clients_may_share_one_set_of_examples(backend):
    model, x = classifier(backend), classification().train[1][0]
    w = drawn(model, 2)
    close(model(w, x[None]), torch.stack([model(w[0], x), model(w[1], x)]))


def test_a_forgotten_clients_axis_is_explained():
    model = classifier()
    with pytest.raises(ValueError, match=r"got \(5, 3\); write x\[None\] to share it"):
        model(drawn(model, 2), classification().train[0][0])


def test_a_gradient_can_be_differentiated_again():
    model, batch = classifier(), classification((5, 5)).train.batch()
    w, v = drawn(model, 2), drawn(model, 2, seed=1)
    g = partial(gradient, model.loss, create_graph=True)
    product = gradient(lambda w: (g(w, batch) * v).sum(-1), w)
    near = 1e-5
    difference = (
        (model.gradient(w + near * v, batch) - model.gradient(w - near * v, batch)) / 2 / near
    )
    close(product, difference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_training_with_batch_norm_is_torchs_own_training_step_by_step(backend):
    model, lr = Model(normed, backend=backend), 0.2
    batch = classification((5, 5)).train.batch()
    nets = [normed(), normed()]
    w = torch.stack([model.flatten(net.state_dict()) for net in nets])
    for step in range(4):
        part = Batch(batch.x[:, step % 2 :], batch.y[:, step % 2 :])
        moved = model.track(w - lr * model.gradient(w, part), part)
        tracked = model.track(w, part)  # the statistics before the step's parameters move
        w = torch.where(model.statistics, tracked, moved)
        for k, net in enumerate(nets):
            optimiser = torch.optim.SGD(net.parameters(), lr=lr)
            optimiser.zero_grad()
            F.cross_entropy(net(part.x[k]), part.y[k]).backward()
            optimiser.step()
            close(w[k], model.flatten(net.state_dict()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_tracking_moves_the_statistics_and_nothing_else(backend):
    model, batch = Model(normed, backend=backend), classification((5, 5)).train.batch()
    w = drawn(model, 2)
    moved = model.track(w, batch) != w
    assert (moved == model.statistics).all()
    assert int(model.statistics.sum()) == 8


def test_computing_a_loss_leaves_the_statistics_alone():
    model, batch = Model(normed), classification((5, 5)).train.batch()
    w = drawn(model, 2)
    before, inside = w.clone(), copy.deepcopy(model.learning.state_dict())
    model.loss(w, batch)
    equal(w, before)
    equal(dict(model.learning.state_dict()), dict(inside))


def test_dropout_works_in_training_only():
    model = Model(lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 3)).double())
    batch = classification((50,)).train.batch()
    w = model.init(0)[None]
    assert model.loss(w, batch) != model.loss(w, batch)
    equal(model(w, batch.x), model(w, batch.x))


# Losses and scores ------------------------------------------------------------------------------


def test_losses_are_those_of_torch_one_number_an_example():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 5, 3, generator=generator)
    labels = torch.tensor([[0, 1, 2, 1, 0], [2, 2, 1, 0, 1]])
    flat = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="none")
    close(cross_entropy(scores, labels), flat.view(2, 5), rtol=1e-5, atol=1e-6)
    number, target = scores[..., :1], scores[..., 1]
    close(squared_error(number, target), (number[..., 0] - target) ** 2)
    close(squared_error(number[..., 0], target), (number[..., 0] - target) ** 2)
    binary = (labels > 1).long()
    expected = F.binary_cross_entropy_with_logits(number[..., 0], binary.float(), reduction="none")
    close(binary_cross_entropy(number, binary), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [squared_error, binary_cross_entropy])
def test_a_loss_on_numbers_wants_one_output(loss):
    with pytest.raises(ValueError, match="its last layer needs one output"):
        loss(torch.ones(2, 5, 3), torch.ones(2, 5))


def test_scores_count_what_they_say_of_real_examples_only():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    labels = torch.tensor([[0, 1, 1], [1, 1, 0]])
    output = torch.tensor([[[3.0, 1.0], [2.0, 1.0], [0.0, 1.0]], [[0.0, 1.0]] * 3])
    close(accuracy(output, labels, mask), torch.tensor([1 / 2, 2 / 3]))
    logits = output[..., 1:] - output[..., :1]
    close(binary_accuracy(logits, labels, mask), torch.tensor([1 / 2, 2 / 3]))
    targets = torch.tensor([[3.0, 0.0, 100.0], [0.0, 0.0, 3.0]])
    errors = rmse(torch.zeros(2, 3, 1), targets, mask)
    close(errors, torch.tensor([4.5**0.5, 3.0**0.5]))


def test_a_lower_error_is_better():
    assert (accuracy.higher_is_better, rmse.higher_is_better) == (True, False)


def test_a_table_with_fewer_rows():
    model = Model(lambda: nn.Sequential(nn.Embedding(9, 2), nn.Linear(2, 1)))
    small = model.with_rows("0.weight", 4)
    assert dict(small.shapes) == {**model.shapes, "0.weight": (4, 2)}
    assert small is model.with_rows("0.weight", 4)
    assert model.shapes["0.weight"] == (9, 2)
    assert small(small.init(0), torch.tensor([3, 0])).shape == (2, 1)


def test_several_threads_may_build_smaller_networks_at_once():
    def table():
        return nn.Sequential(nn.Embedding(50, 8), nn.Flatten(), nn.Linear(8, 4), nn.ReLU())

    for _ in range(20):
        model = Model(table)
        with ThreadPoolExecutor(8) as pool:
            small = list(pool.map(partial(model.with_rows, "0.weight"), range(2, 10)))
        assert {s.backend for s in small} == {"stacked"}
