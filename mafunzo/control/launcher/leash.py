"""A leash: what runs in a folder ends when whoever started it is gone, however that went.

`python -m mafunzo.control.launcher.leash` reads one line, what to start (`Leashed`), and goes on reading: the starter holds the
other end of its standard input, which the system closes with it. It is no child of the starter, and doesn't carry the mark of
the step that the starter is of: whatever ends those, a signal to a whole step included, it is there to end the rest.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from mafunzo.control.launcher.local import START_TIMEOUT_S, LocalLauncher, last_lines
from mafunzo.errors import FailedError
from mafunzo.tracking.step_folder import STEP_FOLDER, StepFolder


class Leashed(NamedTuple):
    """What runs on a leash: a command, `processes` times side by side, and how long it may take to end.

    discards: the folder that is deleted when it has ended, if any.
    """

    folder: str
    command: Sequence[str]
    environment: Mapping[str, str]
    processes: int = 1
    grace_s: float = 10.0
    discards: str = ""


def start_on_leash(leashed: Leashed) -> IO[bytes]:
    """Start it; it runs until the stream that is returned is closed, which the end of this process does too.

    Raises `FailedError` where it doesn't start.
    """
    own = {name: value for name, value in os.environ.items() if name != STEP_FOLDER}
    argv = [sys.executable, "-m", "mafunzo.control.launcher.leash"]
    folder = Path(leashed.folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "leash.txt").open("ab") as log:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=log, stderr=log, env=own, start_new_session=True)
    assert process.stdin is not None
    process.stdin.write(json.dumps(leashed).encode() + b"\n")
    process.stdin.flush()
    process.wait()  # for its first process, which leaves the one that stays
    deadline = time.monotonic() + START_TIMEOUT_S
    while not StepFolder(folder).process.exists():
        if time.monotonic() > deadline:
            raise FailedError(f"Nothing starts in {folder}.", last_lines(folder / "leash.txt"))
        time.sleep(0.01)
    return process.stdin


def main() -> int:
    """Start what the first line says, wait for the end of the stream, and end it."""
    if os.fork():
        return 0
    os.setsid()
    line = b""
    while not line.endswith(b"\n"):
        block = os.read(0, 65536)
        if not block:
            return 1
        line += block
    leashed = Leashed(*json.loads(line))
    folder, launcher = Path(leashed.folder), LocalLauncher()
    launcher.start(leashed.command, folder, leashed.environment, leashed.processes)
    while os.read(0, 65536):
        pass
    launcher.kill(folder, leashed.grace_s)
    if leashed.discards:
        shutil.rmtree(leashed.discards, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
