"""Every client ends up with parameters of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..optimisers import SGD
from ..train import Proximal, train
from .base import Personal, average, need_plain_sgd


@dataclass(frozen=True)
class Local(Personal):
    """No communication: every client trains alone, on its own data."""

    def init(self, model, seed):
        return (), model.init(seed)

    def client_update(self, model, server, w, data):
        return (), train(model, w, data, self.optimiser)

    def aggregate(self, model, server, uploads, cohort):
        return server

    def receive(self, model, server, w):
        return w


@dataclass(frozen=True)
class FineTuning(Personal):
    """FedAvg; before it uses the model, every client trains its copy on its own data.

    Yu, Bagdasaryan and Shmatikov 2020, section 3, as local adaptation. arXiv:2002.04758
    """

    label = "FedAvg + fine-tuning"

    def personalise(self, model, server, client, data):
        w = server
        for _ in range(self.tuning):
            w = train(model, w, data, self.optimiser)
        return w


@dataclass(frozen=True)
class FedPer(Personal):
    """Share the body, keep the head.

    Arivazhagan, Aggarwal, Singh and Choudhary 2019, Algorithms 1 and 2. arXiv:1912.00818

    personal: names of the arrays that never leave the client, with wildcards. ("*",) is local
        training only, () is FedAvg. A newcomer trains its personal arrays under the shared ones.
    """

    personal: tuple[str, ...] = ("head.*",)

    def mine(self, model):
        """Names of the arrays that never leave the client."""
        return self.personal

    def init(self, model, seed):
        return model.split(model.init(seed), *self.mine(model))

    def client_update(self, model, shared, personal, data):
        w = model.join(shared, personal, *self.mine(model))
        w = train(model, w, data, self.optimiser)
        return model.split(w, *self.mine(model))  # upload the shared part, keep the personal one

    def receive(self, model, shared, personal):
        return model.join(shared, personal, *self.mine(model))

    def welcome(self, model, shared, personal, data):
        w = model.join(shared, personal, *self.mine(model))
        for _ in range(self.tuning):
            w = train(model, w, data, self.optimiser, only=model.coordinates(*self.mine(model)))
        return model.split(w, *self.mine(model))[1]


@dataclass(frozen=True)
class FedRep(FedPer):
    """First the head alone, then the body alone.

    Collins, Hassani, Mokhtari and Shakkottai, ICML 2021, Algorithm 1. arXiv:2102.07078
    epochs: of which the last trains the body, and all before it the head.
    """

    epochs: int = 6

    def __post_init__(self):
        super().__post_init__()
        if self.epochs < 2 or self.steps is not None:
            raise ValueError(
                "FedRep expects at least 2 epochs, for head and body, and no steps; got "
                f"epochs={self.epochs} and steps={self.steps}"
            )

    def client_update(self, model, shared, personal, data):
        head, last = model.coordinates(*self.mine(model)), self.epochs - 1
        w = model.join(shared, personal, *self.mine(model))
        w = train(model, w, data.during(0, last), self.optimiser, only=head)
        w = train(model, w, data.during(last, self.epochs), self.optimiser, only=~head)
        return model.split(w, *self.mine(model))


@dataclass(frozen=True)
class LGFedAvg(FedPer):
    """Local representations, global head: FedPer the other way round.

    Liang, Liu, Ziyin, Allen, Auerbach, Brent, Salakhutdinov and Morency 2020. arXiv:2001.01523
    The authors' code starts from a model trained by FedAvg; here everyone starts afresh.
    """

    personal: tuple[str, ...] = ("body.*",)
    label = "LG-FedAvg"


@dataclass(frozen=True)
class FedBN(FedPer):
    """Keep the normalisation layers: their scales, shifts and statistics.

    Li, Jiang, Zhang, Kamp and Dou, ICLR 2021, Algorithm 1. arXiv:2102.07623
    Raises ValueError where the network has no normalisation layer.
    """

    personal: tuple[str, ...] = ()

    def mine(self, model):
        return model.norm_arrays


@dataclass(frozen=True)
class FedBABU(Personal):
    """Train the body under a head that nobody changes; fine-tune everything at the end.

    Oh, Kim and Yun, ICLR 2022, Algorithm 1. arXiv:2106.06042
    head: names of the arrays that stay as they were drawn; clients know them from the start.
    """

    head: tuple[str, ...] = ("head.*",)

    def init(self, model, seed):
        return model.split(model.init(seed), *self.head)

    def client_update(self, model, body, head, data):
        w = model.join(body, head, *self.head)
        w = train(model, w, data, self.optimiser, only=~model.coordinates(*self.head))
        return model.split(w, *self.head)

    def welcome(self, model, body, head, data):
        return head  # as it was drawn

    def receive(self, model, body, head):
        return model.join(body, head, *self.head)

    def personalise(self, model, body, head, data):
        w = model.join(body, head, *self.head)
        for _ in range(self.tuning):
            w = train(model, w, data, self.optimiser)
        return w


@dataclass(frozen=True)
class Ditto(Personal):
    """A personal model v, tied to the global one: f_k(v) + lam/2 |v - server|^2.

    Li, Hu, Beirami and Smith, ICML 2021, Algorithm 1. arXiv:2012.04221
    lam = 0 is local training; lam -> infinity is FedAvg. A newcomer's v starts at the server. The
    server weights clients by their sizes, as FedAvg does (the authors' code weights them evenly).
    """

    lam: float = 0.1

    def init(self, model, seed):
        w = model.init(seed)
        return w, w

    def client_update(self, model, server, v, data):
        w = train(model, server, data, self.optimiser)
        return w, train(model, v, data, self.optimiser, Proximal(model, self.lam), server)

    def receive(self, model, server, v):
        return server

    def personalise(self, model, server, v, data):
        return v

    def welcome(self, model, server, v, data):
        return super().welcome(model, server, server, data)


@dataclass(frozen=True)
class MeanRegularised(Personal):
    """Tasks that stay near their mean: sum_k f_k(w_k) + lam/2 |w_k - mean of all w|^2.

    Evgeniou and Pontil, KDD 2004, equation 5 in spirit (they have support vector machines);
    federated by Hanzely and Richtarik 2020, arXiv:2002.05516.
    Ditto's tie, but to the mean of the personal models instead of to a global model of its own.
    """

    lam: float = 0.1

    def init(self, model, seed):
        w = model.init(seed)
        return w, w

    def client_update(self, model, mean, w, data):
        w = train(model, w, data, self.optimiser, Proximal(model, self.lam), mean)
        return w, w

    def aggregate(self, model, mean, uploads, cohort):
        return uploads.mean(0)

    def receive(self, model, mean, w):
        return mean

    def personalise(self, model, mean, w, data):
        return w

    def welcome(self, model, mean, w, data):
        return super().welcome(model, mean, mean, data)  # a newcomer starts at the mean


@dataclass(frozen=True)
class PFedMe(Personal):
    """Moreau envelopes: theta_k(w) = argmin f_k(theta) + lam/2 |theta - w|^2 is personal, and
    w descends lam (w - theta_k(w)).

    Dinh, Tran and Nguyen, NeurIPS 2020, Algorithm 1. arXiv:2006.08848
    The minimum is approached by `inner_steps` gradient steps on every mini-batch. beta: how far the
    server moves towards the average of the w. warm_start: begin these steps where the last
    mini-batch left theta, as the authors' code does, and not at w. (Their code has a further pull
    of .001 theta towards 0, and scores the local w under the name of theta.) The server weights
    clients by their sizes; the paper weights them evenly.
    """

    lam: float = 15.0
    inner_lr: float = 0.05
    inner_steps: int = 5
    beta: float = 1.0
    warm_start: bool = False
    label = "pFedMe"

    def init(self, model, seed):
        w = model.init(seed)
        return w, w

    def envelope(self, model, theta, w, batch):
        """Towards theta_k(w), from theta."""
        for _ in range(self.inner_steps):
            slope = model.gradient(theta, batch) + self.lam * (theta - w)
            theta = theta - self.inner_lr * slope
        return theta

    def client_update(self, model, server, theta, data):
        def direction(both, batch):
            w, theta = both.chunk(2, dim=-1)
            new = self.envelope(model, theta if self.warm_start else w, w, batch)
            return torch.cat([self.lam * (w - new), (theta - new) / self.optimiser.lr], dim=-1)

        both = train(model, torch.cat([server, theta], dim=-1), data, self.optimiser, direction)
        return both.chunk(2, dim=-1)  # w leaves, theta stays

    def __post_init__(self):
        super().__post_init__()
        need_plain_sgd(self)

    def aggregate(self, model, server, uploads, cohort):
        return torch.lerp(server, average(uploads, cohort.weights), self.beta)

    def receive(self, model, server, theta):
        return server

    def personalise(self, model, server, theta, data):
        return theta

    def welcome(self, model, server, theta, data):
        return super().welcome(model, server, server, data)


@dataclass(frozen=True)
class APFL(Personal):
    """Predict with a mixture of a personal and the global model, alpha v + (1 - alpha) w.

    Deng, Kamani and Mahdavi 2020, Algorithm 1. arXiv:2003.13461. alpha = 0 is FedAvg, alpha = 1
    local training. v descends the loss of the mixture, which brings a factor alpha to its gradient;
    alpha stays as it is given. (The authors' code mixes outputs instead of parameters.)
    """

    alpha: float = 0.5

    def init(self, model, seed):
        w = model.init(seed)
        return w, w

    def client_update(self, model, server, v, data):
        def direction(both, batch):
            w, v = both.chunk(2, dim=-1)
            mixed = model.gradient(self.alpha * v + (1 - self.alpha) * w, batch)
            return torch.cat([model.gradient(w, batch), self.alpha * mixed], dim=-1)

        both = train(model, torch.cat([server, v], dim=-1), data, self.optimiser, direction)
        return both.chunk(2, dim=-1)  # w leaves, v stays

    def receive(self, model, server, v):
        return server

    def personalise(self, model, server, v, data):
        return self.alpha * v + (1 - self.alpha) * server

    def welcome(self, model, server, v, data):
        return super().welcome(model, server, server, data)


@dataclass(frozen=True)
class FedALA(Personal):
    """Let every client learn, number by number, how much of the global model to take over.

    Zhang, Hua, Wang, Song, Xue, Ma and Guan, AAAI 2023, Algorithm 1. arXiv:2212.01197
    A round starts from v + (server - v) * A in the `adaptive` arrays, and from the server
    elsewhere. A in [0, 1] takes one pass over the local data a round, with step `ala_lr` (the
    authors train it to convergence in the first round, on a sample of the data).
    """

    adaptive: tuple[str, ...] = ("head.*",)
    ala_lr: float = 1.0

    def init(self, model, seed):
        w = model.init(seed)
        return w, (w, torch.ones_like(w))

    def client_update(self, model, server, client, data):
        v, A = client
        adapts = model.coordinates(*self.adaptive)
        base, gap = torch.where(adapts, v, server), torch.where(adapts, server - v, 0)

        def direction(A, batch, base, gap):
            return model.gradient(base + gap * A.clamp(0, 1), batch) * gap

        learns = adapts & ~model.statistics  # these are no numbers of a network
        A = train(model, A, data, SGD(self.ala_lr), direction, base, gap, only=learns).clamp(0, 1)
        w = train(model, base + gap * A, data, self.optimiser)
        return w, (w, A)

    def receive(self, model, server, client):
        return server

    def personalise(self, model, server, client, data):
        v, _ = client
        return v

    def welcome(self, model, server, client, data):
        _, A = client
        return super().welcome(model, server, (server, A), data)


@dataclass(frozen=True)
class MOCHA(Personal):
    """Tasks that learn who is like whom: sum_k f_k(w_k) + lam/2 tr(P W W^T).

    After Smith, Chiang, Sanjabi and Talwalkar, NeurIPS 2017, equation 1. arXiv:1705.10467. They
    solve a dual problem; here clients descend the primal one by SGD. The relations Omega between
    the tasks have the closed form (W W^T)^(1/2) / trace of Zhang and Yeung, UAI 2010, and P is
    their inverse, damped: (clients Omega + damping)^-1. Until all have sent a model, P is the pull
    towards the mean. clients: how many there are; the server keeps one row for each.
    """

    clients: int = 2
    lam: float = 0.1
    damping: float = 0.1

    def init(self, model, seed):
        w, K = model.init(seed), self.clients
        towards_the_mean = torch.eye(K, dtype=w.dtype, device=w.device) - 1 / K
        return (w.expand(K, -1).clone(), towards_the_mean), w

    def relations(self, W):
        """Omega, (clients, clients), from W (clients, d): trace 1, large where tasks are alike."""
        U, S, _ = torch.linalg.svd(W, full_matrices=False)
        return (U * (S / S.sum())) @ U.T

    def address(self, model, server, clients):
        """To each client: the others' pull on it, sum over j of P_kj w_j, and its own P_kk."""
        W, P = server
        if int(clients.max()) >= self.clients:
            raise ValueError(
                f"MOCHA keeps a row for each of {self.clients} clients, but there is a client "
                f"{int(clients.max())}; write clients=len(federation)"
            )
        rows, own = P[clients], P[clients, clients][:, None]
        return rows @ W - own * W[clients], own

    def client_update(self, model, server, w, data):
        def direction(w, batch, others, own):
            return model.gradient(w, batch) + self.lam * (own * w + others)

        w = train(model, w, data, self.optimiser, direction, *server)
        return w, w

    def aggregate(self, model, server, uploads, cohort):
        W = server[0].index_copy(0, cohort.clients.to(uploads.device), uploads)
        eye = torch.eye(len(W), dtype=W.dtype, device=W.device)
        P = torch.linalg.inv(self.clients * self.relations(W) + self.damping * eye)
        return W, P

    def receive(self, model, server, w):
        return w
