"""The role that a request of MLflow's needs, and which requests are audited."""

from starlette.types import Scope

from mafunzo.entities.user import Role
from mafunzo.entrypoints.http.audit import REFUSED
from mafunzo.entrypoints.mlflow.operation import role_of
from mafunzo.errors import Forbidden

PREFIX = "/mlflow"
SHOWN_CHARACTERS = 200


def needed_by_mlflow(method: str, path: str) -> Role:
    """Return which role a request of MLflow's needs; one that isn't answered here counts as an owner's.

    `path` is percent-decoded, below MLflow's root or with our prefix in front.
    """
    return role_of(method, path.removeprefix(PREFIX).removeprefix("/")) or Role.OWNER


def require_listed(method: str, path: str) -> None:
    """Raise `Forbidden` for a request that isn't answered here; `path` is below MLflow's root."""
    if role_of(method, path) is None:
        raise Forbidden(
            f"{method} {path[:SHOWN_CHARACTERS]} isn't one of MLflow's requests that are answered here. Its jobs, gateway, "
            "assistant and webhooks are off, and a path has no '.', '..', empty or twice-encoded part."
        )


def is_audited(scope: Scope, status: int) -> bool:
    """Return whether a request of MLflow's is written into the audit log."""
    path = str(scope["path"])
    return path.startswith(PREFIX) and (status in REFUSED or needed_by_mlflow(scope["method"], path) is not Role.READER)
