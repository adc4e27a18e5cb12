"""How fast a command answers: `mafunzo --help` and `import mafunzo` against the libraries that a command line needs anyway.

    python benchmarks/bench_start.py [--rounds 10]

Each run is a process of its own; a round measures all of them, one after the other, and the result is the median of the
rounds and of their ratios. `typer, rich` is Python with those two imported, `python` is Python that does nothing. One round
goes before and isn't counted: it reads the files from the disk and writes their bytecode.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from record import machine, medians, write

COMMANDS = {
    "mafunzo --help": [str(Path(sys.executable).parent / "mafunzo"), "--help"],
    "import mafunzo": [sys.executable, "-c", "import mafunzo"],
    "typer, rich": [sys.executable, "-c", "import typer, rich"],
    "python": [sys.executable, "-c", "pass"],
}
PEERS = {"mafunzo --help": "typer, rich", "import mafunzo": "python"}


def main() -> None:
    """Measure, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    facts = machine()
    measure()
    rounds = [measure() for _ in range(arguments.rounds)]
    body: dict[str, dict[str, float]] = {name: medians([{"seconds": one[name]} for one in rounds]) for name in COMMANDS}
    for name, peer in PEERS.items():
        body[f"{name} / {peer}"] = medians([{"time": one[name] / one[peer]} for one in rounds])
    write("start", body | facts | {"rounds": arguments.rounds})


def measure() -> dict[str, float]:
    """Return one round: a name to the seconds from its start to its end."""
    return {name: seconds(command) for name, command in COMMANDS.items()}


def seconds(command: list[str]) -> float:
    """Run a command; return how long it took."""
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
