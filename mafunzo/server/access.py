"""Who may do what over Azure's wire: what each route needs, and which role has it."""

from collections.abc import Callable, Mapping
from enum import StrEnum

from starlette.requests import Request
from starlette.types import Scope

from mafunzo.entities.user import Role, User
from mafunzo.errors import Forbidden, Unauthorized
from mafunzo.server.audit import REFUSED, route_name
from mafunzo.server.identity import Caller, Identity
from mafunzo.workspace import Workspace
from mafunzo.workspace.user import Users

Ids = Mapping[str, str]


class Need(StrEnum):
    """What a route asks of whoever calls it, where that isn't a role.

    nothing: it tells what everybody may know. proof: it checks by itself what the request brings (a signed address, an
    endpoint's key, the secret that gives a token). maker: a contributor who made the thing, or an owner.
    """

    NOTHING = "nothing"
    PROOF = "proof"
    MAKER = "maker"


ASSETS = ("models", "data", "components", "environments", "codes")
SHELVED = ("models", "data", "components", "environments")

NEEDS: Mapping[str, Role | Need] = {
    "cloud_metadata": Need.NOTHING,
    "discover_registry": Need.NOTHING,
    "discover_services": Need.NOTHING,
    "tell_where_to_look": Need.NOTHING,
    "managed_identity": Need.PROOF,
    "get_log": Need.PROOF,
    "list_containers": Need.PROOF,
    "create_container": Need.PROOF,
    "get_container": Need.PROOF,
    "delete_container": Need.PROOF,
    "read_blob": Need.PROOF,
    "write_blob": Need.PROOF,
    "delete_blob": Need.PROOF,
    "score": Need.PROOF,
    "get_workspace": Role.READER,
    "list_workspaces": Role.READER,
    "list_computes": Role.READER,
    "get_compute": Role.READER,
    "put_compute": Role.CONTRIBUTOR,
    "patch_compute": Role.CONTRIBUTOR,
    "delete_compute": Need.MAKER,
    "list_sizes": Role.READER,
    "list_nodes": Role.READER,
    "list_usages": Role.READER,
    "list_registries": Role.READER,
    "get_registry": Role.READER,
    "fetch_registry_model": Role.CONTRIBUTOR,
    "share_asset": Role.CONTRIBUTOR,
    **{f"list_registry_{noun}": Role.READER for noun in SHELVED},
    **{f"get_registry_{noun}_container": Role.READER for noun in SHELVED},
    **{f"list_registry_{noun}_versions": Role.READER for noun in SHELVED},
    **{f"get_registry_{noun}_version": Role.READER for noun in SHELVED},
    **{f"put_registry_{noun}_container": Role.CONTRIBUTOR for noun in SHELVED},
    **{f"put_registry_{noun}_version": Role.CONTRIBUTOR for noun in SHELVED},
    **{f"list_{noun}": Role.READER for noun in ASSETS},
    **{f"get_{noun}_container": Role.READER for noun in ASSETS},
    **{f"put_{noun}_container": Role.CONTRIBUTOR for noun in ASSETS},
    **{f"list_{noun}_versions": Role.READER for noun in ASSETS},
    **{f"get_{noun}_version": Role.READER for noun in ASSETS},
    **{f"put_{noun}_version": Role.CONTRIBUTOR for noun in ASSETS},
    "start_upload": Role.CONTRIBUTOR,
    "list_jobs": Role.READER,
    "get_job": Role.READER,
    "put_job": Role.CONTRIBUTOR,
    "cancel_job": Need.MAKER,
    "delete_job": Need.MAKER,
    "get_run": Role.READER,
    "patch_run": Role.CONTRIBUTOR,
    "list_children": Role.READER,
    "list_services": Role.READER,
    "get_run_details": Role.READER,
    "get_run_data": Role.READER,
    "resolve_outputs": Role.READER,
    "list_datastores": Role.READER,
    "get_datastore": Role.READER,
    "list_secrets": Role.READER,
    "list_endpoints": Role.READER,
    "get_endpoint": Role.READER,
    "put_endpoint": Role.CONTRIBUTOR,
    "delete_endpoint": Need.MAKER,
    "list_keys": Role.CONTRIBUTOR,
    "regenerate_keys": Role.OWNER,
    "list_deployments": Role.READER,
    "get_deployment": Role.READER,
    "put_deployment": Role.CONTRIBUTOR,
    "delete_deployment": Need.MAKER,
    "get_deployment_logs": Role.READER,
    "get_operation": Role.READER,
    "mlflow": Role.READER,
    "unknown": Role.READER,
}
"""By the name of the route's function. What isn't here needs an owner, and a test says that it is missing. MLflow asks for
more itself where something changes."""

MAKERS: Mapping[str, Callable[[Workspace, Ids], str]] = {
    "delete_compute": lambda workspace, ids: workspace.computes.find(ids["name"]).created_by,
    "cancel_job": lambda workspace, ids: workspace.records.jobs.get(ids["name"]).created_by,
    "delete_job": lambda workspace, ids: workspace.records.jobs.get(ids["name"]).created_by,
    "delete_endpoint": lambda workspace, ids: workspace.records.endpoints.get(ids["name"]).created_by,
    "delete_deployment": lambda workspace, ids: (
        workspace.records.deployments.get(ids["endpoint"], ids["name"]).created_by
    ),
}
"""Who made what a route is about, for each that needs its maker."""

SIGNED_FOR: Mapping[Role, str] = {Role.READER: "rl", Role.CONTRIBUTOR: "rcwl", Role.OWNER: "rcwdl"}
"""What a signature of each role may open blobs for, in Azure's letters: read, create, write, delete, list."""

SECRETS = frozenset({"managed_identity", "list_keys", "list_secrets"})
"""Routes whose answer is a secret."""

MARKS = ("registered-models/delete-tag", "registered-models/alias", "model-versions/delete-tag")
"""What MLflow asks to DELETE without anything but a mark being lost."""

READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""HTTP's methods that change nothing."""
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


def is_told(scope: Scope, status: int) -> bool:
    """Return whether a request of the https port is written into the audit log."""
    name = route_name(scope)
    if status in REFUSED or name in SECRETS:
        return True
    if name == "mlflow":
        return needed_by_mlflow(scope["method"], scope["path"]) is not Role.READER
    return scope["method"] not in READING and NEEDS.get(name) is not Role.READER


def caller_with(secret: str, identity: Identity, users: Users) -> Caller:
    """Return who has `secret`: the home's own identity header, or a user's token. Raises `Unauthorized`."""
    if identity.is_header(secret):
        return identity.owner
    try:
        user = users.with_token(secret)
    except Unauthorized as error:
        raise Unauthorized(
            f"X-IDENTITY-HEADER lets nobody in: {error} Take the environment from `mafunzo env`."
        ) from error
    return caller_of(user)


def admit(claimed: Caller, users: Users) -> Caller:
    """Return a caller as they are now; raises `Unauthorized` when their token was replaced or revoked since they got it."""
    if not claimed.token_id:
        return claimed
    return caller_of(users.with_token_id(claimed.user, claimed.token_id))


def authorize(caller: Caller, request: Request, workspace: Workspace) -> None:
    """Raise `Forbidden` unless the caller may do what the request asks, `NotFound` where that is about nothing."""
    name, ids = str(request.scope["route"].name), request.path_params
    need = NEEDS.get(name, Role.OWNER)
    if need is Need.MAKER:
        require(caller, Role.CONTRIBUTOR, name)
        if caller.role is not Role.OWNER and (maker := MAKERS[name](workspace, ids)) != caller.user:
            made_by = maker or "nobody known"
            raise Forbidden(f"{_may_not(caller, name)}: it was made by {made_by}, and needs them or an owner.")
    elif isinstance(need, Role):
        require(caller, need, name)


def require(caller: Caller, needed: Role, name: str) -> None:
    """Raise `Forbidden` unless the caller's role includes `needed`; `name` is the route's."""
    if not caller.role.includes(needed):
        raise Forbidden(f"{_may_not(caller, name)}: it needs the role {needed}.")


def caller_of(user: User) -> Caller:
    """Return a user as one who asks."""
    return Caller(user.name, user.role, user.token_id)


def _may_not(caller: Caller, name: str) -> str:
    return f"User {caller.user}, whose role is {caller.role}, may not {name.replace('_', ' ')}"
