"""From noise to guarantees, and sums whose terms nobody sees.

What (epsilon, delta) a private algorithm gives is the accounting of Google's `dp-accounting` (Renyi
differential privacy: Mironov, CSF 2017. arXiv:1702.07476), told exactly the sampling that the
simulation uses. `masked` and `sum_of_masked` are the core of secure aggregation.
"""

from __future__ import annotations

from itertools import combinations
from math import inf
from typing import Any

import torch
from torch import Tensor

from .randomness import torch_stream

FRACTION = 2.0**-32  # the step of the fixed-point numbers that are masked


def client_epsilon(noise: float, clients: int, cohort: int, rounds: int, delta: float) -> float:
    """The epsilon of `DPFedAvg` for its clients, at this delta.

    noise: the noise multiplier z. In every round a cohort of fixed size is drawn without
    replacement. Neighbours: all data of one client are replaced by other data; that can move the
    sum of the updates by 2 clip, so z counts half.
    Raises ValueError where the cohort is larger than the clients, the noise is negative, there is
    no round, or delta is not in (0, 1).
    """
    import dp_accounting as dp

    if not 1 <= cohort <= clients:
        raise ValueError(f"expected a cohort of 1 to {clients} clients, got {cohort}")
    _check(noise, rounds, delta)
    if noise == 0:
        return inf
    everyone = dp.GaussianDpEvent(noise / 2)
    some = dp.SampledWithoutReplacementDpEvent(clients, cohort, everyone)
    # To draw a cohort never harms; where it is nearly everyone, the bound for it is the looser one.
    events = [everyone, some] if cohort < clients else [everyone]
    return min(_epsilon(e, rounds, delta, dp.NeighboringRelation.REPLACE_ONE) for e in events)


def example_epsilon(noise: float, epochs: int, delta: float) -> float:
    """The epsilon of `DPSGD` for each example of a client, at this delta.

    noise: the noise multiplier z. An epoch visits every example exactly once, in some mini-batch,
    so that one example meets one noisy sum an epoch; nothing is gained by random batches.
    epochs: in all rounds together. Neighbours: one example's gradient is there, or is zero.
    Raises ValueError where the noise is negative, there is no epoch, or delta is not in (0, 1).
    """
    import dp_accounting as dp

    _check(noise, epochs, delta)
    if noise == 0:
        return inf
    relation = dp.NeighboringRelation.ADD_OR_REMOVE_ONE
    return _epsilon(dp.GaussianDpEvent(noise), epochs, delta, relation)


def _check(noise: float, times: int, delta: float) -> None:
    if noise < 0:
        raise ValueError(f"expected a noise multiplier of at least 0, got {noise}")
    if times < 1:
        raise ValueError(f"expected at least 1 round or epoch, got {times}")
    if not 0 < delta < 1:
        raise ValueError(f"expected delta in (0, 1), got {delta}; write about 1 / (10 clients)")


def _epsilon(event: Any, times: int, delta: float, relation: Any) -> float:
    import dp_accounting as dp
    from dp_accounting import rdp

    accountant = rdp.RdpAccountant(neighboring_relation=relation)
    accountant.compose(dp.SelfComposedDpEvent(event, times))
    return float(accountant.get_epsilon(delta))


def masked(uploads: Tensor, seed: int, round: int = 1) -> Tensor:
    """What clients send under secure aggregation: uploads behind masks that cancel in the sum.

    Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal and Seth, CCS 2017, section
    4, "masking with one-time pads". Every two clients share a random number for each coordinate;
    one adds it and the other subtracts it. Uploads are rounded to multiples of 2^-32 first, and
    added modulo 2^64, so that a masked upload is uniform whatever is behind it, and the sum exact.
    Here a named stream stands for the key that two clients agree on, and nobody drops out in
    between (the paper recovers their masks from shares).

    uploads: (cohort, ...), floating point. Returns integers of the same shape.
    Raises ValueError for fewer than two clients, and for numbers too large for the sum.
    """
    cohort = len(uploads)
    if cohort < 2:
        raise ValueError(
            f"expected the uploads of two clients or more, got {cohort}; "
            "the sum over a single one hides nothing"
        )
    largest, most = float(uploads.abs().max()), 2.0**62 * FRACTION / cohort
    if not largest < most:
        raise ValueError(
            f"expected numbers below {most:g} for a sum over {cohort} clients, got {largest:g}; "
            "send differences from the broadcast, or clip them"
        )
    sent = (uploads.detach().double().cpu() / FRACTION).round().long()
    for u, v in combinations(range(cohort), 2):
        key = torch_stream("masks", seed, round, u, v)
        pad = torch.empty_like(sent[u]).random_(-(2**63), None, generator=key)
        sent[u] += pad
        sent[v] -= pad
    return sent


def sum_of_masked(sent: Tensor) -> Tensor:
    """What the server learns from masked uploads (cohort, ...): their sum, (...), and no term."""
    return sent.sum(0).double() * FRACTION
