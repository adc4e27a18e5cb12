"""Who may do what: what a route may need of whoever calls it, and whether they have it."""

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from starlette.requests import Request

from mafunzo.control.workspace import Workspace
from mafunzo.control.workspace.users import TOKEN_PREFIX, Users
from mafunzo.entities.user import Role, User
from mafunzo.entrypoints.http.context import Context
from mafunzo.entrypoints.http.identity import OPERATOR_AUDIENCE, Attempt, Caller, Identity
from mafunzo.errors import Forbidden, Unauthorized

Ids = Mapping[str, str]
SIGNED_PARTS = 3
"""A signed token has its header, its claims and its signature, with dots between."""
READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""HTTP's methods that change nothing."""


class Need(StrEnum):
    """What a route asks of whoever calls it, where that isn't a role.

    nothing: it tells what everybody may know. proof: it checks by itself what the request brings (a signed address, an
    endpoint's key, the secret that gives a token). maker: a contributor who made the thing, or an owner.
    """

    NOTHING = "nothing"
    PROOF = "proof"
    MAKER = "maker"


@dataclass(frozen=True)
class Rules:
    """What each route of a way in needs, by the name of the route's function; a route that isn't here needs an owner.

    makers: who made what a route is about, for each that needs its maker.
    """

    needs: Mapping[str, Role | Need]
    makers: Mapping[str, Callable[[Workspace, Ids], str]]


IsRunning = Callable[[Attempt], bool]


def _no_step(attempt: Attempt) -> bool:
    """Say of each attempt of a step that it doesn't run."""
    return False


def caller_with(secret: str, identity: Identity, users: Users, is_running: IsRunning = _no_step) -> Caller:
    """Return who has `secret`: the home's own identity header, a user's token, or that of a step which runs.

    Raises `Unauthorized`.
    """
    if identity.is_header(secret):
        return identity.owner
    try:
        if secret.count(".") == SIGNED_PARTS - 1 and not secret.startswith(TOKEN_PREFIX):
            claimed = identity.check_token(secret, frozenset({OPERATOR_AUDIENCE}))
            if claimed.attempt is None:
                raise Unauthorized("The token isn't a step's.")
            return admit(claimed, users, is_running)
        user = users.with_token(secret)
    except Unauthorized as error:
        raise Unauthorized(
            f"X-IDENTITY-HEADER lets nobody in: {error} Take the environment from `mafunzo env`."
        ) from error
    return caller_of(user)


def operator_with(key: str, context: Context) -> Caller:
    """Return the caller of a key for the operator's routes: the operator's own, what the owner's SDK logs in with, a user's
    token, or one issued for a browser or a step.

    Raises `Unauthorized`.
    """
    if hmac.compare_digest(key.encode(), context.operator_key.encode()) or context.identity.is_header(key):
        return context.identity.owner
    if key.startswith(TOKEN_PREFIX):
        return caller_of(context.users.with_token(key))
    claimed = context.identity.check_token(key, frozenset({OPERATOR_AUDIENCE}))
    if claimed.attempt is None:
        return admit(claimed, context.users)
    return admit(claimed, context.users, context.is_running)


def admit(claimed: Caller, users: Users, is_running: IsRunning = _no_step) -> Caller:
    """Return a caller as they are now.

    Raises `Unauthorized` when their token was replaced or revoked since they got it, and for a step that has ended.
    """
    if claimed.attempt is not None and not is_running(claimed.attempt):
        raise Unauthorized(
            f"The token was for an attempt of a step, {claimed.attempt.token_id}, which doesn't run any more."
        )
    if not claimed.token_id or claimed.attempt is not None:
        return claimed
    return caller_of(users.with_token_id(claimed.user, claimed.token_id))


def authorize(caller: Caller, request: Request, workspace: Workspace, rules: Rules) -> None:
    """Raise `Forbidden` unless the caller is authorized for the request, `NotFound` where its object doesn't exist."""
    name, ids = str(request.scope["route"].name), request.path_params
    need = rules.needs.get(name, Role.OWNER)
    if need is Need.MAKER:
        require(caller, Role.CONTRIBUTOR, name)
        if caller.role is not Role.OWNER and (maker := rules.makers[name](workspace, ids)) != caller.user:
            maker_name = maker or "nobody known"
            raise Forbidden(f"{_may_not(caller, name)}: it was made by {maker_name}, and needs them or an owner.")
    elif isinstance(need, Role):
        require(caller, need, name)


def require(caller: Caller, needed: Role, name: str) -> None:
    """Raise `Forbidden` unless the caller's role includes `needed`; `name` is the route's."""
    if not caller.role.includes(needed):
        raise Forbidden(f"{_may_not(caller, name)}: it needs the role {needed}.")


def caller_of(user: User) -> Caller:
    """Return the caller that a user is."""
    return Caller(user.name, user.role, user.token_id)


def _may_not(caller: Caller, name: str) -> str:
    return f"User {caller.user}, whose role is {caller.role}, may not {name.replace('_', ' ')}"
