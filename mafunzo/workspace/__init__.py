"""Everything that a user can do, once: the command line, the server and Python scripts all call these verbs."""

from mafunzo.store.audit import AuditLog
from mafunzo.store.blob import Blobs
from mafunzo.store.home import Home
from mafunzo.workspace.workspace import Workspace, restore

__all__ = ["AuditLog", "Blobs", "Home", "Workspace", "restore"]
