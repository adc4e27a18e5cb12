"""Shared Key authorization, `Authorization: SharedKey <account>:<signature>`: an HMAC of the request by the account's key.

https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key, for Blob Storage, version 2015-02-21 on.
"""

import hmac
import time
from collections.abc import Collection, Mapping
from urllib.parse import unquote

from starlette.requests import Request

from mafunzo.entrypoints.azure.sas import Sas
from mafunzo.entrypoints.azure.wire.blob import moment_of
from mafunzo.errors import Unauthorized

SKEW_S = 15 * 60
SIGNED_HEADERS = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)
_ORDER = "!#$%&*.^_`|~+0123456789abcdefghijklmnopqrstuvwxyz"
"""The order in which Azure sorts headers; hyphens are ignored."""


def check_shared_key(request: Request, sas: Sas, accounts: Collection[str], now: float | None = None) -> None:
    """Raise `Unauthorized` unless a request is signed with the account's key, now."""
    account, _, signature = request.headers["authorization"].removeprefix("SharedKey ").rpartition(":")
    if account not in accounts:
        raise Unauthorized(f"'{account}' isn't the name of this server's storage account.")
    _check_date(request.headers, time.time() if now is None else now)
    path, query = request.scope["raw_path"].decode("ascii"), request.scope["query_string"].decode("latin-1")
    expected = sas.signature(string_to_sign(request.method, path, query, request.headers, account))
    if not hmac.compare_digest(signature.encode(), expected.encode()):
        raise Unauthorized("The request isn't signed with the account's key. Ask the datastore for its secrets again.")


def string_to_sign(method: str, path: str, query: str, headers: Mapping[str, str], account: str) -> str:
    """Return a request's string to sign; `path` and `query` as they were sent."""
    plain = {name: headers.get(name, "") for name in SIGNED_HEADERS}
    if plain["content-length"] == "0":
        plain["content-length"] = ""
    if headers.get("x-ms-date"):
        plain["date"] = ""
    ours = sorted((name for name in set(headers) if name.startswith("x-ms-")), key=_collation)
    lines = [
        method,
        *plain.values(),
        *(f"{name}:{headers[name]}" for name in ours),
        f"/{account}{path}",
        *_query(query),
    ]
    return "\n".join(lines)


def _collation(name: str) -> tuple[list[int], str]:
    return [_ORDER.index(character) for character in name if character in _ORDER], name


def _query(query: str) -> list[str]:
    parameters: dict[str, list[str]] = {}
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        parameters.setdefault(unquote(name).lower(), []).append(unquote(value))
    return [f"{name}:{','.join(sorted(values))}" for name, values in sorted(parameters.items())]


def _check_date(headers: Mapping[str, str], now: float) -> None:
    moment = moment_of(headers, "x-ms-date") or moment_of(headers, "date")
    if moment is None:
        raise Unauthorized("The request is signed without its date: x-ms-date.")
    if abs(now - moment.timestamp()) > SKEW_S:
        raise Unauthorized(
            f"The request's date, {moment}, is more than {SKEW_S // 60} minutes away. Set the clock right."
        )
