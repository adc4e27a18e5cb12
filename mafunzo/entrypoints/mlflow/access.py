"""The role that a request of MLflow's needs, and which requests are audited."""

from starlette.types import Scope

from mafunzo.entities.user import Role
from mafunzo.entrypoints.http.access import READING
from mafunzo.entrypoints.http.audit import REFUSED

PREFIX = "/mlflow"
MARKS = ("registered-models/delete-tag", "registered-models/alias", "model-versions/delete-tag")
"""What MLflow asks to DELETE without anything but a mark being lost."""

READ_BY_POST = frozenset({"graphql", "get-latest-versions"})
"""What MLflow only looks up by POST, besides its searches."""


def needed_by_mlflow(method: str, path: str) -> Role:
    """Return which role a request of MLflow's needs. It looks things up by POST too, and takes marks off by DELETE."""
    last = path.rpartition("/")[2]
    if method in READING or (method == "POST" and (last.startswith("search") or last in READ_BY_POST)):
        return Role.READER
    if last == "delete" or (method == "DELETE" and not path.endswith(MARKS)):
        return Role.OWNER
    return Role.CONTRIBUTOR


def is_audited(scope: Scope, status: int) -> bool:
    """Return whether a request of MLflow's is written into the audit log."""
    path = str(scope["path"])
    return path.startswith(PREFIX) and (status in REFUSED or needed_by_mlflow(scope["method"], path) is not Role.READER)
