"""Many clients in one product a layer give what a loop over the clients gives."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from toys import close

from fedlab_helpers.stacked import chain, forward, is_heavy

CLIENTS, ROWS = 3, 5


class Personalised(nn.Module):
    """A network as a learner writes it."""

    def __init__(self):
        super().__init__()
        self.shared_layer = nn.Linear(4, 3)
        self.personalized_layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.personalized_layer(self.shared_layer(x))


class Functions(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 2, 3), nn.Linear(8, 1)

    def forward(self, x):
        x = torch.flatten(torch.relu(self.conv(x)), 1)
        return self.out(F.gelu(x).tanh()).squeeze(-1)


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Personalised(), nn.Sequential(nn.ReLU(), nn.Linear(2, 2))])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def written(forward, **layers):
    """A network with these layers and this forward pass."""

    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            for name, layer in layers.items():
                setattr(self, name, layer)

    Written.forward = forward
    return Written()


def values_of(network, clients=CLIENTS):
    """Different arrays for every client, named as in the network."""
    generator = torch.Generator().manual_seed(1)
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {
        name: torch.rand(clients, *v.shape, generator=generator, dtype=torch.float64) + 0.1
        if v.is_floating_point()
        else v.expand(clients, *v.shape)
        for name, v in named.items()
    }


def looped(network, values, x):
    """The reference: torch's own forward pass, client by client."""
    return torch.stack(
        [
            functional_call(network, {n: v[k].clone() for n, v in values.items()}, (x[k],))
            for k in range(len(x))
        ]
    )


def examples(shape):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(CLIENTS, ROWS, *shape, generator=generator, dtype=torch.float64)


LAYERS = {
    "Linear": (lambda: nn.Linear(4, 3), (4,)),
    "Linear without bias": (lambda: nn.Linear(4, 3, bias=False), (4,)),
    "Linear on sequences": (lambda: nn.Linear(4, 3), (2, 4)),
    "Conv2d": (lambda: nn.Conv2d(2, 3, 3), (2, 5, 5)),
    "Conv2d with everything": (
        lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2, bias=False),
        (4, 7, 7),
    ),
    "Conv2d keeping the size": (lambda: nn.Conv2d(2, 3, 3, padding="same"), (2, 5, 5)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), (4,)),
    "BatchNorm1d on sequences": (lambda: nn.BatchNorm1d(4), (4, 3)),
    "BatchNorm1d without scale": (lambda: nn.BatchNorm1d(4, affine=False), (4,)),
    "BatchNorm1d without memory": (lambda: nn.BatchNorm1d(4, track_running_stats=False), (4,)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(2, momentum=0.3, eps=0.01), (2, 3, 3)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (4, 3, 3)),
    "GroupNorm without scale": (lambda: nn.GroupNorm(2, 4, affine=False), (4,)),
    "LayerNorm": (lambda: nn.LayerNorm(4), (4,)),
    "LayerNorm on sequences": (lambda: nn.LayerNorm(4), (3, 4)),
    "LayerNorm over two axes": (lambda: nn.LayerNorm((3, 4)), (3, 4)),
    "LayerNorm without bias": (lambda: nn.LayerNorm(4, bias=False), (4,)),
    "ReLU": (nn.ReLU, (4,)),
    "Tanh": (nn.Tanh, (4,)),
    "LogSoftmax": (lambda: nn.LogSoftmax(-1), (4,)),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), (2, 4, 4)),
    "AvgPool2d": (lambda: nn.AvgPool2d(2), (2, 4, 4)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d(1), (2, 4, 4)),
    "Flatten": (nn.Flatten, (2, 3)),
    "Identity": (nn.Identity, (4,)),
    "a chain": (lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ELU()), (4,)),
    "a learner's network": (Personalised, (4,)),
    "functions and methods": (Functions, (1, 4, 4)),
    "a list of blocks": (Nested, (4,)),
    "a flat output": (lambda: written(lambda s, x: s.a(x).flatten(), a=nn.Linear(4, 1)), (4,)),
}


@pytest.mark.parametrize("training", [True, False], ids=["training", "deployed"])
@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_are_those_of_a_loop(name, training):
    build, shape = LAYERS[name]
    network = nn.Sequential(build()) if isinstance(build, type) else build()
    network = network.double().train(training)
    if not isinstance(network, nn.Sequential):
        network = nn.Sequential(network)
    values, x = values_of(network), examples(shape)
    trained = [v.requires_grad_() for n, v in values.items() if "running" not in n and v.ndim > 1]
    ours, theirs = forward(chain(network), dict(values), x, training), looped(network, values, x)
    close(ours, theirs)
    if trained:
        weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(3)).double()
        gradients = [torch.autograd.grad((y * weights).sum(), trained) for y in (ours, theirs)]
        close(*gradients, rtol=1e-7, atol=1e-9)


def test_an_embedding_looks_up_each_client_its_own_table():
    network = nn.Sequential(nn.Embedding(6, 3), nn.Flatten(), nn.Linear(6, 2)).double()
    x = torch.randint(0, 6, (CLIENTS, ROWS, 2), generator=torch.Generator().manual_seed(0))
    values = values_of(network)
    table = values["0.weight"].requires_grad_()
    ours, theirs = forward(chain(network), dict(values), x, True), looped(network, values, x)
    close(ours, theirs)
    close(*[torch.autograd.grad(y.square().sum(), table) for y in (ours, theirs)])


def test_dropout_drops_in_training_and_does_nothing_when_deployed():
    network = nn.Sequential(nn.Dropout(0.5)).double()
    x = torch.ones(CLIENTS, 100, 4, dtype=torch.float64)
    close(forward(chain(network), {}, x, False), x)
    dropped = forward(chain(network), {}, x, True)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert (dropped[0] != dropped[1]).any()


def test_batch_norm_moves_the_memory_of_every_client_as_torch_does():
    network = nn.Sequential(nn.BatchNorm2d(2, momentum=0.3)).double()
    values, x = values_of(network), examples((2, 3, 3))
    before = {name: v.clone() for name, v in values.items()}
    forward(chain(network), values, x, True)
    for k in range(CLIENTS):
        alone = nn.Sequential(nn.BatchNorm2d(2, momentum=0.3)).double()
        alone.load_state_dict({name: v[k] for name, v in before.items()})
        alone(x[k])
        close(values["0.running_mean"][k], alone[0].running_mean)
        close(values["0.running_var"][k], alone[0].running_var)


def test_a_layer_used_twice_has_one_weight():
    layer = nn.Linear(4, 4)
    network = nn.Sequential(layer, nn.ReLU(), layer).double()
    values, x = values_of(network), examples((4,))
    close(forward(chain(network), dict(values), x, True), looped(network, values, x))


def test_a_chain_is_recognised_by_its_forward_pass():
    assert [stage.name for stage in chain(Personalised())] == [
        "shared_layer.",
        "personalized_layer.",
    ]


def tied():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    network[2].weight = network[0].weight
    return network


def hooked():
    network = nn.Sequential(nn.Linear(4, 4))
    network[0].register_forward_hook(lambda layer, x, y: 2 * y)
    return network


def hooked_as_a_whole():
    network = nn.Sequential(nn.Sequential(nn.Linear(4, 4)))
    network[0].register_forward_hook(lambda layers, x, y: 2 * y)
    return network


@pytest.mark.parametrize(
    "build",
    [
        lambda: written(lambda s, x: x + s.a(x), a=nn.Linear(4, 4)),
        lambda: written(lambda s, x: s.a(x) + s.b(x), a=nn.Linear(4, 4), b=nn.Linear(4, 4)),
        lambda: written(lambda s, x: s.a(x) if x.sum() > 0 else -s.a(x), a=nn.Linear(4, 4)),
        lambda: written(lambda s, x: s.a(x) if len(x) > 1 else x, a=nn.Linear(4, 4)),
        lambda: written(lambda s, x: 2 * s.a(x), a=nn.Linear(4, 4)),
        lambda: written(lambda s, x: (s.a(x), x), a=nn.Linear(4, 4)),
        lambda: written(lambda s, x: s.a(x) * s.scale, a=nn.Linear(4, 4), scale=nn.Parameter(
            torch.ones(4))),
        lambda: written(lambda s, x: s.a(x[:, :2]), a=nn.Linear(2, 4)),
        lambda: written(lambda s, x: s.a(x).squeeze(), a=nn.Linear(4, 1)),
        lambda: written(lambda s, x, y: s.a(x), a=nn.Linear(4, 1)),
        lambda: nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")),
        lambda: nn.Sequential(nn.Embedding(5, 2, padding_idx=0)),
        lambda: nn.Sequential(nn.Embedding(5, 2, max_norm=1.0)),
        lambda: nn.Sequential(nn.BatchNorm1d(4, momentum=None)),
        lambda: nn.Sequential(nn.PReLU()),
        lambda: nn.Sequential(nn.RReLU()),
        lambda: nn.Sequential(nn.Softmax(0)),
        lambda: nn.Sequential(nn.Flatten(0)),
        lambda: nn.Sequential(nn.Conv1d(4, 4, 1)),
        lambda: nn.GRU(4, 4),
        tied,
        hooked,
        hooked_as_a_whole,
    ],
    ids=[
        "residual", "branches", "a condition on data", "a condition on size",
        "arithmetic", "two outputs", "a parameter of its own", "slice",
        "squeeze without a dimension", "two inputs", "circular padding", "padding index",
        "bounded embedding", "cumulative BatchNorm", "PReLU", "a random activation",
        "softmax over rows", "flatten over rows", "unknown layer", "recurrent", "tied weights",
        "hook", "hook of a container",
    ],
)  # fmt: skip
def test_what_is_no_chain_of_known_layers_is_left_to_the_other_backends(build):
    assert chain(build()) is None


@pytest.mark.parametrize(
    ("network", "heavy"),
    [
        (nn.Sequential(nn.Linear(1000, 1000)), False),
        (nn.Sequential(nn.Conv2d(1, 8, 3)), False),
        (nn.Sequential(nn.Conv2d(50, 50, 3)), True),
        (nn.GRU(100, 100), False),
        (nn.GRU(200, 200), True),
    ],
    ids=str,
)
def test_a_network_that_fills_the_machine_alone_is_heavy(network, heavy):
    assert is_heavy(chain(network), network) == heavy


def test_a_layer_is_a_chain_of_itself():
    (stage,) = chain(nn.Linear(4, 3))
    assert stage.name == ""
