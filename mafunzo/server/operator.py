"""Who may use the operator's routes, `/mlflow` and `/metrics`, and which of their requests are written down."""

import hmac

from starlette.types import Scope

from mafunzo.entities.user import Role
from mafunzo.server.access import admit, caller_of, needed_by_mlflow
from mafunzo.server.audit import REFUSED
from mafunzo.server.context import Context
from mafunzo.server.identity import MLFLOW_AUDIENCE, Caller
from mafunzo.workspace.user import TOKEN_PREFIX

PATHS = ("/mlflow", "/metrics")


def is_told(scope: Scope, status: int) -> bool:
    """Return whether a request of the http port is written into the audit log: of the operator's routes only."""
    path = str(scope["path"])
    if not path.startswith(PATHS):
        return False
    return status in REFUSED or needed_by_mlflow(scope["method"], path) is not Role.READER


def operator_with(key: str, context: Context) -> Caller:
    """Return who has a key that opens the operator's routes: the operator's own, a user's token, or what was given for it.

    Raises `Unauthorized`.
    """
    if hmac.compare_digest(key.encode(), context.operator_key.encode()):
        return context.identity.owner
    if key.startswith(TOKEN_PREFIX):
        return caller_of(context.users.with_token(key))
    return admit(context.identity.check_token(key, frozenset({MLFLOW_AUDIENCE})), context.users)
