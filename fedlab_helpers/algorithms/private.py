"""Hide each client, or each example, in the crowd. `fedlab_helpers.privacy` tells how well."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..model import clipped
from ..train import train
from .base import FedAvg, need_no_batch_norm


@dataclass(frozen=True)
class DPFedAvg(FedAvg):
    """Client-level differential privacy: clip every update, average evenly, add Gaussian noise.

    McMahan, Ramage, Talwar and Zhang, ICLR 2018, Algorithm 1. arXiv:1710.06963
    They draw cohorts by independent coin flips; here a cohort has a fixed size, drawn without
    replacement, and `privacy.client_epsilon` accounts for just that.
    clip: largest length of an update. noise: noise multiplier z, the standard deviation of the
        noise in the sum of the updates, divided by `clip`.
    """

    clip: float = 1.0
    noise: float = 1.0

    def client_update(self, model, server, client, data):
        update = train(model, server, data, self.optimiser) - server
        return clipped(update, self.clip), client

    def aggregate(self, model, server, uploads, cohort):
        drawn = torch.randn(server.shape, generator=cohort.generator, dtype=torch.float64)
        noise = self.noise * self.clip * drawn.to(server)
        return server + (uploads.sum(0) + noise) / len(uploads)


@dataclass(frozen=True)
class DPSGD(FedAvg):
    """Example-level differential privacy: FedAvg whose clients clip every example's gradient and
    add Gaussian noise to the sum.

    Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar and Zhang, CCS 2016, Algorithm 1.
    arXiv:1607.00133. They draw batches by independent coin flips; here an epoch visits every
    example once, and `privacy.example_epsilon` accounts for just that.
    """

    clip: float = 1.0
    noise: float = 1.0
    label = "DP-SGD"

    def init(self, model, seed):
        need_no_batch_norm(self, model)
        return super().init(model, seed)

    def client_update(self, model, server, client, data):
        def direction(w, batch):
            G = model.clipped_gradient(w, batch, self.clip)
            noise = self.noise * self.clip * data.normal(w)
            full = data.sizes.clamp(max=data.batch_size or int(data.sizes.max()))  # rows
            return (G + noise) / full[: len(w), None].to(w)

        return train(model, server, data, self.optimiser, direction), client
