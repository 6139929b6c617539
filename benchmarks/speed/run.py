"""Time the simulator, store the figures, write the page of the book: `make bench`.

python benchmarks/speed/run.py                        all parts that need no peers
python benchmarks/speed/run.py W1 W2 clients          some; the others keep their stored figures
python benchmarks/speed/run.py W1 --only ours limit   some implementations: figures are shown only
python benchmarks/speed/run.py --page                 nothing; only write the page
"""

from __future__ import annotations

import argparse
import time
from datetime import date

import parts
import report


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description="Time the simulator.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(parts.PARTS)}")
    parser.add_argument("--only", nargs="+", help="implementations to time; nothing is stored then")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-store", action="store_true", help="show the figures, keep none")
    parser.add_argument("--page", action="store_true", help="only write the page")
    asked = parser.parse_args()
    names = [] if asked.page else asked.names or [n for n in parts.PARTS if n != "peers"]
    if unknown := set(names) - set(parts.PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    keep = not (asked.no_store or asked.only)
    for name in names:
        began = time.perf_counter()
        print(f"{name} ...", flush=True)
        results = parts.PARTS[name](asked.repeats, asked.only)
        minutes = round((time.perf_counter() - began) / 60, 1)
        if keep:
            about = {"day": date.today().isoformat(), "minutes": minutes, **parts.surroundings()}
            stored = report.load()
            stored[name] = {**about, "results": results}
            report.store(stored)
        print(f"{name}: {minutes} minutes", flush=True)
    if keep:
        report.PAGE.write_text(report.page(report.load()), encoding="utf-8")
        print(f"written: {report.PAGE.relative_to(report.ROOT)}")


if __name__ == "__main__":
    main()
