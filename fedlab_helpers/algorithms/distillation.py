"""Clients with different networks learn from each other's predictions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model import Model, gradient, masked_mean
from ..optimisers import SGD, Optimiser
from ..train import train
from .base import FedAvg, Personal


def distil(
    model: Model,
    w: Tensor,
    x: Tensor,
    scores: Tensor,
    optimiser: Optimiser,
    steps: int,
    temperature: float = 1.0,
) -> Tensor:
    """Bring the class probabilities of w (clients, d) on x to those of a teacher -> w.

    x: (1, rows, *features). scores: the teacher's, before softmax, (1 or clients, rows, classes).
    Both sides are softened by the temperature T, and the loss is T^2 KL(teacher || student):
    Hinton, Vinyals and Dean 2015, section 2. arXiv:1503.02531
    """
    T, teacher = temperature, (scores / temperature).log_softmax(-1)

    def loss(w):
        student = (model(w, x) / T).log_softmax(-1)
        return T**2 * (teacher.exp() * (teacher - student)).sum(-1).mean(-1)

    def slope(output, goal):  # of the loss, (clients, classes, rows): the same, sooner
        return T * ((output / T).softmax(1) - goal)

    formula, state = model.formula, optimiser.init(w)
    if formula is not None:
        examples = x.expand(len(w), *x.shape[1:]), teacher.exp().transpose(1, 2), None
    for _ in range(steps):
        g = gradient(loss, w) if formula is None else formula(w, *examples, slope)
        w, state = optimiser.step(w, g, state)
    return w


@dataclass(frozen=True)
class _OnPublicData(FedAvg):
    """What algorithms have in common that compare predictions on public data."""

    public: Tensor = torch.empty(0)  # (rows, *features)

    def __post_init__(self):
        super().__post_init__()
        if not len(self.public):
            raise ValueError(
                f"{type(self).__name__} expects public data for its predictions; "
                "write public=x, a tensor (rows, *features)"
            )


@dataclass(frozen=True)
class FedMD(_OnPublicData, Personal):
    """Send class scores on public data; learn from everyone's mean.

    Li and Wang 2019, Algorithm 1. arXiv:1910.03581. Their clients first train on the public data;
    here the public data have no labels, and the first consensus is uniform. Clients learn from it
    by the Kullback-Leibler divergence (the authors' code: the mean absolute error of the scores).
    digest_steps: full-batch steps towards the consensus, before a client returns to its own data.
    """

    digest_steps: int = 5
    temperature: float = 1.0

    def init(self, model, seed):
        w = model.init(seed)
        return torch.zeros_like(model(w, self.public)), w  # no opinion; a network of one's own

    def client_update(self, model, consensus, w, data):
        w = self.digest(model, consensus, w)
        w = train(model, w, data, self.optimiser)  # revisit
        return model(w, self.public[None]), w

    def digest(self, model, consensus, w):
        """Learn from the consensus."""
        public, steps = self.public[None], self.digest_steps
        return distil(model, w, public, consensus, self.optimiser, steps, self.temperature)

    def aggregate(self, model, consensus, uploads, cohort):
        return uploads.mean(0)

    def exchange(self, models, servers, uploads):
        return [torch.cat(uploads).mean(0)] * len(models)

    def receive(self, model, consensus, w):
        return w


@dataclass(frozen=True)
class FedDF(_OnPublicData):
    """FedAvg within each architecture; then teach every average what all clients predict together.

    Lin, Kong, Stich and Jaggi, NeurIPS 2020, Algorithms 1 and 3. arXiv:2006.07242
    The teacher's scores are the mean over the clients of all architectures.
    """

    distil_steps: int = 20
    distil_optimiser: Optimiser = SGD(lr=0.1)
    temperature: float = 1.0

    def exchange(self, models, servers, uploads):
        x = self.public[None]
        scores = torch.cat([model(W, x) for model, W in zip(models, uploads, strict=True)])
        teacher = scores.mean(0, keepdim=True)
        how = (x, teacher, self.distil_optimiser, self.distil_steps, self.temperature)
        return [distil(model, w[None], *how)[0] for model, w in zip(models, servers, strict=True)]


@dataclass(frozen=True)
class FedProto(Personal):
    """Share one prototype per class, the mean of what the body makes of its examples.

    Tan, Long, Liu, Zhou, Lu, Jiang and Zhang, AAAI 2022, Algorithm 1. arXiv:2105.00243
    A client descends f_k(w) + lam |body(x) - prototype of y|^2 / width, as in the authors' code; it
    sends its prototypes and on how many examples they rest, by which they are averaged (their code
    averages evenly). Networks may differ in everything but the width of their `head`'s input.
    Predictions come from the client's own head (the paper's from the nearest prototype).
    """

    lam: float = 1.0

    def init(self, model, seed):
        head = model.learning.head
        w = model.init(seed)
        prototypes = w.new_zeros(head.out_features, head.in_features)
        return (prototypes, w.new_zeros(head.out_features)), w

    def client_update(self, model, server, w, data):
        def gap(w, batch, prototypes, known):
            own = prototypes[torch.arange(len(w))[:, None], batch.y]
            far = (model.embed(w, batch.x) - own).square().mean(-1)
            return masked_mean(known.gather(1, batch.y) * far, batch.mask)

        def direction(w, batch, prototypes, known):
            pull = gradient(gap, w, batch, prototypes, known)
            return model.gradient(w, batch) + self.lam * pull

        prototypes, counts = server
        w = train(model, w, data, self.optimiser, direction, prototypes, (counts > 0).to(w))
        return self.prototypes(model, w, data.all, counts.shape[1]), w

    def prototypes(self, model, w, batch, classes):
        """The mean embedding of every class (clients, classes, width), and on how many it rests."""
        member = F.one_hot(batch.y, classes).to(w)
        if batch.mask is not None:
            member = member * batch.mask[..., None]
        counts = member.sum(1)
        means = member.transpose(1, 2) @ model.embed(w, batch.x)
        return means / counts.clamp(min=1)[..., None], counts

    def aggregate(self, model, server, uploads, cohort):
        prototypes, counts = uploads
        total = counts.sum(0)
        means = (counts[..., None] * prototypes).sum(0) / total.clamp(min=1)[:, None]
        return torch.where(total[:, None] > 0, means, server[0]), torch.maximum(total, server[1])

    def exchange(self, models, servers, uploads):
        together = tuple(torch.cat(parts) for parts in zip(*uploads, strict=True))
        return [self.aggregate(models[0], servers[0], together, None)] * len(models)

    def receive(self, model, server, w):
        return w
