"""How a home stands: its server, its queue, its disk."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from mafunzo.control.launcher.server_process import find_server
from mafunzo.control.store.space import Space
from mafunzo.control.store.usage import UsageKind, usage
from mafunzo.control.workspace.services import Services
from mafunzo.entities.server_address import ServerAddress


@dataclass(frozen=True)
class HomeStatus:
    """How a home stands.

    server: None where none runs. jobs: those that haven't ended by their status. free_bytes: on the home's disk. sizes: bytes
    on the disk by kind; caches and temporary files may lie on another one.
    """

    home: str
    server: ServerAddress | None = None
    jobs: Mapping[str, int] = field(default_factory=dict)
    free_bytes: int = 0
    sizes: Mapping[UsageKind, int] = field(default_factory=dict)


def status(services: Services) -> HomeStatus:
    """Look how a home stands. No file is read, so that a big one takes seconds."""
    home = services.home
    jobs = Counter(str(job.status) for job in services.records.jobs.queue())
    return HomeStatus(
        str(home.root), find_server(home), dict(jobs), Space(home).free_bytes(), usage(home, services.cache)
    )
