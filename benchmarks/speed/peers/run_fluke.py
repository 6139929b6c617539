"""fluke: its FedAVG with its own fast data loader."""

import absent_torchvision  # noqa: F401
import torch
from common import now, serve
from fluke import FlukeENV
from fluke.algorithms import CentralizedFL
from fluke.client import Client
from fluke.config import OptimizerConfigurator
from fluke.data import FastDataLoader
from fluke.server import Server


class Loader(FastDataLoader):
    """The library's, or so many steps of it."""

    steps = 0

    def __iter__(self):
        if not self.steps:
            return super().__iter__()
        return self.some()

    def some(self):
        """Epoch after epoch, until there are enough."""
        done = 0
        while done < self.steps:
            super().__iter__()
            while done < self.steps:
                try:
                    batch = super().__next__()
                except StopIteration:
                    break
                yield batch
                done += 1


class Clock(CentralizedFL):
    """Notes when each round begins."""

    def notify(self, event, **kwargs):
        """The library's hook."""
        if event == "start_round":
            self.began.append(now())
        super().notify(event, **kwargs)


def run(job, rounds):
    """A simulation without evaluations."""
    torch.set_num_threads(1)
    FlukeENV().set_seed(0)
    optimiser = {"name": torch.optim.SGD, "lr": job.lr}
    clients = []
    for k, (x, y) in enumerate(zip(job.x, job.y, strict=True)):
        loader = Loader(
            torch.from_numpy(x), torch.from_numpy(y), num_labels=10, batch_size=job.batch,
            shuffle=True, skip_singleton=False,
        )  # fmt: skip
        loader.steps = job.steps
        settings = OptimizerConfigurator(optimizer_cfg=optimiser, scheduler_cfg=None)
        clients.append(Client(k, loader, None, settings, torch.nn.CrossEntropyLoss(), 1))
    server = Server(job.network(), None, clients, weighted=True)
    simulation = Clock(len(clients), None, {}, clients, server)
    simulation.began = []
    simulation.run(rounds, job.fraction, finalize=False)
    return simulation.began, [p.detach().numpy() for p in server.model.parameters()]


if __name__ == "__main__":
    serve(run)
