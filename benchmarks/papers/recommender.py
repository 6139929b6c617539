"""Federated recommendation with a private score function: PFedRec, in its settings.

Zhang et al., IJCAI 2023, arXiv:2301.08143; code: github.com/Zhangcx19/IJCAI-23-PFedRec, commit
26d9b29. A user's last film is the test, the one before it the validation; each is ranked among 99
films that the user has not rated. All users take part, 100 rounds of one epoch, batch 256, 4
negatives per positive, drawn anew in every round; vectors of 32 numbers.

FEDLAB_ML100K names the file u.data of MovieLens-100K, whose licence forbids that we pass it on.
Without it, ml-latest-small takes its place, with the films rated ten times or more: for that
there is no published number.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import fedlab_helpers as fl
from fedlab_helpers import datasets, ranking
from fedlab_helpers.randomness import stream
from fedlab_helpers.ranking import Implicit

ROUNDS, EVERY, LR, WIDTH, BLOCK = 100, 5, 0.1, 32, 64
UNRATED, NEGATIVES = 99, 4


def ratings() -> tuple[str, pd.DataFrame]:
    """The name of the data, and user, item and time of every rating, numbered from 0."""
    if path := os.environ.get("FEDLAB_ML100K"):
        name = "MovieLens-100K"
        table = pd.read_csv(path, sep="\t", names=["userId", "movieId", "rating", "timestamp"])
    else:
        name, table = "ml-latest-small", datasets._table("movielens")
        table = table[table.groupby("movieId").movieId.transform("size") >= 10]
    columns = {c: np.unique(table[c], return_inverse=True)[1] for c in ("userId", "movieId")}
    return name, pd.DataFrame({**columns, "time": table.timestamp.to_numpy()})


def federation(table: pd.DataFrame, seed: int) -> tuple[Implicit, Tensor]:
    """The data, and (users, 2, 100) items to rank, validation and test: the right one first."""
    everything, rng = np.arange(table.movieId.max() + 1), stream("data", seed)
    users, ranked, unrated = [], [], []
    for _, own in table.groupby("userId"):
        items = own.sort_values("time", kind="stable").movieId.to_numpy()
        unrated.append(np.setdiff1d(everything, items))
        others = rng.choice(unrated[-1], (2, UNRATED), replace=False)
        ranked.append(np.concatenate([items[[-2, -1], None], others], 1))
        users.append((torch.tensor(items[:-2, None]), torch.ones(len(items) - 2)))
    candidates = torch.from_numpy(np.stack(ranked))
    test = fl.Examples.stack([(c[1, :, None], torch.eye(1, UNRATED + 1)[0]) for c in candidates])
    data = Implicit(fl.Examples.stack(users), test, unrated=tuple(unrated), negatives=NEGATIVES)
    return data, candidates


class Scores(nn.Module):
    """A vector for every item, and a linear score: (rows, 1) item numbers -> (rows, 1) logits."""

    def __init__(self, items: int):
        super().__init__()
        self.items = nn.Embedding(items, WIDTH)
        self.score = nn.Linear(WIDTH, 1)

    def forward(self, x):
        return self.score(self.items(x[..., 0]))


@dataclass(frozen=True)
class OwnItems(fl.PFedRec):
    """PFedRec whose users predict with the items as they left them, as the authors' code does."""

    def init(self, model, seed):
        server, personal = super().init(model, seed)
        return server, (personal, server)

    def client_update(self, model, server, client, data):
        upload, personal = super().client_update(model, server, client[0], data)
        (table, shared), (rows, table_moves, moves) = server, upload
        places = rows[:, :, None].expand_as(table_moves)
        return upload, (personal, (table.scatter_add(1, places, table_moves), shared + moves))

    def receive(self, model, server, client):
        return super().receive(model, server, client[0])

    def personalise(self, model, server, client, data):
        personal, (table, shared) = client
        return self.join(model, table, shared, personal)


def ranks(history: fl.History, candidates: Tensor, own_items: bool) -> Tensor:
    """The right item's place, from 1, among the 100 of every user: (2, users)."""
    (group,), algorithm, places = history.groups, history.algorithm, []
    for users in torch.arange(len(candidates)).split(BLOCK):
        server, kept = algorithm.address(group.model, group.server, users), group.states(users)
        w = algorithm.receive(group.model, server, kept)
        if own_items:
            w = algorithm.personalise(group.model, server, kept, None)
        scores = group.model(w, candidates[users].flatten(1)[..., None]).view(len(users), 2, -1)
        places.append(ranking.places(scores, torch.eye(1, UNRATED + 1).expand_as(scores)))
    return torch.cat(places).T


def run(seeds: int = 2, rounds: int = ROUNDS) -> dict[str, dict[str, list[float]]]:
    """{items predicted with: {measure: one number per seed}}, in the best validation round."""
    name, table = ratings()
    items, results = int(table.movieId.max()) + 1, {}
    model = fl.Model(lambda: Scores(items), fl.binary_cross_entropy, fl.binary_accuracy)
    algorithm = OwnItems(fl.SGD(LR), epochs=1, batch_size=256, item_lr=LR * items * 80)
    for seed in range(seeds):
        data, candidates = federation(table, seed)
        looks: dict[str, list[Tensor]] = {
            f"{name}, users' items": [],
            f"{name}, server's items": [],
        }

        def look(history: fl.History, looks=looks, candidates=candidates) -> None:
            for label, seen in looks.items():
                seen.append(ranks(history, candidates, "users'" in label))

        options = {"evaluate_every": EVERY, "block": BLOCK, "progress": False}
        fl.simulate(algorithm, model, data, rounds, seed=seed, report=look, **options)
        for label, seen in looks.items():
            _, rank = max(seen, key=lambda both: int((both[0] <= 10).sum()))
            measures = {"HR@10": ranking.hit_rate(rank), "NDCG@10": ranking.ndcg(rank)}
            for measure, value in measures.items():
                kept = results.setdefault(label, {}).setdefault(measure, [])
                kept.append(round(float(value.mean()), 5))
    return results
