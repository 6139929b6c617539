"""Every user is a client: what is the user's own stays, the items are everybody's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..train import train
from .base import need_plain_sgd
from .personal import FedPer


@dataclass(frozen=True)
class PFedRec(FedPer):
    """A score function of one's own over item vectors that all share.

    Zhang, Long, Zhou, Yan, Zhang, Zhang and Yang, IJCAI 2023, Algorithm 1. arXiv:2301.08143
    On every mini-batch first the personal arrays take a step (the optimiser's), then, with the new
    personal ones, the shared ones: the item table at `item_lr`, other arrays, of which the paper
    has none, at the optimiser's rate. A client uploads how its shared arrays moved; of
    the item table only the rows that it touched, each with its number. The server adds the mean
    over the cohort. (The authors' code predicts with item
    vectors that each user has trained further; here, with the server's.)

    personal: what never leaves the client; a network with a private user vector names it, too.
    items: the name of the item table, (items, width); x are the numbers of its rows.
    per_item: average an item's moves over the clients that moved it, not over the whole cohort.
        What few know then moves as far as what everybody knows.
    """

    personal: tuple[str, ...] = ("score.*",)
    items: str = "items.weight"
    item_lr: float = 1.0
    per_item: bool = False

    def __post_init__(self):
        super().__post_init__()
        need_plain_sgd(self)

    def init(self, model, seed):
        table, shared, personal = self.split(model, model.init(seed))
        return (table, shared), personal

    def client_update(self, model, server, personal, data):
        model, rows, (table, shared), data = self.own_items(model, server, data)
        items, mine = model.coordinates(self.items), model.coordinates(*self.mine(model))
        lr = self.optimiser.lr
        faster = shared.new_tensor(self.item_lr / lr)
        rate = torch.where(items, faster, 1.0) * ~mine

        def direction(w, batch):
            g = model.gradient(w, batch) * mine
            return g + rate * model.gradient(w - lr * g, batch)

        w = self.join(model, table, shared, personal)
        w = train(model, w, data, self.optimiser, direction)
        new_table, new_shared, personal = self.split(model, w)
        more = rows.shape[1] - table.shape[1]  # rows that only fill up
        moves = F.pad(new_table - table, (0, 0, 0, more))
        return (rows, moves, new_shared - shared), personal

    def aggregate(self, model, server, uploads, cohort):
        (table, shared), (rows, table_moves, moves) = server, uploads
        where, table_moves = rows.flatten(), table_moves.flatten(0, 1)
        total = torch.zeros_like(table).index_add(0, where, table_moves)
        count = table.new_full((len(table), 1), len(rows))
        if self.per_item:
            moved = self.touched(uploads).flatten().to(table)[:, None]
            count = torch.zeros_like(count).index_add(0, where, moved).clamp(min=1)
        return table + total / count, shared + moves.mean(0)

    def touched(self, uploads):
        """Which rows of a client's upload are items that it has moved, (clients, rows) bool."""
        _, table_moves, _ = uploads
        return (table_moves != 0).any(-1)

    def sent(self, model, uploads):
        _, table_moves, moves = uploads
        return int(self.touched(uploads).sum()) * (table_moves.shape[-1] + 1) + moves.numel()

    def receive(self, model, server, personal):
        table, shared = server
        return self.join(model, table, shared, personal)

    def welcome(self, model, server, personal, data):
        model, _, (table, shared), data = self.own_items(model, server, data)
        w, mine = self.join(model, table, shared, personal), model.coordinates(*self.mine(model))
        for _ in range(self.tuning):
            w = train(model, w, data, self.optimiser, only=mine)
        return w[:, mine]

    def own_items(self, model, server, data):
        """What clients need of all items: those in their examples -> the network for so many, which
        they are (clients, rows), the server's state with the first of these rows only, as many as
        anybody here needs, examples in which x are places among them. All rows where x are no
        numbers of items.
        """
        table, shared = server
        if data.examples.x.is_floating_point():
            rows = torch.arange(table.shape[1], device=table.device).expand(len(data), -1)
            return model, rows, server, data
        rows, data = data.renumbered()
        first = rows[:, : int(data.sizes.max()), None]
        own = table.gather(1, first.expand(-1, -1, table.shape[2]))
        return model.with_rows(self.items, first.shape[1]), rows, (own, shared), data

    def split(self, model, w):
        """w (..., d) -> item table (..., items, width), what else is shared, what is personal."""
        items, mine = model.coordinates(self.items), model.coordinates(*self.mine(model))
        table = model.unflatten(w)[self.items]
        return table, w[..., ~(items | mine)], w[..., mine]

    def join(self, model, table, shared, personal):
        """The inverse of `split`."""
        items, mine = model.coordinates(self.items), model.coordinates(*self.mine(model))
        w = shared.new_empty(*shared.shape[:-1], model.d)
        model.unflatten(w)[self.items].copy_(table)
        w[..., ~(items | mine)], w[..., mine] = shared, personal
        return w
