"""Set up an environment for each other library, with pinned versions: `make bench-peers`.

peers/NAME.txt says what is installed into .peers/NAME. One that cannot be installed is left out,
and the page says so.
"""

from __future__ import annotations

import subprocess
import sys
import venv

from parts import HERE, PEERS, ROOT, environment


def main() -> None:
    """Set up those that are not there yet."""
    for name in PEERS:
        folder, wanted = ROOT / ".peers" / name, HERE / "peers" / f"{name}.txt"
        ready = folder / "ready"
        if ready.exists() and ready.read_text() == wanted.read_text():
            continue
        print(f"{name} ...", flush=True)
        if not environment(name).exists():
            venv.create(folder, with_pip=True)
        pip = [environment(name), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        if subprocess.run([*pip, "-r", wanted]).returncode:
            print(f"{name} could not be installed and is left out", file=sys.stderr)
            continue
        ready.write_text(wanted.read_text())


if __name__ == "__main__":
    main()
