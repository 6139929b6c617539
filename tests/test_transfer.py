"""What one federation has learnt, as the start of another."""

import pytest
import torch
from torch import nn

import fedlab_helpers as fl
from fedlab_helpers.transfer import LoRALinear, freeze, learned, lora, pretrained


@pytest.fixture
def federation():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 4, generator=draw), torch.randint(3, (30,), generator=draw)
    examples = fl.Examples(x, y, [10, 20])
    return fl.Federation(examples, examples)


def network(outputs=3):
    return fl.mlp(4, 5, outputs=outputs)


def test_what_a_run_has_learnt_is_what_its_server_ends_with(federation):
    model = fl.Model(network)
    run = fl.simulate(fl.FedAvg(), model, federation, 2)
    arrays = learned(run)
    assert list(arrays) == list(model.shapes)
    assert torch.equal(model.flatten(arrays), run.groups[0].server)


def test_of_fedper_the_body_is_learnt_and_the_head_is_as_it_was(federation):
    model = fl.Model(network)
    run = fl.simulate(fl.FedPer(), model, federation, 2)
    w = model.flatten(learned(run))
    assert torch.equal(model.split(w, "head.*")[0], run.groups[0].server)
    assert torch.equal(model.split(w, "head.*")[1], model.split(model.init(0), "head.*")[1])


def test_frozen_arrays_are_learnt_too(federation):
    model = fl.Model(lambda: freeze(network(), "body.*"))
    arrays = learned(fl.simulate(fl.FedAvg(), model, federation, 1))
    assert set(arrays) == set(dict(network().named_parameters()))
    assert torch.equal(arrays["body.0.weight"], model.fixed["body.0.weight"])


def test_a_run_with_two_networks_is_refused(federation):
    pair = [(fl.Model(network), [0]), (fl.Model(lambda: fl.linear(4, 3)), [1])]
    public = torch.zeros(6, 4)
    run = fl.simulate(fl.FedMD(public=public), pair, federation, 1)
    with pytest.raises(ValueError, match="one network, got one with 2"):
        learned(run)


def test_a_trunk_is_taken_over_under_a_new_head():
    source, target = network(), network(outputs=2)
    head = target.head.weight.clone()
    taken = pretrained(target, source.state_dict(), "body.*")
    assert taken is target
    assert torch.equal(taken.body[0].weight, source.body[0].weight)
    assert torch.equal(taken.head.weight, head)


def test_by_default_everything_is_taken_over():
    source = network()
    taken = pretrained(network(), source.state_dict())
    assert all(map(torch.equal, taken.parameters(), source.parameters()))


def test_what_is_taken_over_is_a_copy():
    source = network()
    taken = pretrained(network(), source.state_dict())
    with torch.no_grad():
        taken.head.bias.add_(1)
    assert not torch.equal(taken.head.bias, source.head.bias)


@pytest.mark.parametrize(
    ("arrays", "patterns", "message"),
    [
        (lambda: network().state_dict(), (), "of shape .2, 5. to start from, got one of .3, 5."),
        (dict, ("body.*",), "got none"),
        (lambda: network().state_dict(), ("trunk.*",), "none matches 'trunk"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays, patterns, message):
    with pytest.raises(ValueError, match=message):
        pretrained(network(outputs=2), arrays(), *patterns)


def test_what_is_frozen_is_neither_trained_nor_sent(federation):
    model = fl.Model(lambda: freeze(network(), "body.*"))
    assert list(model.shapes) == ["head.weight", "head.bias"]
    run = fl.simulate(fl.FedAvg(), model, federation, 1)
    assert run.sent_up[-1] == 2 * (5 * 3 + 3)


def test_freezing_nothing_that_is_there_is_refused():
    with pytest.raises(ValueError, match=r"there are: body\.0\.weight"):
        freeze(network(), "neck.*")


def test_lora_begins_where_the_network_is():
    plain, x = network(), torch.randn(7, 4)
    assert torch.equal(lora(pretrained(network(), plain.state_dict()), 2)(x), plain(x))


def test_lora_is_a_change_of_low_rank():
    layer = LoRALinear(nn.Linear(6, 5), 2)
    nn.init.normal_(layer.up)
    x = torch.randn(3, 6)
    merged = nn.functional.linear(x, layer.weight + layer.up @ layer.down, layer.bias)
    torch.testing.assert_close(layer(x), merged)
    assert [n for n, p in layer.named_parameters() if p.requires_grad] == ["down", "up"]


def test_lora_sends_rank_times_inputs_and_outputs():
    assert fl.Model(lambda: lora(network(), 2)).d == 2 * (4 + 5) + 2 * (5 + 3)
    assert fl.Model(lambda: lora(nn.Linear(4, 3), 1)).d == 4 + 3


def test_lora_of_some_layers_leaves_the_others():
    adapted = lora(network(), 1, "body.*")
    assert [type(m) for m in (adapted.head, adapted.body[0])] == [nn.Linear, LoRALinear]
    assert adapted.head.weight.requires_grad
    assert not adapted.body[0].bias.requires_grad


def test_lora_learns(federation):
    model = fl.Model(lambda: lora(network(), 1))
    run = fl.simulate(fl.FedAvg(), model, federation, 3)
    arrays = learned(run)
    assert arrays["body.0.up"].abs().max() > 0
    assert torch.equal(arrays["body.0.weight"], model.fixed["body.0.weight"])


def test_the_names_of_lora_are_those_of_the_network():
    plain = network()
    adapted = pretrained(lora(network(), 1), plain.state_dict(), "*.weight", "*.bias")
    assert torch.equal(adapted.body[0].weight, plain.body[0].weight)


def test_a_rank_of_zero_is_refused():
    with pytest.raises(ValueError, match="rank of 1 or more, got 0"):
        lora(network(), 0)


def test_lora_without_a_linear_layer_is_refused():
    with pytest.raises(ValueError, match="none matches"):
        lora(network(), 1, "body.1")
