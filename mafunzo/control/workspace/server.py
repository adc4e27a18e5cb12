"""What a server does on one home besides answering: it runs the two loops, and can be found."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from mafunzo.control.launcher.hardware import capacity, hardware
from mafunzo.control.launcher.local import LocalLauncher
from mafunzo.control.launcher.runner import process_identity
from mafunzo.control.launcher.server_process import address_file, write_address
from mafunzo.control.pipelines.performer import UserVariables
from mafunzo.control.pipelines.scheduler import Scheduler
from mafunzo.control.serving.load import Loads
from mafunzo.control.serving.memory import MAX_BATCH
from mafunzo.control.serving.supervisor import Supervisor
from mafunzo.control.store.lease import Leases
from mafunzo.control.store.outbox import Outbox
from mafunzo.control.store.space import Space
from mafunzo.control.workspace.webhook import Webhook
from mafunzo.control.workspace.workspace import Workspace
from mafunzo.entities.server_address import ServerAddress


def loops_of(
    workspace: Workspace,
    user_variables: UserVariables,
    worker: Sequence[str],
    loads: Loads | None = None,
    requests_at_once: int = MAX_BATCH,
) -> tuple[Scheduler, Supervisor]:
    """Return the loops over a home, which start steps and workers on this machine.

    worker: the command of a worker, which answers so many requests at once. loads: what the router counts.
    """
    workspace.records.deployments.remember_all()
    room, leases = capacity(hardware()), Leases(workspace.database)
    stores = (workspace.records, workspace.artifacts, leases)
    outbox = Outbox(workspace.home) if workspace.services.job_webhook else None
    scheduler = Scheduler(*stores, LocalLauncher(), workspace.home, room, user_variables=user_variables, outbox=outbox)
    supervisor = Supervisor(
        *stores,
        LocalLauncher(),
        workspace.home,
        room,
        worker=worker,
        loads=loads or Loads(),
        requests_at_once=requests_at_once,
    )
    return scheduler, supervisor


def webhook_of(workspace: Workspace, links: Callable[[str], Mapping[str, str]]) -> Webhook | None:
    """Return what tells the operator's address that jobs have ended; None without one. Raises `InvalidParameter` for it.

    links: what a reader may open, for a job's name.
    """
    url = workspace.services.job_webhook
    return Webhook(workspace.services, url, links) if url else None


def require_space(workspace: Workspace) -> None:
    """Raise `StorageFull`, which says what holds the space, where too little is left for a server to work."""
    Space(workspace.home).require()


@contextmanager
def announced(workspace: Workspace, address: ServerAddress) -> Iterator[None]:
    """Let other processes find the server of the home at `address`, until this ends."""
    write_address(workspace.home, replace(address, identity=process_identity(address.pid)))
    try:
        yield
    finally:
        address_file(workspace.home).unlink(missing_ok=True)
