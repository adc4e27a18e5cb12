"""Authorization of blob requests: by the account's key (SharedKey), a shared access signature (SAS), or a token."""

from starlette.requests import Request

from mafunzo.entities.user import Role
from mafunzo.entrypoints.azure.access import SIGNED_FOR
from mafunzo.entrypoints.azure.blob.shared_key import check_shared_key
from mafunzo.entrypoints.azure.context import azure_context, identify, whoever_signed
from mafunzo.entrypoints.azure.sas import ACCOUNT, CREATE, DELETE, LIST, READ, WRITE, Sas
from mafunzo.entrypoints.azure.wire.blob import BlobRefused
from mafunzo.entrypoints.azure.wire.envelope import SUFFIX
from mafunzo.errors import Unauthorized

MANAGE = "*"
"""The permission that only an owner's account key has: to create, show and delete containers."""

EVERYTHING = READ + WRITE + CREATE + LIST + DELETE + MANAGE


def permissions(request: Request, container: str = "", blob: str = "") -> str:
    """Return a request's permissions on a container, or on a blob in it. Raises `Unauthorized`."""
    if _scheme(request) == "Bearer":
        identify(request)
        allowed = EVERYTHING
    else:
        allowed = whoever_signed(request, lambda sas: _signed_for(request, sas, container, blob))
    role = azure_context(request).caller.role
    return allowed if role is Role.OWNER else "".join(letter for letter in allowed if letter in SIGNED_FOR[role])


def _signed_for(request: Request, sas: Sas, container: str, blob: str) -> str:
    accounts = _accounts(request)
    scheme = _scheme(request)
    if scheme == "SharedKey":
        check_shared_key(request, sas, accounts)
        return EVERYTHING
    if scheme:
        raise Unauthorized(
            f"'Authorization: {scheme}' doesn't open blobs. A token, the account's key (SharedKey) or a SAS does."
        )
    if "sig" not in request.query_params:
        raise Unauthorized("The request is signed neither with the account's key nor by its address (SAS).")
    return sas.permissions(request.query_params, container, blob, accounts)


def _scheme(request: Request) -> str:
    return request.headers.get("authorization", "").partition(" ")[0]


def require(request: Request, permission: str, container: str = "", blob: str = "") -> None:
    """Raise `Unauthorized` or `BlobRefused` unless a request has `permission`."""
    refuse_without(permission, permissions(request, container, blob))


def refuse_without(permission: str, allowed: str) -> None:
    """Raise `BlobRefused` unless `permission` is among those that are allowed."""
    if permission not in allowed:
        reason = (
            "only the account's key of an owner allows this"
            if permission == MANAGE
            else f"it allows '{allowed}', not '{permission}'"
        )
        raise BlobRefused(f"The signature isn't enough: {reason}.", reason="AuthorizationPermissionMismatch")


def _accounts(request: Request) -> tuple[str, ...]:
    """Return the names under which clients know the account: its own, the SDK's, and the one in the client's address."""
    return ACCOUNT, f"{request.headers.get('host', '')}/{ACCOUNT}", f"{ACCOUNT}.blob.{SUFFIX}"
