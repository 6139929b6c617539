"""What the runners of other libraries share: the workload, handed over as arrays, and the answers.

Each runner is executed in its library's own environment, which has neither this project nor,
perhaps, torch: numpy alone is needed here.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SPARE = 2  # rounds that are not timed: the first and the last


class Job:
    """A workload: data and settings of parts.hand_over.

    x, y, test_x, test_y: one array per client. layers: the weights to start from, (out, in) and
    (out,) in turns. steps is 0 where clients go through their rows once.
    """

    def __init__(self, path: str):
        with np.load(path) as file:
            values = {name: file[name] for name in file.files}
        cuts, test_cuts = (values.pop(n).cumsum()[:-1] for n in ("sizes", "test_sizes"))
        self.x, self.y = (np.split(values.pop(n), cuts) for n in ("x", "y"))
        self.test_x, self.test_y = (np.split(values.pop(n), test_cuts) for n in ("tx", "ty"))
        self.lr, self.fraction = float(values.pop("lr")), float(values.pop("fraction"))
        self.batch, self.steps = int(values.pop("batch")), int(values.pop("steps"))
        self.layers = [values[f"layer{i}"] for i in range(len(values))]
        self.cohort = max(1, round(self.fraction * len(self.x)))

    def score(self, layers: list[np.ndarray]) -> float:
        """Accuracy of the average client with these weights."""
        return float(np.mean([self._right(layers, k) for k in range(len(self.x))]))

    def _right(self, layers: list[np.ndarray], k: int) -> float:
        a = self.test_x[k]
        for i in range(0, len(layers), 2):
            a = a @ layers[i].T + layers[i + 1]
            a = np.maximum(a, 0) if i + 2 < len(layers) else a
        return float((a.argmax(1) == self.test_y[k]).mean())

    def network(self) -> Any:
        """The network in torch, with these weights to start from."""
        import torch

        modules: list[Any] = []
        for i in range(0, len(self.layers), 2):
            modules += [torch.nn.ReLU()] if modules else []
            modules.append(torch.nn.Linear(*self.layers[i].shape[::-1]))
        network = torch.nn.Sequential(*modules)
        with torch.no_grad():
            for p, values in zip(network.parameters(), self.layers, strict=True):
                p.copy_(torch.from_numpy(values))
        return network


def serve(run: Callable[[Job, int], tuple[list[float], list[np.ndarray]]]) -> None:
    """Answer as worker.py does. run: (job, rounds in all) -> when each began, weights at the end.

    The process must not say anything else that looks like an answer.
    """
    job = Job(sys.argv[1])
    print(json.dumps({"before": megabytes()}), flush=True)
    for line in sys.stdin:
        rounds = int(line)
        began, layers = run(job, rounds + SPARE)
        ms = (began[-1] - began[1]) / rounds * 1e3
        answer = {"ms": round(ms, 3), "score": round(job.score(layers), 4), "mb": megabytes()}
        print(json.dumps(answer), flush=True)


def megabytes() -> int:
    """The most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (v for v in status.read_text().splitlines() if v.startswith("VmHWM"))
        return round(int(line.split()[1]) * 1024 / 1e6)
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


now = time.perf_counter
