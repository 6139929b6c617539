"""`make mutants`: does the suite notice? Plants one bug at a time in a copy of the package, and
runs the tests that should catch it.

Ends with status 1 where a bug is missed, or where the place to plant it is no longer there.

    python tests/mutants.py           all of them
    python tests/mutants.py krum DP   those whose description holds one of these words
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
LIMIT = 240  # seconds for one bug; a run that never ends is noticed too


class Bug(NamedTuple):
    """What is wrong; in which file; the text that it replaces, and by what; which tests to run."""

    what: str
    file: str
    old: str
    new: str
    tests: str
    only: str = ""  # those whose names hold this, to be quick


BUGS = [
    # --- lists of recommendations
    Bug("the right item comes first among equals", "ranking.py",
        "(scores >= theirs).sum(-1)", "1 + (scores > theirs).sum(-1)", "ranking"),
    Bug("negatives are drawn once although they should be fresh", "ranking.py",
        "round if self.fresh else 0", "0", "ranking"),
    Bug("per item, moves are averaged over everybody", "algorithms/recommender.py",
        "        if self.per_item:", "        if False:", "ranking"),
    Bug("rows that fill up are recommended", "ranking.py",
        "        if mask is not None:", "        if False:", "ranking"),
    # --- losses and gradients
    Bug("rows that fill up count in the loss", "model.py",
        "    if mask is None:\n        return values.mean(-1)",
        "    if True:\n        return values.mean(-1)", "model references"),
    Bug("rows that fill up count in the gradient by formula", "closed_form.py",
        "1 / x.shape[1] if mask is None else _shares(mask, w.dtype)",
        "1 / x.shape[1]", "model references"),
    Bug("rows that fill up count in a step by formula", "closed_form.py",
        "else _shares(plan.mask, like.dtype)",
        "else _shares(torch.ones_like(plan.mask), like.dtype)", "references train"),
    Bug("the first layer's bias stays as it is", "data.py",
        "wider[..., features] = 1", "wider[..., features] = 0", "references train"),
    Bug("FedAvg beside fine-tuning has the scores after it", "experiment.py",
        "after=h.before)", "after=h.after)", "experiment"),
    Bug("FedAvg is tuned by the scores after fine-tuning", "experiment.py",
        'marks = ("mean_before", "mean")', 'marks = ("mean", "mean")', "experiment"),
    Bug("FedAvg is what fine-tuning with other settings begins with", "experiment.py",
        "name: tuners[a] for name, a in named.items() if type(a) is FedAvg and a in tuners}",
        "name: [*tuners.values()][0] for name, a in named.items() if type(a) is FedAvg and tuners}",
        "experiment"),
    Bug("the shares of rows stay those of the first step", "chain.py",
        "            begin += count\n", "", "references train"),
    Bug("a thread's clients begin with the first of all", "closed_form.py",
        "(layers, end - n, self.loss", "(layers, 0, self.loss", "train"),
    Bug("a thread's examples are those of the first clients", "closed_form.py",
        "own = slice(begin, end)", "own = slice(end - begin)", "train"),
    Bug("a thread's plan is that of the first clients", "data.py",
        "self.take(some) for some in", "self.take(slice(some.stop - some.start)) for some in", "train"),
    Bug("rounds that are looked at together are one", "engine.py",
        "round if len(coming) > 1 else first", "first", "engine"),
    Bug("all that are drawn together have the first one's mini-batches", "data.py",
        "return plans()[i]", "return plans()[0]", "engine"),
    Bug("clients of later rounds are put after those of all before", "engine.py",
        "order -= torch.from_numpy", "order = order - 0 * torch.from_numpy", "engine"),
    Bug("data that change are taken ahead of their time", "engine.py",
        "if len(some) > 1 and together.plain", "if len(some) > 1", "engine"),
    Bug("nobody waits for the threads", "closed_form.py",
        "            steps.wait()", "            pass", "train"),
    Bug("a proximal term forgets the bias", "chain.py",
        "bias.lerp_(near_bias, lr * layer.pull)", "pass", "train"),
    Bug("a proximal step is as long as the gradient's share", "chain.py",
        "layer.weight.lerp_(near, lr * layer.pull)", "layer.weight.lerp_(near, rate * layer.pull)", "train"),
    Bug("a proximal term's strength is that of a layer's first coordinate", "closed_form.py",
        "if (v == v[0]).all() else None", "", "train"),
    Bug("every layer has the proximal strength of the first", "closed_form.py",
        "float(strength or 0))", "float(pulls[0] or 0))", "train"),
    Bug("hooks of a container are forgotten", "stacked.py",
        "if network._forward_hooks or network._forward_pre_hooks:", "if False:", "stacked"),
    Bug("the bar of a run that fails stays", "engine.py",
        "workers, closing(ticks):", "workers:", "engine", "bar"),
    Bug("a bar counts the round that it begins with twice", "engine.py",
        "initial=round", "initial=round + 1", "engine", "far"),
    Bug("a layer that is there twice counts once", "stacked.py",
        "network._modules.items()", "network.named_children()", "stacked"),
    Bug("layers that may not move do", "chain.py",
        "        if layer.moves:\n", "        if True:\n", "train"),
    Bug("backpropagation ends a layer too early", "chain.py",
        "        if i > lowest:\n", "        if i > lowest + 1:\n", "train model"),
    Bug('short mini-batches are divided by their width', 'closed_form.py',
        'real / real.sum(1, keepdim=True)',
        'real / real.shape[1]',
        'model references'),
    Bug("predictions come from the network in training", "model.py",
        "return self._forward(w, x, training=False)[0]",
        "return self._forward(w, x, training=True)[0]", "model train"),
    Bug("scores count rows that fill up", "model.py",
        "self.finish(masked_mean(self.of_examples(output, y), mask))",
        "self.finish(masked_mean(self.of_examples(output, y), None))", "model"),
    Bug("distillation moves BatchNorm's statistics", 'stacked.py',
        '(values[f"{name}running_{part}"].detach() for',
        '(values[f"{name}running_{part}"] for',
        'contract', 'batch_norm'),
    # --- the loop over mini-batches
    Bug('clients without a mini-batch left go on', 'train.py',
        '        count = batch.x.shape[0]\n',
        '        more = len(w) - len(batch.x)\n        batch = Batch(*(v if v is None else\n            torch.cat([v, v[:1].expand(more, *v.shape[1:])]) for v in batch))\n        count = batch.x.shape[0]\n',
        'train'),
    Bug("BatchNorm's statistics from after the step", 'train.py',
        'networks = w.split(',
        'networks = new.split(',
        'train'),
    Bug("FedProx and Ditto push away", "train.py",
        "+ self.strength * (w - anchor)", "- self.strength * (w - anchor)", "references identities train"),
    Bug("FedProx and Ditto push away, by formula", "chain.py",
        "layer.weight.lerp_(near, lr * layer.pull)", "layer.weight.lerp_(near, -lr * layer.pull)",
        "identities"),
    Bug('frozen parts move', 'train.py',
        'torch.where(only, new, w)',
        'torch.where(only, new, new)',
        'train'),
    Bug("Adam without bias correction", "optimisers.py",
        "m / (1 - self.beta1**t), v / (1 - self.beta2**t)", "m, v", "optimisers"),
    Bug("momentum forgets its velocity", "optimisers.py",
        "            state = (g,)\n", "", "optimisers identities"),
    # --- data and randomness
    Bug("test rows in for_tuning", "data.py",
        "            self.train.take(torch.from_numpy(np.concatenate(p))",
        "            (self.test if p is parts[1] else self.train).take(\n"
        "                torch.from_numpy(np.concatenate(p) % len(self.test.y))", "data"),
    Bug("validation rows stay in training", "data.py",
        "parts[0].append(rows[cut:])", "parts[0].append(rows)", "data"),
    Bug("mini-batches keyed without the client", "randomness.py",
        "_mix(name ^ _mix(clients.astype(np.uint64)))",
        "_mix(name ^ _mix(0 * clients.astype(np.uint64)))", "data"),
    Bug("all rounds share their mini-batches", "data.py",
        "epochs, steps, (seed, round))", "epochs, steps, (seed, 0))", "data"),
    Bug('all clients share their noise', 'data.py',
        '"client noise", *key) for key in each',
        '"client noise", *key[:2], 0) for key in each',
        'references'),
    Bug("a single example that was filled up is only half", "data.py",
        "self.mask[:, 1::2] | single", "self.mask[:, 1::2]", "references"),
    # --- the engine
    Bug("runs that are computed together share their mini-batches", "engine.py",
        "key, where = (seeds[run], round)", "key, where = (seeds[:1].expand(len(run)), round)",
        "contract", "together"),
    Bug("runs that are computed together train on the first one's data", "engine.py",
        "return self.offsets[run] + clients", "return clients", "contract", "together"),
    Bug("threads share a network", "model.py",
        "self._own.networks = copy.deepcopy((self.deployed, self.learning))",
        "self._own.networks = (self.deployed, self.learning)", "workers"),
    Bug("places among a client's items count the clients before it", "data.py",
        "place - starts[owner], self.y", "place, self.y", "data"),
    Bug('uploads stay in the order of the blocks', 'engine.py',
        '[*crews], _order(places)', '[*crews], None',
        'contract', 'loop_over_clients'),
    Bug('what clients keep is not kept', 'engine.py',
        '        team.group.keep(team.cohort.clients, kept)\n',
        '        team.group.seen\n',
        'identities'),
    Bug("absent clients' states overwritten", "history.py",
        '            return v.index_copy_(0, place.to(v.device), rows)\n',
        '            return v.copy_(rows.to(v).mean(0).expand_as(v)).index_copy_(0, place.to(v.device), rows)\n',
        'contract', 'absent'),
    Bug("stale clients given the newest server", "history.py",
        "self.past[-1 - s]", "self.past[-1]", "contract", "different_ages"),
    Bug("one past server too few kept", "schedule.py",
        "keep=version - oldest + 1", "keep=max(1, version - oldest)", "schedule"),
    Bug('sent numbers half counted', 'engine.py',
        'sum(algorithm.sent(t.group.model, t.upload) for',
        'sum(algorithm.sent(t.group.model, t.upload) // 2 for',
        'contract', 'counted'),
    Bug('what newcomers learn is kept', 'engine.py',
        '                scores[i][:, asked[i].clients] = torch.stack(both)\n',
        '                scores[i][:, asked[i].clients] = torch.stack(both)\n'
        '                groups[i].place[new] = 1\n',
        'contract', 'newcomer'),
    Bug("held-out clients train", "engine.py",
        "if k not in set(held)])", "])", "contract", "held_out_clients_teach"),
    Bug('scored on the training rows', 'engine.py',
        'test = together.test.batch(data.places)',
        'test = together.train.batch(data.places)',
        'contract', 'loop_over_clients'),
    Bug("runs whose features are the same share their labels", "data.py",
        "self.x is other.x and self.y is other.y and", "self.x is other.x and",
        "engine", "own"),
    Bug("runs are scored on the first one's test rows", "engine.py",
        "train, test = map(Examples.join, zip(*parts, strict=True))",
        "train, test = Examples.join([p[0] for p in parts]), Examples.join([parts[0][1]] * len(parts))",
        "contract", "together"),
    Bug('before and after swapped', 'engine.py',
        'return now, now if _equal(before, after) else score(after)',
        'return score(after), now',
        'contract', 'loop_over_clients'),
    Bug('a checkpoint forgets who has trained', "history.py",
        '        group.server, group.kept, group.place, group.past = kept',
        '        group.server, group.kept, _, group.past = kept',
        'contract', 'killed'),
    Bug("all architectures share their noise", "engine.py",
        "        @cache\n        def draws()", "        def draws()", "references"),
    # --- one model for all
    Bug("FedAvg: unweighted mean", "algorithms/base.py",
        "        return average(uploads, cohort.weights)", "        return uploads.mean(0)",
        "identities"),
    Bug("FedOpt: sign of the server's step", "algorithms/global_model.py",
        "w - average(uploads, cohort.weights)", "average(uploads, cohort.weights) - w",
        "identities", "fedopt"),
    Bug("SCAFFOLD: sign of the control variates", "algorithms/global_model.py",
        "model.gradient(v, batch) - c_k + c", "model.gradient(v, batch) + c_k - c",
        "references", "scaffold"),
    Bug("SCAFFOLD: cohort instead of population", "algorithms/global_model.py",
        "dc.sum(0) / cohort.population", "dc.mean(0)", "references", "scaffold"),
    Bug("FedNova: without tau_eff", "algorithms/global_model.py",
        "server - average(a, cohort.weights) * average(", "server - average(",
        "references", "fednova"),
    Bug("FedNova: momentum does not count", "algorithms/global_model.py",
        "(tau - rho * (1 - rho**tau) / (1 - rho)) / (1 - rho)", "tau", "references", "fednova"),
    Bug("q-FedAvg: one power of the loss too many", "algorithms/global_model.py",
        "F ** (self.q - 1)", "F**self.q", "references", "q_fedavg"),
    # --- personal models
    Bug("FedPer: personal part averaged", "algorithms/personal.py",
        "        return self.personal\n", "        return ()\n", "identities", "fedper"),
    Bug("Ditto: personal model uploaded", "algorithms/personal.py",
        "        return w, train(model, v, data, self.optimiser, "
        "Proximal(model, self.lam), server)",
        "        v = train(model, v, data, self.optimiser, Proximal(model, self.lam), server)\n"
        "        return v, v", "identities", "ditto"),
    Bug("FedRep: body first, head last", "algorithms/personal.py",
        "        w = train(model, w, data.during(0, last), self.optimiser, only=head)\n"
        "        w = train(model, w, data.during(last, self.epochs), self.optimiser, only=~head)",
        "        w = train(model, w, data.during(0, last), self.optimiser, only=~head)\n"
        "        w = train(model, w, data.during(last, self.epochs), self.optimiser, only=head)",
        "references", "fedrep"),
    Bug("FedBABU: head moves", "algorithms/personal.py",
        ", only=~model.coordinates(*self.head))", ")", "identities", "fedbabu"),
    Bug("FedBN: statistics shared", "model.py",
        'if n.rpartition(".")[0] in layers)',
        'if n.rpartition(".")[0] in layers and not n.endswith(STATISTICS))', "identities", "fedbn"),
    Bug("MOCHA: tasks push each other away", "algorithms/personal.py",
        "+ self.lam * (own * w + others)", "- self.lam * (own * w + others)",
        "references", "mocha"),
    Bug("MOCHA: relations without the root", "algorithms/personal.py",
        "(U * (S / S.sum())) @ U.T", "(U * (S**2 / (S**2).sum())) @ U.T", "identities", "mocha"),
    Bug("pFedMe: sign of the envelope", "algorithms/personal.py",
        "self.lam * (theta - w)", "self.lam * (w - theta)", "references", "pfedme"),
    Bug("pFedMe: warm and cold starts swapped", "algorithms/personal.py",
        "theta if self.warm_start else w, w", "w if self.warm_start else theta, w",
        "references", "pfedme"),
    Bug("APFL: alpha missing in the slope", "algorithms/personal.py",
        "self.alpha * mixed]", "mixed]", "references", "apfl"),
    Bug("FedALA: weights leave [0, 1]", "algorithms/personal.py",
        "only=learns).clamp(0, 1)", "only=learns)", "references", "fedala"),
    Bug("Ditto: newcomers start where nobody is", "algorithms/personal.py",
        "    def personalise(self, model, server, v, data):\n        return v\n\n"
        "    def welcome(self, model, server, v, data):\n"
        "        return super().welcome(model, server, server, data)",
        "    def personalise(self, model, server, v, data):\n        return v\n\n"
        "    def welcome(self, model, server, v, data):\n"
        "        return super().welcome(model, server, v, data)", "references", "ditto"),
    Bug("FedPer: newcomers train the shared part too", "algorithms/personal.py",
        ", only=model.coordinates(*self.mine(model)))", ")", "references", "fedper"),
    Bug("PFedRec: items step before the new score", "algorithms/recommender.py",
        "model.gradient(w - lr * g, batch)", "model.gradient(w, batch)", "references", "pfedrec"),
    Bug('PFedRec: all items count as sent', 'algorithms/recommender.py',
        '(table_moves != 0).any(-1)',
        '(table_moves == table_moves).any(-1)',
        'references', 'pfedrec'),
    Bug("L2-SP: new arrays are pulled to their start", "algorithms/global_model.py",
        "anchor = torch.where(new, 0.0, start)", "anchor = start", "identities", "l2sp"),
    Bug("L2-SP: the anchor moves with the server", "algorithms/global_model.py",
        "Proximal(model, strength), anchor), start",
        "Proximal(model, strength), anchor), server",
        "contract", "absent"),
    Bug("Transfer: LoRA trains the layer as well", "transfer.py",
        "        freeze(self)\n", "", "transfer", "lora"),
    Bug("Transfer: what is frozen is forgotten", "transfer.py",
        "{**group.model.fixed, **group.model.unflatten(w)}", "group.model.unflatten(w)",
        "transfer"),
    Bug("FedEWC: all examples are one gradient", "algorithms/continual.py",
        "real * g**2 / data.sizes", "real * g / data.sizes", "references"),
    Bug("FedEWC: earlier data are forgotten", "algorithms/continual.py",
        "        F, _ = client\n", "        F = 0.0\n", "references"),
    # --- a start from which to adapt
    Bug("Per-FedAvg: first and exact order swapped", "algorithms/meta.py",
        "            if self.first_order:\n                g =",
        "            if not self.first_order:\n                g =", "references", "per_fedavg"),
    Bug("Per-FedAvg: measured on what it adapted to", "algorithms/meta.py",
        "gradient(meta_loss, w, support, query)", "gradient(meta_loss, w, support, support)",
        "references", "per_fedavg"),
    Bug("Per-FedAvg, first order: measured on what it adapted to", "algorithms/meta.py",
        "self.adapt(model, w, support), query)\n            return gradient",
        "self.adapt(model, w, support), support)\n            return gradient",
        "references", "per_fedavg"),
    Bug("Reptile: interpolation reversed", "algorithms/meta.py",
        "torch.lerp(server, average(uploads, cohort.weights), self.server_lr)",
        "torch.lerp(average(uploads, cohort.weights), server, self.server_lr)",
        "references", "reptile"),
    # --- clusters and mixtures
    Bug("IFCA: picks the highest loss", "algorithms/clustered.py",
        ".argmin(0)", ".argmax(0)", "references", "ifca"),
    Bug("IFCA: a cluster nobody picked is zero", "algorithms/clustered.py",
        "return torch.where(total > 0, means, server)", "return means", "identities", "ifca"),
    Bug("FedEM: proportions never updated", "algorithms/clustered.py",
        "        ), masked_mean(q, mask)", "        ), pi", "references", "fedem"),
    Bug("FedEM: proportions left out of the E-step", "algorithms/clustered.py",
        "(pi.log()[:, :, None] - losses)", "(-losses)", "references", "fedem"),
    # --- distillation
    Bug("distillation: T squared forgotten", "algorithms/distillation.py",
        "return T**2 * (", "return (", "references", "distillation"),
    Bug("distillation by formula: T forgotten", "algorithms/distillation.py",
        "return T * ((output / T)", "return ((output / T)", "references", "distillation"),
    Bug("distillation by formula: teacher's classes and rows mixed up",
        "algorithms/distillation.py",
        "teacher.exp().transpose(1, 2)",
        "teacher.exp().reshape(len(teacher), -1, teacher.shape[1])",
        "references", "distillation"),
    Bug("FedMD: newcomers do not train", "algorithms/distillation.py",
        "class FedMD(_OnPublicData, Personal):",
        "class FedMD(_OnPublicData, Personal):\n"
        "    def welcome(self, model, server, client, data):\n        return client\n",
        "references", "newcomer"),
    Bug("distillation: temperature on one side only", "algorithms/distillation.py",
        "(model(w, x) / T).log_softmax(-1)", "model(w, x).log_softmax(-1)",
        "references", "distillation"),
    Bug("FedDF: one client is the teacher", "algorithms/distillation.py",
        "teacher = scores.mean(0, keepdim=True)", "teacher = scores[:1]", "references", "feddf"),
    Bug("FedProto: pulled to prototypes nobody has", "algorithms/distillation.py",
        "known.gather(1, batch.y) * far", "far", "references", "fedproto"),
    Bug("FedProto: prototypes not weighted", "algorithms/distillation.py",
        "means = (counts[..., None] * prototypes).sum(0) / total.clamp(min=1)[:, None]",
        "means = prototypes.mean(0)", "references", "fedproto"),
    # --- a server that does not wait
    Bug("FedBuff: staleness ignored", "algorithms/asynchronous.py",
        "discount * cohort.weights", "cohort.weights", "references", "fedbuff"),
    Bug("FedBuff: whole models as updates", "algorithms/asynchronous.py",
        "return w - server, client", "return w, client", "references", "fedbuff"),
    Bug("FedAsync: old models count more", "algorithms/asynchronous.py",
        "** -self.decay", "**self.decay", "references", "fedasync"),
    # --- private
    Bug("DP-FedAvg: noise not scaled by the clip", "algorithms/private.py",
        "self.noise * self.clip * drawn", "self.noise * drawn", "references", "dp_fedavg"),
    Bug("DP-SGD: noise not scaled by the clip", "algorithms/private.py",
        "self.noise * self.clip * data.normal(w)", "self.noise * data.normal(w)",
        "references", "dp_sgd"),
    Bug("DP-SGD: clips the batch, not every example", "algorithms/private.py",
        "G = model.clipped_gradient(w, batch, self.clip)",
        "G = clipped(model.gradient(w, batch), self.clip)", "references", "dp_sgd"),
    Bug("DP-SGD by formula: the bias does not count in an example's length", "closed_form.py",
        "(a.square().sum(1) + (layer.bias is not None))", "a.square().sum(1)", "model"),
    Bug("DP-SGD by formula: rows that fill up count", "closed_form.py",
        "(factor if mask is None else factor * mask)", "factor", "model"),
    Bug("DP-SGD: rows that fill up count", "model.py",
        "(G if batch.mask is None else G * batch.mask[:, :, None]).sum(1)", "G.sum(1)", "model"),
    Bug("DP-SGD: divides by the longest client at work", "algorithms/private.py",
        "/ full[: len(w), None].to(w)", "/ batch.y.shape[1]", "references", "dp_sgd"),
    Bug("clipping also stretches", "model.py",
        "(length / norm.clamp(min=1e-12)).clamp(max=1)", "(length / norm.clamp(min=1e-12))",
        "references"),
    Bug("accountant: replacing a client moves one clip", "privacy.py",
        "dp.GaussianDpEvent(noise / 2)", "dp.GaussianDpEvent(noise)", "privacy"),
    Bug("accountant: rounds not composed", "privacy.py",
        "dp.SelfComposedDpEvent(event, times)", "dp.SelfComposedDpEvent(event, 1)", "privacy"),
    Bug("masks: both clients add", "privacy.py", "sent[v] -= pad", "sent[v] += pad", "privacy"),
    Bug("masks: the same in every round", "privacy.py",
        'torch_stream("masks", seed, round, u, v)', 'torch_stream("masks", seed, 1, u, v)', "privacy"),
    Bug("masks: half of the range", "privacy.py",
        ".random_(-(2**63), None, generator=key)", ".random_(generator=key)", "privacy"),
    Bug("attack: units that have not moved have seen infinity", "attacks.py",
        "moved = bias.abs() > 0", "moved = bias.abs() >= 0", "attacks"),
    # --- robust
    Bug("trimmed on one side", "algorithms/robust.py",
        "[cut : len(uploads) - cut]", "[cut:]", "references"),
    Bug("median: the lower of two", "algorithms/robust.py",
        "uploads.quantile(0.5, dim=0)", "uploads.median(0).values", "references"),
    Bug("Krum: one neighbour too many", "algorithms/robust.py",
        ": n - f - 2]", ": n - f - 1]", "references", "krum"),
    Bug("Krum: distances by a product that cancels", "algorithms/robust.py",
        "torch.cdist(uploads, uploads, compute_mode=exactly)", "torch.cdist(uploads, uploads)",
        "references", "krum"),
]  # fmt: skip


def main(words: list[str]) -> int:
    """Plant, test, and tell -> the exit status."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    chosen = [b for b in BUGS if not words or any(w.lower() in b.what.lower() for w in words)]
    import pytest  # noqa: F401 - the tests of every bug start from here,
    import scipy.stats  # noqa: F401 - with what takes long
    import torch

    torch.set_num_threads(1)
    print(f"{len(chosen)} bugs, one at a time", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        house = Path(folder).resolve()
        for name in ("fedlab_helpers", "tests"):
            shutil.copytree(ROOT / name, house / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", house)
        whole = [
            f for f in dict.fromkeys(" ".join(b.tests for b in chosen).split()) if f != "contract"
        ]  # that one takes long, and `make test` runs it
        parts = sorted({b.only for b in chosen if b.tests == "contract"})
        sound = [green(house, "contract", part) for part in parts]
        if whole:
            sound.append(green(house, " ".join(whole), ""))
        if not all(sound):
            return 1
        verdicts = [try_out(house, bug) for bug in chosen]
    wrong = [v for v in verdicts if v != "caught"]
    print(f"{len(verdicts) - len(wrong)} of {len(chosen)} caught")
    return int(bool(wrong))


def green(house: Path, tests: str, only: str) -> bool:
    """Whether tests pass where there is nothing to catch."""
    verdict, seconds, by = judge(house, tests, only)
    print(line(f"(none: {only or tests})", "green" if verdict == "missed" else "RED", seconds, by))
    return verdict == "missed"


def try_out(house: Path, bug: Bug) -> str:
    """Plant one bug, run its tests, take it out again -> the verdict."""
    path = house / "fedlab_helpers" / bug.file
    sound = path.read_text(encoding="utf-8")
    if sound.count(bug.old) != 1:
        print(line(bug.what, "NO PLACE", 0, f"{bug.file} holds it {sound.count(bug.old)} times"))
        return "no place"
    write(path, sound.replace(bug.old, bug.new))
    try:
        verdict, seconds, by = judge(house, bug.tests, bug.only)
    finally:
        write(path, sound)
    print(line(bug.what, verdict if verdict == "caught" else verdict.upper(), seconds, by))
    return verdict


def write(path: Path, text: str) -> None:
    """Replace a module, and forget what Python has compiled: it may look as old as the new one."""
    path.write_text(text, encoding="utf-8")
    shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)


def line(what: str, verdict: str, seconds: float, by: str) -> str:
    """One of the table."""
    return f"{what:<52} {verdict:<9} {seconds:4.0f} s  {by}"


def judge(house: Path, tests: str, only: str) -> tuple[str, float, str]:
    """Run tests on the copy in a process of its own -> verdict, seconds, the first that failed."""
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    log, start = house / "log.txt", time.monotonic()
    child = multiprocessing.get_context(method).Process(target=run, args=(house, tests, only, log))
    child.start()
    child.join(LIMIT)
    if child.is_alive():
        child.terminate()
        child.join()
        return "caught", time.monotonic() - start, "by taking for ever"
    failed = re.findall(r"^FAILED tests[/\\](.+?)(?: - |$)", log.read_text("utf-8"), re.MULTILINE)
    verdict = {0: "missed", 1: "caught"}.get(child.exitcode or 0, "does not run")
    if verdict == "caught" and not failed:
        verdict = "does not run"
    if verdict == "does not run":
        print(log.read_text("utf-8")[-2000:])
    return verdict, time.monotonic() - start, failed[0] if failed else ""


def run(house: Path, tests: str, only: str, log: Path) -> None:
    """In the child: pytest on the copy, up to the first failure."""
    os.chdir(house)
    sys.path[:] = [str(house), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1), os.dup2(output, 2)
    import pytest

    import fedlab_helpers

    assert Path(fedlab_helpers.__file__).is_relative_to(house)
    files = [f"tests/test_{name}.py" for name in tests.split()]
    plain = ["-o", "addopts=", "-p", "no:nbval", "-p", "no:cacheprovider", "-p", "no:xdist"]
    status = pytest.main(["-x", "-q", "-rf", "--tb=no", "--no-header", *plain, "-k", only, *files])
    sys.stdout.flush()
    os._exit(int(status))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
