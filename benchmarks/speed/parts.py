"""What `run.py` measures, part by part. Every part returns what `results.json` keeps of it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import limit
import numpy as np
from implementations import IMPLEMENTATIONS, implementation, ours
from workloads import CLASSES, WORKLOADS, normalised, workload

import fedlab_helpers as fl
from fedlab_helpers.glance import at_a_glance

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
Timings = dict[str, dict[str, Any]]  # {implementation: {"ms": one per repeat, "score": , "mb": }}


# --- processes -----------------------------------------------------------------------------------


class Worker:
    """An implementation of a workload in a process of its own, which waits until it is asked."""

    def __init__(self, command: Sequence[str]):
        # Every process has both cores; each implementation uses them as it does best.
        variables = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        variables["FLWR_TELEMETRY_ENABLED"] = "0"  # nobody is told of what is measured here
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
        )
        self.hello = self._answer()

    @property
    def able(self) -> bool:
        """Whether it can do this workload."""
        return self.hello is not None

    def ask(self, rounds: int) -> dict[str, Any]:
        """Train for so many timed rounds."""
        assert self.process.stdin is not None
        print(rounds, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(("{", "null")):  # peers say other things, too
                return json.loads(line)
        raise RuntimeError(f"{' '.join(map(str, self.process.args))} ended without an answer")

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def started(workload: str, names: Iterable[str]) -> dict[str, Worker]:
    """Processes of this environment."""
    script = str(HERE / "worker.py")
    return {name: Worker([sys.executable, script, name, workload]) for name in names}


def interleaved(workers: dict[str, Worker], rounds: int, repeats: int) -> Timings:
    """Every repeat asks every worker once, one after the other."""
    able = {name: worker for name, worker in workers.items() if worker.able}
    results: Timings = {name: {"ms": [], **worker.hello} for name, worker in able.items()}
    for _ in range(repeats):
        for name, worker in able.items():
            answer = worker.ask(rounds)
            results[name]["ms"].append(answer.pop("ms"))
            results[name].update(answer)
    for name, worker in workers.items():
        worker.close()
        if worker.able:
            ms = results[name]["ms"]
            rest = ", ".join(f"{k} {v}" for k, v in results[name].items() if k != "ms")
            print(f"  {name}: median {median(ms):.2f} ms, {min(ms):.2f}-{max(ms):.2f}; {rest}")
    return results


# --- the parts -----------------------------------------------------------------------------------


def family(name: str, numbers: dict[int, tuple[str, ...]]) -> Callable[..., dict[str, Timings]]:
    """Workloads of one kind: which implementations for which number."""

    def measure(repeats: int, only: Sequence[str] | None = None) -> dict[str, Timings]:
        results = {}
        for number, names in numbers.items():
            of = f"{name}:{number}"
            print(f"  {of}", flush=True)
            workers = started(of, [n for n in names if only is None or n in only])
            results[str(number)] = interleaved(workers, workload(of).rounds, repeats)
        return results

    return measure


def algorithms(repeats: int, only: Sequence[str] | None = None) -> dict[str, Any]:
    """Every algorithm of the package, {name: {"ms": one per repeat, "passes": , "of": }}.

    passes: how often an example goes through the network, in units of FedAvg's. of: the FedAvg that
    it is compared with. All in this process, each once in every repeat.
    """
    job = workload("algorithms")
    data = job.data()
    plain, normed = job.model(), fl.Model(lambda: normalised(64, 32, CLASSES))
    cases = {a.name: (a, plain, "FedAvg") for a in every_algorithm(data) if only is None}
    cases["FedAvg, normalised"] = (job.algorithm, normed, "FedAvg, normalised")
    cases["FedBN"] = (cases["FedBN"][0], normed, "FedAvg, normalised")
    results: dict[str, Any] = {}
    for name, (a, model, reference) in cases.items():
        passes = float(at_a_glance([a], model, data).passes.iloc[0])
        results[name] = {"of": reference, "passes": passes, "ms": []}
    one = results["FedAvg, normalised"]["passes"] / results["FedAvg"]["passes"]
    for name in ("FedAvg, normalised", "FedBN"):
        results[name]["passes"] /= one
    for _ in range(repeats):
        for name, (a, model, _) in cases.items():
            seconds, _ = ours(replace(job, algorithm=a), data, job.rounds, model=model)
            results[name]["ms"].append(round(seconds / job.rounds * 1e3, 3))
    for name, line in results.items():
        print(f"  {name}: {median(line['ms']):.2f} ms")
    return results


def every_algorithm(data: fl.Federation) -> list[fl.FedAvg]:
    """One of each, with the same local work."""
    work = {"optimiser": fl.SGD(0.05), "batch_size": 20, "epochs": 2}
    special: dict[str, dict[str, Any]] = {
        "MOCHA": {"clients": len(data)},
        "FedMD": {"public": data.test.x[:100]},
        "FedDF": {"public": data.test.x[:100]},
        "PFedRec": {"items": "body.0.weight", "personal": ("head.*",), "item_lr": 0.05},
    }
    classes = [getattr(fl, name) for name in fl.algorithms.__all__]
    kinds = [c for c in classes if isinstance(c, type) and issubclass(c, fl.FedAvg)]
    return sorted(
        (c(**work, **special.get(c.__name__, {})) for c in kinds if c is not fl.Personal),
        key=lambda a: a.name,
    )


def same(repeats: int, only: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Handed the same mini-batches, how far from ours are the weights of the others after three
    rounds? The largest difference, in units of the largest change of a weight.
    """
    results: dict[str, dict[str, float]] = {}
    for name, job in WORKLOADS.items():
        data = job.data()
        _, history = ours(job, data, 1)
        start = job.model().init(0)
        found = results[name] = {}
        for other in ("limit", "plain"):
            if run := implementation(other, job):
                _, outcome = run(job, data, 1, planned=True)
                server, moved = history.groups[0].server, None
                if isinstance(outcome, tuple):  # of a recommender: its table of items
                    server, outcome, start = server[0], outcome[1], outcome[1] * 0
                moved = (server - start).abs().max()
                found[other] = float(f"{(outcome - server).abs().max() / moved:.1e}")
        print(f"  {name}: {found}", flush=True)
    return results


FRESH = {
    "import torch": "import torch",
    "import fedlab_helpers": "import fedlab_helpers",
    "first round of W1": "import fedlab_helpers as fl, workloads; job = workloads.workload('W1')",
    "first round of W2": "import fedlab_helpers as fl, workloads; job = workloads.workload('W2')",
}
FIRST_ROUND = "fl.simulate(job.algorithm, job.model(), data, rounds=1, progress=False)"


def startup(repeats: int, only: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Seconds in a fresh interpreter: to import, and then for the first round with its evaluation
    (building the model included; making the data not).
    """
    results: dict[str, list[float]] = {name: [] for name in FRESH}
    for _ in range(repeats):
        for name, code in FRESH.items():
            clock = "import time; began = time.perf_counter(); "
            stop = "; print(time.perf_counter() - began)"
            if name.startswith("first"):
                code = f"{code}; data = job.data(); {clock}{FIRST_ROUND}{stop}"
            else:
                code = f"{clock}{code}{stop}"
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=HERE
            )
            results[name].append(round(float(done.stdout.split()[-1]), 3))
    for name, seconds in results.items():
        print(f"  {name}: {median(seconds):.2f} s")
    return results


def one(name: str) -> Callable[..., Timings]:
    """A workload, with every implementation of this environment that can do it."""

    def measure(repeats: int, only: Sequence[str] | None = None) -> Timings:
        names = only or [n for n in IMPLEMENTATIONS if n != "naive" or name == "W1"]
        return interleaved(started(name, names), WORKLOADS[name].rounds, repeats)

    return measure


# --- other libraries -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """A library: its package, and how it is used here."""

    package: str
    how: str


PEERS = {
    "flower": Peer(
        "flwr", "FedAvg on its Ray backend, one processor core for each virtual client; the run's "
        "start, some ten seconds, is not in the figure, and the memory of its workers neither.",
    ),
    "pfl": Peer(
        "pfl", "FederatedAveraging on its simulated backend, in one process, weighted by data "
        "points. It does not shuffle a client's rows.",
    ),
    "fedlab": Peer(
        "fedlab", "the serial trainer and the synchronous handler. As released it weights all "
        "clients alike; here it is given their sizes.",
    ),
    "fluke": Peer("fluke-fl", "its centralised simulation with its own fast data loader."),
    "fedjax": Peer(
        "fedjax", "federated averaging with its jit backend. Compiling happens in the first "
        "round, which is not in the figure; where 10 of 100 clients take part, some shapes are "
        "met later.",
    ),
}  # fmt: skip
SHARED = ("W1", "W1e", "W1p", "W2")  # what every library can do
PEER_ROUNDS = 5


def peers(repeats: int, only: Sequence[str] | None = None) -> dict[str, Any]:
    """The libraries that are installed, beside ours, the limit and the tuned loop."""
    wanted = {name: peer for name, peer in PEERS.items() if only is None or name in only}
    how, missing, timings = {}, {}, {}
    for of in SHARED:
        workers = started(of, LOOPS)
        data = hand_over(of)
        for name, peer in wanted.items():
            python = environment(name)
            if not python.exists():
                missing[name] = "not installed."
                continue
            try:
                workers[name] = Worker(
                    [str(python), str(HERE / "peers" / f"run_{name}.py"), str(data)]
                )
            except RuntimeError:
                missing[name] = "its runner does not start."
                continue
            how[name] = f"{peer.package} {installed(python, peer.package)}, {peer.how}"
        timings[of] = interleaved(workers, PEER_ROUNDS, repeats)
    return {"how": how, "missing": missing, "timings": timings}


def environment(name: str) -> Path:
    """The interpreter of a library's environment."""
    return ROOT / ".peers" / name / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def installed(python: Path, package: str) -> str:
    """The version of a package there."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def hand_over(name: str) -> Path:
    """A file with all that peers/common.py reads of a workload."""
    job = workload(name)
    data, model, a = job.data(), job.model(), job.algorithm
    layers = model.unflatten(model.init(0)).values()
    arrays = {
        "x": data.train.x.float(), "y": data.train.y, "sizes": data.train.sizes,
        "tx": data.test.x.float(), "ty": data.test.y, "test_sizes": data.test.sizes,
        **{f"layer{i}": v for i, v in enumerate(layers)},
    }  # fmt: skip
    settings = {
        "lr": a.optimiser.lr, "batch": a.batch_size, "steps": a.steps or 0,
        "fraction": job.fraction,
    }  # fmt: skip
    path = ROOT / ".peers" / f"{name}.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **{k: v.numpy() for k, v in arrays.items()}, **settings)
    return path


LOOPS = ("ours", "limit", "plain")
PARTS: dict[str, Callable[..., Any]] = {
    **{name: one(name) for name in WORKLOADS},
    "same": same,
    "clients": family("clients", {10: LOOPS, 100: LOOPS, 1000: LOOPS, 10_000: ("ours", "limit")}),
    "share": family("share", {100_000: ("ours", "limit")}),
    "width": family("width", dict.fromkeys((16, 64, 256, 1024, 4096), LOOPS)),
    "algorithms": algorithms,
    "startup": startup,
    "peers": peers,
}


# --- where it was measured -----------------------------------------------------------------------


def surroundings() -> dict[str, Any]:
    """The machine, how busy it was just before, and the versions."""
    return {
        "machine": f"{processor()}, {os.cpu_count()} cores, {memory()} GB",
        "load": round(os.getloadavg()[0], 1),
        "versions": {
            "Python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy")},
            "compiler": compiler(),
        },
    }


def processor() -> str:
    """What the operating system calls it."""
    info = Path("/proc/cpuinfo")
    names = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in names if line.startswith("model name")]
    return (named or [platform.processor() or platform.machine()])[0]


def memory() -> int:
    """Gigabytes of the machine."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)


def compiler() -> str:
    """The compiler of the kernel and its version."""
    if limit.COMPILER is None:
        return "none"
    said = subprocess.run([limit.COMPILER, "--version"], capture_output=True, text=True, check=True)
    return said.stdout.splitlines()[0]
