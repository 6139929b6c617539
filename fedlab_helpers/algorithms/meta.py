"""Learn a start from which every client adapts quickly."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..model import gradient
from ..train import train
from .base import FedAvg, Personal, average


@dataclass(frozen=True)
class PerFedAvg(FedAvg):
    """MAML across clients: minimise sum_k f_k(w - inner_lr grad f_k(w)).

    Fallah, Mokhtari and Ozdaglar, NeurIPS 2020, Algorithm 1. arXiv:2002.07948; MAML: Finn, Abbeel
    and Levine, ICML 2017. arXiv:1703.03400. Every mini-batch is halved: adapt on one half, measure
    on the other (the paper draws separate batches, a third one for the Hessian).
    inner_steps: gradient steps of the adaptation. first_order: take the inner gradient for a
        constant (no Hessian). A client, also one never seen, predicts after adapting on all its
        examples.
    """

    inner_lr: float = 0.05
    inner_steps: int = 1
    first_order: bool = False
    label = "Per-FedAvg"

    def adapt(self, model, w, batch):
        """w - inner_lr grad f_k(w), `inner_steps` times."""
        for _ in range(self.inner_steps):
            if self.first_order:
                g = model.gradient(w, batch)
            else:
                g = gradient(model.loss, w, batch, create_graph=True)
            w = w - self.inner_lr * g
        return w

    def client_update(self, model, server, client, data):
        def meta_loss(w, support, query):
            return model.loss(self.adapt(model, w, support), query)

        def direction(w, batch):
            support, query = batch.halves()
            if self.first_order:
                return model.gradient(self.adapt(model, w, support), query)
            return gradient(meta_loss, w, support, query)

        return train(model, server, data, self.optimiser, direction), client

    def personalise(self, model, server, client, data):
        return self.adapt(model, server, data.all)


@dataclass(frozen=True)
class Reptile(Personal):
    """Move the start part of the way to where the clients went.

    Nichol, Achiam and Schulman 2018, Algorithm 2. arXiv:1803.02999. server_lr = 1 is FedAvg with
    fine-tuning.
    """

    server_lr: float = 0.5

    def aggregate(self, model, server, uploads, cohort):
        return torch.lerp(server, average(uploads, cohort.weights), self.server_lr)

    def personalise(self, model, server, client, data):
        w = server
        for _ in range(self.tuning):
            w = train(model, w, data, self.optimiser)
        return w
