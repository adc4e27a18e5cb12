"""Everything that a user can do, once: the command line, the server and Python scripts all call these verbs."""

from mafunzo.control.store.audit import AuditLog
from mafunzo.control.store.blob import Blobs
from mafunzo.control.store.home import Home
from mafunzo.control.workspace.workspace import Workspace, restore

__all__ = ["AuditLog", "Blobs", "Home", "Workspace", "restore"]
