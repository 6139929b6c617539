"""FedLab: the serial trainer of its standalone simulation."""

import random

import absent_torchvision  # noqa: F401
import torch
from common import now, serve
from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer
from fedlab.contrib.algorithm.basic_server import SyncServerHandler
from torch.utils.data import DataLoader, RandomSampler, TensorDataset


class Clients:
    """What the trainer asks for a client's mini-batches."""

    def __init__(self, job):
        self.sets = [
            TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
            for x, y in zip(job.x, job.y, strict=True)
        ]
        self.steps = job.steps

    def get_dataloader(self, k, batch_size):
        """Once through the rows, or so many steps."""
        if not self.steps:
            return DataLoader(self.sets[k], batch_size, shuffle=True)
        draws = RandomSampler(self.sets[k], num_samples=self.steps * batch_size)
        return DataLoader(self.sets[k], batch_size, sampler=draws)


class Handler(SyncServerHandler):
    """Averages by size: as released it weights all clients alike."""

    def global_update(self, buffer):
        """The library's own average, with weights."""
        from fedlab.utils import Aggregators, SerializationTool

        mean = Aggregators.fedavg_aggregate([p[0] for p in buffer], self.weights)
        SerializationTool.deserialize_model(self._model, mean)


def run(job, rounds):
    """The loop of its StandalonePipeline."""
    torch.set_num_threads(1)
    random.seed(0)
    handler = Handler(job.network(), rounds, job.fraction)
    trainer = SGDSerialClientTrainer(job.network(), len(job.x))
    trainer.setup_dataset(Clients(job))
    trainer.setup_optim(1, job.batch, job.lr)
    handler.num_clients = trainer.num_clients
    began = []
    while not handler.if_stop:
        began.append(now())
        sampled = handler.sample_clients()
        handler.weights = torch.tensor([float(len(job.y[k])) for k in sampled])
        trainer.local_process(handler.downlink_package, sampled)
        for pack in trainer.uplink_package:
            handler.load(pack)
    return began, [p.detach().numpy() for p in handler._model.parameters()]


if __name__ == "__main__":
    serve(run)
