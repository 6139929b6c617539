"""One implementation of one workload in a process of its own: `worker.py ours W1`.

For every line on its input, a number of rounds, it trains from the start and answers with a line of
JSON: milliseconds per round, the score that was reached, megabytes of memory at most so far.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from implementations import implementation, score
from workloads import workload

ENOUGH = 0.3  # seconds to be timed, at least
STATUS = Path("/proc/self/status")


def main(name: str, of: str) -> None:
    """Answer until the input ends."""
    job = workload(of)
    run, data = implementation(name, job), job.data()
    if run is None:
        print(json.dumps(None), flush=True)
        return
    forget_peak()  # what making the data took does not count
    print(json.dumps({"before": megabytes()}), flush=True)
    for line in sys.stdin:
        rounds, seconds, done, outcome = int(line), 0.0, 0, None
        while seconds < ENOUGH:
            took, outcome = run(job, data, rounds)
            seconds, done = seconds + took, done + rounds
        most = megabytes()  # before the evaluation
        reached = round(score(job, data, outcome), 4)
        answer = {"ms": round(seconds / done * 1e3, 4), "score": reached, "mb": most}
        print(json.dumps(answer), flush=True)


def megabytes() -> int:
    """The most memory that this process has held, since `forget_peak` where that works (Linux)."""
    if STATUS.exists():
        (line,) = (v for v in STATUS.read_text().splitlines() if v.startswith("VmHWM"))
        return round(int(line.split()[1]) * 1024 / 1e6)
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def forget_peak() -> None:
    """Begin to look for the most memory anew."""
    if STATUS.exists():
        STATUS.with_name("clear_refs").write_text("5")


if __name__ == "__main__":
    main(*sys.argv[1:])
