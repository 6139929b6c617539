"""One model for all: variants of FedAvg."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..optimisers import SGD, Optimiser
from ..train import Proximal, train
from .base import FedAvg, average, need_plain_sgd


@dataclass(frozen=True)
class Pooled(FedAvg):
    """All data in one place, and one model for all: what federated learning does without.

    Every round is `epochs` passes over everybody's examples. The data themselves count as sent.
    """

    pooled = True


@dataclass(frozen=True)
class FedProx(FedAvg):
    """Do not stray: every client descends f_k(w) + mu/2 |w - server|^2.

    Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, MLSys 2020, Algorithm 2. arXiv:1812.06127
    The paper samples clients by size and averages evenly; here they are sampled evenly and averaged
    by size, as in FedAvg.
    """

    mu: float = 0.1

    def client_update(self, model, server, client, data):
        stay_near = Proximal(model, self.mu)
        return train(model, server, data, self.optimiser, stay_near, server), client


@dataclass(frozen=True)
class L2SP(FedAvg):
    """Do not stray from the start: descend f_k(w) + lam/2 |w - w0|^2, where w0 is what the model
    began with, such as weights learnt elsewhere. New arrays are pulled to 0 instead.

    Li, Grandvalet and Davoine, ICML 2018, section 3. arXiv:1802.01483
    There one learner, here all clients: each keeps w0, and FedAvg does the rest. In FedProx the
    anchor moves with the server. lam and weight_decay are the paper's alpha and beta.

    fresh: names of the arrays that were drawn anew, with wildcards; weight_decay is their pull.
    """

    lam: float = 0.1
    fresh: tuple[str, ...] = ("head.*",)
    weight_decay: float = 0.01
    label = "L2-SP"

    def init(self, model, seed):
        w = model.init(seed)
        return w, w

    def client_update(self, model, server, start, data):
        new = model.coordinates(*self.fresh)
        strength = torch.where(new, self.weight_decay, server.new_tensor(self.lam))
        anchor = torch.where(new, 0.0, start)
        return train(model, server, data, self.optimiser, Proximal(model, strength), anchor), start


@dataclass(frozen=True)
class FedOpt(FedAvg):
    """The server's optimiser takes the mean update for a gradient.

    Reddi et al., ICLR 2021, Algorithm 1. arXiv:2003.00295
    `server_optimiser`: SGD with momentum (FedAvgM), `Adaptive` for FedAdam, FedYogi, FedAdagrad as
    in the paper; the authors' code uses Adam with bias correction, which is `Adam` here.
    """

    server_optimiser: Optimiser = SGD(lr=1.0, momentum=0.9)

    def init(self, model, seed):
        w = model.init(seed)
        return (w, self.server_optimiser.init(w)), ()

    def broadcast(self, model, server):
        w, _ = server
        return w

    def aggregate(self, model, server, uploads, cohort):
        w, state = server
        return self.server_optimiser.step(w, w - average(uploads, cohort.weights), state)


@dataclass(frozen=True)
class SCAFFOLD(FedAvg):
    """Control variates c, c_k take the drift out of every step: descend g - c_k + c.

    Karimireddy, Kale, Mohri, Reddi, Stich and Suresh, ICML 2020, Algorithm 1 (option II).
    arXiv:1910.06378. Clients count alike, whatever their sizes, as in the paper. The optimiser has
    to be SGD without momentum: c_k is read off from how far the client went.
    """

    server_lr: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        need_plain_sgd(self)

    def init(self, model, seed):
        w = model.init(seed)
        return (w, torch.zeros_like(w)), torch.zeros_like(w)

    def client_update(self, model, server, c_k, data):
        def direction(v, batch, c_k, c):
            return model.gradient(v, batch) - c_k + c

        w, c = server
        v = train(model, w, data, self.optimiser, direction, c_k, c)
        steps = data.counts[:, None].to(w)
        c_new = c_k - c + (w - v) / (steps * self.optimiser.lr)
        return (v - w, c_new - c_k), c_new

    def aggregate(self, model, server, uploads, cohort):
        (w, c), (dw, dc) = server, uploads
        return w + self.server_lr * dw.mean(0), c + dc.sum(0) / cohort.population

    def receive(self, model, server, c_k):
        w, _ = server
        return w


@dataclass(frozen=True)
class FedNova(FedAvg):
    """Normalise every update by the number of local steps, so that all count alike.

    Wang, Liu, Liang, Joshi and Poor, NeurIPS 2020, equation 6 and Algorithm 1. arXiv:2007.07481
    A client that takes tau_k steps sends (server - w) / a_k, where a_k is tau_k for plain SGD, and
    grows with momentum as one step goes on to count in those after it.
    """

    optimiser: SGD = SGD(lr=0.1)

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.optimiser, SGD):
            raise ValueError(f"FedNova expects the optimiser SGD, got {self.optimiser}")

    def client_update(self, model, server, client, data):
        w = train(model, server, data, self.optimiser)
        tau, rho = data.counts[:, None].to(w), self.optimiser.momentum
        a = (tau - rho * (1 - rho**tau) / (1 - rho)) / (1 - rho)
        return ((server - w) / a, a), client

    def aggregate(self, model, server, uploads, cohort):
        d, a = uploads
        return server - average(a, cohort.weights) * average(d, cohort.weights)


@dataclass(frozen=True)
class QFedAvg(FedAvg):
    """Fairness: clients with a large loss count more, sum_k F_k(w)^(q+1) / (q+1).

    Li, Sanjabi, Beirami and Smith, ICLR 2020, Algorithm 2. arXiv:1905.10497
    q = 0 weights all clients alike; q -> infinity looks at the worst one only (agnostic federated
    learning: Mohri, Sivek and Suresh, ICML 2019. arXiv:1902.00146). 1 / lr stands for the Lipschitz
    constant L, and F_k is the loss of the model as it was received.
    """

    q: float = 1.0
    label = "q-FedAvg"

    def __post_init__(self):
        super().__post_init__()
        need_plain_sgd(self)

    def client_update(self, model, server, client, data):
        L = 1 / self.optimiser.lr
        F = model.loss(server, data.all)[:, None].clamp(min=1e-10)
        step = L * (server - train(model, server, data, self.optimiser))
        h = self.q * F ** (self.q - 1) * (step**2).sum(-1, keepdim=True) + L * F**self.q
        return (F**self.q * step, h), client

    def aggregate(self, model, server, uploads, cohort):
        delta, h = uploads
        return server - delta.sum(0) / h.sum(0)
