"""Which endpoints a request's key opens: one by its own key, all of them by the home's key for that, or by a user's token."""

import hmac

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from mafunzo.control.workspace.users import TOKEN_PREFIX
from mafunzo.entities.rate_limit import GENERAL, PRIMARY, SECONDARY, USER
from mafunzo.entities.user import Role
from mafunzo.entrypoints.http.access import caller_of, require
from mafunzo.entrypoints.http.auth import bearer
from mafunzo.entrypoints.http.context import context_of
from mafunzo.entrypoints.http.directory import Entry, digest, named

INVOKE = "invoke_endpoints"
"""What asking an endpoint is called where somebody may not; whoever may read its keys may."""


async def opened_endpoints(request: Request) -> list[Entry]:
    """Return what the request's key opens; raises `Unauthorized`, and `Forbidden` for the token of a user who only reads."""
    context, key = context_of(request), bearer(request.headers)
    snapshot = await context.directory.newest()
    if not key.startswith(TOKEN_PREFIX):
        return snapshot.opened_by(key)
    user = await run_in_threadpool(context.users.with_token, key)
    request.state.caller = caller_of(user)
    require(request.state.caller, Role.CONTRIBUTOR, INVOKE)
    request.state.endpoint_user = user.name
    return list(snapshot.entries)


def rate_caller(request: Request, entry: Entry) -> str:
    """Return the caller of an endpoint that its key has opened, as rate limits name it."""
    if user := getattr(request.state, "endpoint_user", ""):
        return f"{USER}{user}"
    key_hash = digest(bearer(request.headers))
    is_primary, is_secondary = (hmac.compare_digest(key_hash, known) for known in entry.keys)
    return PRIMARY if is_primary else SECONDARY if is_secondary else GENERAL


async def opened_endpoint(request: Request, name: str) -> Entry:
    """Return the endpoint called `name`, which the request's key must open; raises as above, or `NotFound`."""
    return named(await opened_endpoints(request), name)
