"""A scheduler in its own process, until no job is open: `python -m tests.faults.run_scheduler HOME CPUS DIE_AT`.

With DIE_AT above 0 it kills itself with SIGKILL just before it changes anything in the home, or commits, for the DIE_AT-th time.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from sqlalchemy import event

from mafunzo.entities.job import Resources
from mafunzo.launcher.local import LocalLauncher
from mafunzo.pipelines.scheduler import Scheduler
from mafunzo.store.artifact import Artifacts
from mafunzo.store.database import open_database
from mafunzo.store.home import Home
from mafunzo.store.lease import Leases
from mafunzo.store.record import Records

CHANGES = {"os.rename", "os.link", "os.mkdir", "os.rmdir", "os.remove", "os.symlink", "os.truncate", "subprocess.Popen"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def main(root: Path, cpus: int, die_at: int) -> None:
    home = Home(root)
    with home.lock():
        database = open_database(home)
        if die_at:
            die_before_change(die_at, root, database.engine)
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
        while records.queue():
            time.sleep(0.05)
        stop.set()
        scheduler.wake()
        loop.join()


def die_before_change(number: int, root: Path, engine: Any) -> None:
    left = number

    def count() -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "open":
            path, _, flags = arguments
            if isinstance(path, str) and path.startswith(str(root)) and flags & WRITES:
                count()
        elif name in CHANGES and (name == "subprocess.Popen" or str(arguments[0]).startswith(str(root))):
            count()

    sys.addaudithook(hook)
    event.listen(engine, "commit", lambda _: count())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
