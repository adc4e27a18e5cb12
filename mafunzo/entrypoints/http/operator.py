"""Access to the operator's routes, such as `/metrics`, and which of their requests are audited."""

import hmac

from starlette.types import Scope

from mafunzo.control.workspace.users import TOKEN_PREFIX
from mafunzo.entrypoints.http.access import admit, caller_of
from mafunzo.entrypoints.http.audit import REFUSED
from mafunzo.entrypoints.http.context import Context
from mafunzo.entrypoints.http.identity import OPERATOR_AUDIENCE, Caller

METRICS = "/metrics"


def is_audited(scope: Scope, status: int) -> bool:
    """Return whether a request for the metrics is written into the audit log: a refused one."""
    return str(scope["path"]).startswith(METRICS) and status in REFUSED


def operator_with(key: str, context: Context) -> Caller:
    """Return the caller of a key for the operator's routes: the operator's own, a user's token, or a token issued for it.

    Raises `Unauthorized`.
    """
    if hmac.compare_digest(key.encode(), context.operator_key.encode()):
        return context.identity.owner
    if key.startswith(TOKEN_PREFIX):
        return caller_of(context.users.with_token(key))
    return admit(context.identity.check_token(key, frozenset({OPERATOR_AUDIENCE})), context.users)
