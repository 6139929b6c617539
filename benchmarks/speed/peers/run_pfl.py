"""pfl-research: FederatedAveraging on its simulated backend, one process."""

from itertools import cycle, islice

import numpy as np
import torch
from common import now, serve
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel


class Network(torch.nn.Module):
    """The network with what the library asks of one."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        """Scores."""
        return self.network(x)

    def loss(self, x, y, eval=False):
        """Cross-entropy."""
        self.train(not eval)
        return torch.nn.functional.cross_entropy(self(x), y.long())

    def metrics(self, x, y, eval=True):
        """None are wanted."""
        return {}


class Steps(Dataset):
    """The library's mini-batches, from the first again where more are asked for."""

    steps = 0

    def iter(self, batch_size):
        """Once through, or so many."""
        batches = super().iter(batch_size)
        return islice(cycle(batches), self.steps) if self.steps else batches


class Clock(TrainingProcessCallback):
    """Notes when each round begins."""

    def __init__(self):
        self.began = []

    def on_train_begin(self, *, model):
        """The first."""
        self.began.append(now())
        return Metrics()

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        """The next."""
        self.began.append(now())
        return False, Metrics()


def run(job, rounds):
    """A simulation without evaluations."""
    torch.set_num_threads(1)
    np.random.seed(0)  # noqa: NPY002 - the library draws cohorts from it
    users = {}
    for k, (x, y) in enumerate(zip(job.x, job.y, strict=True)):
        users[k] = Steps((torch.from_numpy(x), torch.from_numpy(y)), user_id=k)
        users[k].steps = job.steps
    data = FederatedDataset(users.__getitem__, get_user_sampler("minimize_reuse", list(users)))
    network = Network(job.network())
    model = PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), lr=1.0))
    clock = Clock()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(rounds, rounds + 1, job.cohort, None),
        backend=SimulatedBackend(data, None, postprocessors=[WeightByDatapoints()]),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_batch_size=job.batch, local_num_epochs=1, local_learning_rate=job.lr
        ),
        callbacks=[clock],
        send_metrics_to_platform=False,
    )
    return clock.began[:rounds], [p.detach().numpy() for p in network.parameters()]


if __name__ == "__main__":
    serve(run)
