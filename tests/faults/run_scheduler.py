"""A scheduler in its own process, until no job is open: `python -m tests.faults.run_scheduler HOME CPUS DIE_AT DELAY_MS`.

It counts its changes: each time that it is about to change something in the home, to start a process, or to commit. With DIE_AT above 0 it
kills itself with SIGKILL at that change, or DELAY_MS later. At the end it prints how many changes it made.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from sqlalchemy import event

from mafunzo.control.launcher.local import LocalLauncher
from mafunzo.control.pipelines.scheduler import Scheduler
from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.home import Home
from mafunzo.control.store.lease import Leases
from mafunzo.control.store.migrations import open_database
from mafunzo.control.store.records import Records
from mafunzo.entities.job import Resources

CHANGES = {"os.rename", "os.link", "os.mkdir", "os.rmdir", "os.remove", "os.symlink", "os.truncate", "subprocess.Popen"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def main(root: Path, cpus: int, die_at: int, delay_ms: float) -> None:
    home = Home(root)
    with home.lock():
        database = open_database(home)
        changes = Changes(root, die_at, delay_ms)
        sys.addaudithook(changes.hook)
        event.listen(database.engine, "commit", lambda _: changes.count())
        records = Records(database)
        scheduler = Scheduler(
            records,
            Artifacts(home.artifacts),
            Leases(database),
            LocalLauncher(),
            home,
            Resources(cpus=cpus, memory_mb=8000),
            grace_s=1.0,
            versions=lambda: {"python": "3"},
        )
        stop = threading.Event()
        loop = threading.Thread(target=scheduler.run, args=(stop,))
        loop.start()
        while records.jobs.queue():
            time.sleep(0.05)
        stop.set()
        scheduler.wake()
        loop.join()
        print(changes.made)


class Changes:
    """Counts, and dies at one of them."""

    def __init__(self, root: Path, die_at: int, delay_ms: float) -> None:
        self.made = 0
        self._root, self._die_at, self._delay_ms = str(root), die_at, delay_ms

    def count(self) -> None:
        self.made += 1
        if self.made == self._die_at:
            if self._delay_ms:
                threading.Timer(self._delay_ms / 1000, os.kill, (os.getpid(), signal.SIGKILL)).start()
            else:
                os.kill(os.getpid(), signal.SIGKILL)

    def hook(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "open":
            path, _, flags = arguments
            if isinstance(path, str) and path.startswith(self._root) and flags & WRITES:
                self.count()
        elif name == "subprocess.Popen" or (name in CHANGES and self._is_inside(str(arguments[0]))):
            self.count()

    def _is_inside(self, path: str) -> bool:
        return path.startswith(self._root) or not path.startswith(
            "/"
        )  # relative to an open folder, as shutil.rmtree does


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
