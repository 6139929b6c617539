"""Flower: FedAvg on its Ray backend."""

import logging
import sys

import numpy as np
import torch
from common import Job, now, serve
from flwr.client import ClientApp, NumPyClient
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.simulation import run_simulation

PATH = sys.argv[1] if len(sys.argv) > 1 else ""
LOADED = {}  # once in every process of the backend


def job_of(path):
    """The data."""
    if path not in LOADED:
        torch.set_num_threads(1)
        LOADED[path] = Job(path)
    return LOADED[path]


class Client(NumPyClient):
    """A client as in its tutorials, with rows picked by a permutation."""

    def __init__(self, path, k):
        self.job, self.k = job_of(path), k

    def fit(self, parameters, config):
        """One round."""
        job, network = self.job, self.job.network()
        with torch.no_grad():
            for p, v in zip(network.parameters(), parameters, strict=True):
                p.copy_(torch.from_numpy(v))
        x, y = torch.from_numpy(job.x[self.k]), torch.from_numpy(job.y[self.k])
        optimiser = torch.optim.SGD(network.parameters(), lr=job.lr)
        done, most = 0, job.steps or -(-len(y) // job.batch)
        while done < most:
            for rows in torch.randperm(len(y)).split(job.batch)[: most - done]:
                optimiser.zero_grad()
                torch.nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
                optimiser.step()
                done += 1
        return [p.detach().numpy() for p in network.parameters()], len(y), {}


class Clock(FedAvg):
    """Notes when each round begins, and what it ended with."""

    def configure_fit(self, server_round, parameters, client_manager):
        """The library's hook."""
        self.began.append(now())
        return super().configure_fit(server_round, parameters, client_manager)

    def aggregate_fit(self, server_round, results, failures):
        """The library's hook."""
        parameters, metrics = super().aggregate_fit(server_round, results, failures)
        self.layers = parameters_to_ndarrays(parameters)
        return parameters, metrics


def run(job, rounds):
    """A simulation without evaluations."""
    path = PATH
    strategy = Clock(
        fraction_fit=job.fraction, fraction_evaluate=0.0, min_fit_clients=job.cohort,
        min_available_clients=len(job.x),
        initial_parameters=ndarrays_to_parameters(job.layers),
    )  # fmt: skip
    strategy.began = []

    def server(context):
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=rounds))

    def client(context):
        return Client(path, int(context.node_config["partition-id"])).to_client()

    logging.getLogger("flwr").setLevel(logging.ERROR)
    run_simulation(
        server_app=ServerApp(server_fn=server),
        client_app=ClientApp(client_fn=client),
        num_supernodes=len(job.x),
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    return strategy.began, [np.asarray(v) for v in strategy.layers]


if __name__ == "__main__":
    serve(run)
