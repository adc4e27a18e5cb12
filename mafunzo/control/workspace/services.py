"""What the collections of verbs share: the stores of one home, who acts, and the way to a running server.

The leaf of this package: collections take it, and what they need of one another they make from it, so that none of them
knows the `Workspace` that holds them all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.blob import Blobs
from mafunzo.control.store.home import Home
from mafunzo.control.store.records import Records
from mafunzo.entities.server_address import ServerAddress


@dataclass(frozen=True)
class Services:
    """The parts of one home, in the name of one user.

    user: who acts, and whose name what is made carries. home_user: the operating system's user who owns the home.
    cache: where downloads are kept. up: starts the server in the background unless it runs; raises `ServerFailed`.
    input_hosts: those that files of jobs may be fetched from though they are private, or without https.
    price_per_hour: what an hour of the machine costs; None where nobody said. job_webhook: the address that is told when a job
    has ended; empty where there is none.
    """

    home: Home
    records: Records
    artifacts: Artifacts
    blobs: Blobs
    user: str
    home_user: str
    cache: Path
    is_offline: bool
    up: Callable[[], ServerAddress]
    input_hosts: tuple[str, ...] = ()
    price_per_hour: float | None = None
    job_webhook: str = ""
